"""hsmfs's end of the line: answers calls, notifies of events."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
import trio

from hsmfs.errors import FsError, HsmError, TransientError
from hsmfs.rpc.frames import FrameError, FrameStream
from hsmfs.rpc.messages import Answer, Call, Event, Notice, Refused, Reply, Request

log = structlog.get_logger(__name__)
NOTICES_MAX: Final = 10_000
CALLS_AT_ONCE_MAX: Final = 256
_UCRED: Final = struct.Struct("iII")
SOCKET_MODE: Final = 0o600


class Connection:
    """One peer; notices to it are queued with a bound."""

    def __init__(self, frames: FrameStream) -> None:
        self._frames = frames
        self._send, self._receive = trio.open_memory_channel[Event](NOTICES_MAX)

    def notify(self, event: Event) -> bool:
        """Queue a notice; False when the peer is too slow (it will ask again)."""
        try:
            self._send.send_nowait(event)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    async def send_notices(self) -> None:
        """Send what was queued until cancelled."""
        async for event in self._receive:
            await self._frames.send(Notice(event))


Handler = Callable[[Call, Connection], Awaitable[Answer]]
Gone = Callable[[Connection], None]


async def serve(
    path: Path,
    handle: Handler,
    gone: Gone | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Listen on a unix socket until cancelled; only root and our own user may."""
    path.unlink(missing_ok=True)
    listening = trio.socket.socket(trio.socket.AF_UNIX)
    old_mask = os.umask(0o777 & ~SOCKET_MODE)
    try:
        await listening.bind(str(path))
    finally:
        os.umask(old_mask)
    listening.listen()
    listener = trio.SocketListener(listening)

    async def one(stream: trio.SocketStream) -> None:
        await _serve_one(stream, handle, gone)

    try:
        task_status.started()
        await trio.serve_listeners(one, [listener])
    finally:
        path.unlink(missing_ok=True)


def _allowed(stream: trio.SocketStream) -> bool:
    raw = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(raw)
    return uid in (0, os.geteuid())


async def _serve_one(stream: trio.SocketStream, handle: Handler, gone: Gone | None) -> None:
    if not _allowed(stream):
        log.error("connection of another user refused")
        await stream.aclose()
        return
    frames = FrameStream(stream)
    connection = Connection(frames)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.send_notices)
            await _answer_all(frames, connection, handle, nursery)
            nursery.cancel_scope.cancel()
    except* TransientError as errors:
        log.info("connection ended", why=str(errors.exceptions[0]))
    finally:
        if gone is not None:
            gone(connection)
        with trio.CancelScope(shield=True):
            await frames.aclose()


async def _answer_all(
    frames: FrameStream, connection: Connection, handle: Handler, nursery: trio.Nursery
) -> None:
    """Calls start in order; those that wait do not hold up the next."""
    at_once = trio.Semaphore(CALLS_AT_ONCE_MAX)

    async def one(request: Request) -> None:
        try:
            await frames.send(Reply(request.id, await _answer(request.call, connection, handle)))
        finally:
            at_once.release()

    while (frame := await frames.receive()) is not None:
        if not isinstance(frame, Request):
            raise FrameError(f"unexpected {type(frame).__name__} from the peer")
        await at_once.acquire()
        nursery.start_soon(one, frame)


async def _answer(call: Call, connection: Connection, handle: Handler) -> Answer:
    try:
        return await handle(call, connection)
    except FsError as error:
        return Refused(error.errno, error.why)
    except HsmError as error:
        return Refused(error.errno, str(error))
