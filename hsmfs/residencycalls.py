"""hsmd's calls, turned into calls of the engine, and the engine's answers."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Final

from hsmfs import logs
from hsmfs.errors import FsError, Kind
from hsmfs.metrics import FsMetrics
from hsmfs.namespace.engine import Engine
from hsmfs.rpc.messages import (
    PROTOCOL_VERSION,
    Answer,
    Call,
    Claim,
    Copied,
    Done,
    Event,
    Failed,
    FileResult,
    FileResults,
    Hello,
    ImportAdd,
    ImportBegin,
    ImportEnd,
    ImportForget,
    Landed,
    Pin,
    RecallBegin,
    Recalled,
    RecallNote,
    Refused,
    Release,
    Status,
    Sync,
    Unclaim,
)
from hsmfs.session.interface import Session
from hsmfs.wormcalls import worm_methods

log = logs.get(__name__)


class ResidencyCalls:
    """Answers the calls of a connected hsmd."""

    def __init__(
        self,
        engine: Engine,
        session: Session,
        metrics: FsMetrics,
    ) -> None:
        self.engine = engine
        self.session = session
        self.metrics = metrics
        engine.imports.name_changed = session.name_changed
        engine.imports.names_made = session.names_made
        self._methods: Final[dict[type, Callable[[Any], Any]]] = {
            Claim: lambda call: engine.claim(call.files),
            Unclaim: lambda call: engine.unclaim(call.files),
            Copied: lambda call: engine.copied(call.files),
            Release: lambda call: engine.release_data(call.files, call.head_bytes),
            RecallBegin: lambda call: engine.recall_begin(call.file),
            Landed: lambda call: engine.landed(call.file, call.range),
            Recalled: lambda call: engine.recalled(call.file),
            Failed: lambda call: engine.failed(call.file, call.errno, call.why),
            RecallNote: lambda call: engine.recall_note(call.file, call.text),
            Pin: lambda call: engine.pin(call.inodes, call.pinned),
            Sync: lambda call: engine.syncfs(),
            ImportBegin: lambda call: engine.imports.begin(call),
            ImportAdd: lambda call: engine.imports.add(call),
            ImportEnd: lambda call: engine.imports.end(call.label),
            ImportForget: lambda call: engine.imports.forget(call.label),
            Status: lambda call: engine.status(),
            Hello: self._hello,
            **worm_methods(engine, session),
        }

    async def answer(self, call: Call) -> Answer:
        """The answer to one call; errors become ``Refused``."""
        self.metrics.rpc_calls.labels(type(call).__name__).inc()
        try:
            method = self._methods[type(call)]
            value: Any = await self.session.call(lambda: method(call))
        except FsError as error:
            return Refused(error.errno, error.why)
        except Exception as error:
            self.metrics.errors.labels(Kind.BUG.value).inc()
            log.exception("bug: a call by hsmd failed", call=type(call).__name__)
            return Refused(errno.EIO, f"{type(error).__name__} in hsmfs; see its log")
        self._tell_kernel(call)
        return _as_answer(value)

    async def waiting_recalls(self) -> Sequence[Event]:
        """What a newly connected hsmd has to be told."""
        return await self.session.call(self.engine.pending_wanted)

    def _hello(self, call: Hello) -> None:
        if call.protocol != PROTOCOL_VERSION:
            raise FsError(
                errno.EPROTO,
                f"hsmd speaks protocol {call.protocol}, hsmfs {PROTOCOL_VERSION}: "
                "run both from one installation",
            )
        self.engine.hold_only(call.claims)

    def _tell_kernel(self, call: Call) -> None:
        """Residency changes the space that files take, which the kernel caches."""
        if isinstance(call, Release):
            for file in call.files:
                self.session.attributes_changed(file.ino)
        elif isinstance(call, Recalled):
            self.session.attributes_changed(call.file.ino)


def _as_answer(value: Any) -> Answer:
    if value is None:
        return Done()
    if isinstance(value, list) and all(isinstance(item, FileResult) for item in value):
        return FileResults(value)
    answer: Answer = value
    return answer
