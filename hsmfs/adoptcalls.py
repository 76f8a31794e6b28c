"""Calls of ``hsm adopt``: one connection at a time."""

from __future__ import annotations

import errno
from typing import Any

from hsmfs import logs
from hsmfs.deferred import Executor
from hsmfs.errors import FsError, Kind
from hsmfs.metrics import FsMetrics
from hsmfs.namespace.adoption import Adoption, methods
from hsmfs.namespace.engine import Engine
from hsmfs.rpc.adoptmessages import AdoptBegin, AdoptCall, AdoptEnd
from hsmfs.rpc.messages import Answer, Done, Refused
from hsmfs.rpc.server import Connection
from hsmfs.session.interface import Session

log = logs.get(__name__)


class AdoptCalls:
    """Answers whoever adopts; ends the adoption when its connection ends."""

    def __init__(self, engine: Engine, session: Session, metrics: FsMetrics) -> None:
        self.session = session
        self.metrics = metrics
        self._adoption = Adoption(engine, session.names_made)
        self._methods = methods(self._adoption)
        self._executor: Executor = engine.removal.executor
        self._adopter: Connection | None = None

    async def answer(self, call: AdoptCall, connection: Connection) -> Answer:
        """The answer to one call; errors become ``Refused``."""
        self.metrics.rpc_calls.labels(type(call).__name__).inc()
        if self._adopter not in (None, connection):
            return Refused(errno.EBUSY, "another hsm adopt is at work; wait until it has ended")
        if isinstance(call, AdoptBegin):
            self._adopter = connection
        try:
            value: Any = await self.session.call(lambda: self._methods[type(call)](call))
        except FsError as error:
            return Refused(error.errno, error.why)
        except Exception as error:
            self.metrics.errors.labels(Kind.BUG.value).inc()
            log.exception("bug: a call by hsm adopt failed", call=type(call).__name__)
            return Refused(errno.EIO, f"{type(error).__name__} in hsmfs; see its log")
        if isinstance(call, AdoptEnd):
            self._adopter = None
        answer: Answer = Done() if value is None else value
        return answer

    def gone(self, connection: Connection) -> None:
        """A connection ended."""
        if connection is self._adopter:
            self._adopter = None
            self._executor.run_soon(self._adoption.abandon)
