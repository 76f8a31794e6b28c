"""hsmd's end of the line: many calls in flight, events on a channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
import trio

from hsmfs.errors import TransientError
from hsmfs.rpc.frames import FrameError, FrameStream
from hsmfs.rpc.messages import Answer, Call, Event, Notice, Reply, Request

log = structlog.get_logger(__name__)
EVENTS_MAX: Final = 10_000
CALLS_IN_FLIGHT_MAX: Final = 10_000


class _Pending:
    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Answer | None = None


class RpcClient:
    """One connection; made by ``connect``."""

    def __init__(self, frames: FrameStream) -> None:
        self._frames = frames
        self._pending: dict[int, _Pending] = {}
        self._next = 1
        self._lost = False
        self._send_event, self.events = trio.open_memory_channel[Event](EVENTS_MAX)

    @classmethod
    @asynccontextmanager
    async def connect(cls, path: Path) -> AsyncIterator[RpcClient]:
        """A live connection inside the block; OSError if nobody listens."""
        stream = trio.SocketStream(trio.socket.socket(trio.socket.AF_UNIX))
        try:
            await stream.socket.connect(str(path))
        except OSError:
            await stream.aclose()
            raise
        client = cls(FrameStream(stream))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client._receive)
                yield client
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await client._frames.aclose()

    @property
    def is_lost(self) -> bool:
        """Whether the other side is gone."""
        return self._lost

    async def call(self, call: Call, timeout_s: float) -> Answer:
        """Send and wait; TransientError if the connection or the time is lost."""
        if self._lost:
            raise TransientError("the connection to hsmfs was lost")
        if len(self._pending) >= CALLS_IN_FLIGHT_MAX:
            raise TransientError(f"{CALLS_IN_FLIGHT_MAX} calls wait already")
        number, pending = self._next, _Pending()
        self._next += 1
        self._pending[number] = pending
        try:
            with trio.move_on_after(timeout_s):
                await self._frames.send(Request(number, call))
                await pending.done.wait()
        finally:
            self._pending.pop(number, None)
        if pending.answer is None:
            why = "the connection was lost" if self._lost else f"no answer in {timeout_s} s"
            raise TransientError(f"hsmfs: {why} ({type(call).__name__})")
        return pending.answer

    async def _receive(self) -> None:
        try:
            while (frame := await self._frames.receive()) is not None:
                await self._take(frame)
        except FrameError as error:
            log.error("connection to hsmfs ended", error=str(error))
        finally:
            self._lost = True
            for pending in self._pending.values():
                pending.done.set()
            self._send_event.close()

    async def _take(self, frame: object) -> None:
        match frame:
            case Reply(number, answer):
                pending = self._pending.get(number)
                if pending is not None:
                    pending.answer = answer
                    pending.done.set()
            case Notice(event):
                await self._send_event.send(event)
            case _:
                raise FrameError(f"unexpected {type(frame).__name__} from hsmfs")
