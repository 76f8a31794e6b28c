"""The line to hsmfs: calls, events, and what happens when it breaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import structlog
import trio

from hsmfs.errors import FsError, TransientError
from hsmfs.rpc.client import RpcClient
from hsmfs.rpc.messages import (
    BATCH_FILES_MAX,
    PROTOCOL_VERSION,
    Answer,
    Call,
    Claim,
    Copied,
    CopiedFile,
    Event,
    Failed,
    FileResult,
    FileResults,
    Hello,
    ImportAdd,
    ImportBegin,
    ImportEnd,
    ImportEntry,
    ImportForget,
    ImportLeft,
    ImportRoot,
    Landed,
    Pin,
    RecallBegin,
    Recalled,
    RecallFile,
    RecallNote,
    Refused,
    Release,
    Status,
    StatusReply,
    Sync,
    Unclaim,
)
from hsmfs.types import ByteRange, FileVersion

log = structlog.get_logger(__name__)
RECONNECT_S: Final = 0.3
CALL_TIMEOUT_S: Final = 120.0
T = TypeVar("T")


def _batches(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[i : i + BATCH_FILES_MAX] for i in range(0, len(items), BATCH_FILES_MAX)]


class FsLink:
    """Keeps a connection to hsmfs; all calls raise TransientError while it is down."""

    def __init__(
        self,
        socket: Path,
        claims: Callable[[], list[FileVersion]],
        on_event: Callable[[Event], Awaitable[None]],
        on_connect: Callable[[], Awaitable[None]],
        on_reset: Callable[[], None],
    ) -> None:
        self._socket = socket
        self._claims = claims
        self._on_event = on_event
        self._on_connect = on_connect
        self._on_reset = on_reset
        self._client: RpcClient | None = None
        self._up = trio.Event()

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def wait_connected(self) -> None:
        """Return when a connection stands."""
        await self._up.wait()

    async def serve(self) -> None:
        """Connect, and connect again, until cancelled."""
        said_down = False
        while True:
            try:
                await self._serve_once()
            except (OSError, TransientError) as error:
                if not said_down:
                    log.warning("no connection to hsmfs", socket=str(self._socket), why=str(error))
                said_down = True
            else:
                said_down = False
            await trio.sleep(RECONNECT_S)

    async def _serve_once(self) -> None:
        async with RpcClient.connect(self._socket) as client:
            self._on_reset()
            await client.call(Hello(PROTOCOL_VERSION, self._claims()), CALL_TIMEOUT_S)
            self._client = client
            self._up.set()
            log.info("connected to hsmfs")
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._on_connect)
                    async for event in client.events:
                        await self._on_event(event)
                    nursery.cancel_scope.cancel()
            finally:
                self._client = None
                self._up = trio.Event()

    async def call(self, call: Call) -> Answer:
        """One call; FsError if hsmfs refuses it as a whole."""
        if self._client is None:
            raise TransientError("hsmfs is not connected; is it running?")
        answer = await self._client.call(call, CALL_TIMEOUT_S)
        if isinstance(answer, Refused):
            raise FsError(answer.errno, answer.why)
        return answer

    async def _files(self, calls: Sequence[Call]) -> list[FileResult]:
        results: list[FileResult] = []
        for call in calls:
            answer = await self.call(call)
            assert isinstance(answer, FileResults)
            results += answer.results
        return results

    async def claim(self, files: Sequence[FileVersion]) -> list[FileResult]:
        return await self._files([Claim(list(batch)) for batch in _batches(files)])

    async def unclaim(self, files: Sequence[FileVersion]) -> None:
        for batch in _batches(files):
            await self.call(Unclaim(list(batch)))

    async def copied(self, files: Sequence[CopiedFile]) -> list[FileResult]:
        return await self._files([Copied(list(batch)) for batch in _batches(files)])

    async def release(self, files: Sequence[FileVersion], head_bytes: int) -> list[FileResult]:
        return await self._files([Release(list(batch), head_bytes) for batch in _batches(files)])

    async def recall_begin(self, file: FileVersion) -> RecallFile:
        answer = await self.call(RecallBegin(file))
        assert isinstance(answer, RecallFile)
        return answer

    async def landed(self, file: FileVersion, landed: ByteRange) -> None:
        await self.call(Landed(file, landed))

    async def recalled(self, file: FileVersion) -> None:
        await self.call(Recalled(file))

    async def failed(self, file: FileVersion, errno: int, why: str) -> None:
        await self.call(Failed(file, errno, why))

    async def note(self, file: FileVersion, text: str) -> None:
        await self.call(RecallNote(file, text))

    async def pin(self, inodes: list[int], pinned: bool) -> None:
        await self.call(Pin(inodes, pinned))

    async def sync(self) -> None:
        """Make all changes visible to readers of the namespace store."""
        await self.call(Sync())

    async def import_begin(self, label: str, path: bytes, again: bool = False) -> bool:
        """Whether the import came to its end already."""
        answer = await self.call(ImportBegin(label, path, again))
        assert isinstance(answer, ImportRoot)
        return answer.done

    async def import_add(self, label: str, entries: list[ImportEntry]) -> list[FileResult]:
        return await self._files([ImportAdd(label, entries)])

    async def import_end(self, label: str) -> None:
        await self.call(ImportEnd(label))

    async def import_forget(self, label: str) -> bool:
        """Whether more is left to be removed."""
        answer = await self.call(ImportForget(label))
        assert isinstance(answer, ImportLeft)
        return answer.more

    async def status(self) -> StatusReply:
        answer = await self.call(Status())
        assert isinstance(answer, StatusReply)
        return answer
