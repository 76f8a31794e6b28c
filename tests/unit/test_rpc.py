"""The line between hsmd and hsmfs: calls, events, and how it breaks."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from hsmfs.errors import FsError, TransientError
from hsmfs.rpc.client import RpcClient
from hsmfs.rpc.messages import (
    FRAME_BYTES_MAX,
    Answer,
    Call,
    Done,
    FileResult,
    FileResults,
    Landed,
    NoLongerWanted,
    Pin,
    RecallNote,
    Refused,
    Reply,
    Request,
    Sync,
    Unclaim,
    Wanted,
)
from hsmfs.rpc.server import Connection, serve
from hsmfs.types import ByteRange, FileVersion

FILE = FileVersion(7, 3)
EVENT = Wanted(FILE, ByteRange(5, 9), "a/ü\\xff", 1000, 42, "cat")


class Peer:
    """hsmfs's end: answers by kind of call, and notes who came and went."""

    def __init__(self) -> None:
        self.came: list[Connection] = []
        self.gone: list[Connection] = []
        self.go_on = trio.Event()

    async def handle(self, call: Call, connection: Connection) -> Answer:
        if connection not in self.came:
            self.came.append(connection)
        match call:
            case Unclaim(files):
                return FileResults([FileResult(file) for file in files])
            case Landed():
                raise FsError(116, "changed meanwhile")
            case Pin():
                raise TransientError("try again")
            case RecallNote():
                await self.go_on.wait()
            case Sync():
                connection.notify(EVENT)
                connection.notify(NoLongerWanted(FILE, True))
        return Done()


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Peer]:
    peer = Peer()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, path, peer.handle, peer.gone.append)
        yield peer
        nursery.cancel_scope.cancel()


def run(test: Callable[[Path], Any], tmp_path: Path) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await test(tmp_path / "s")

    trio.run(bounded)


def test_calls_are_answered_and_refusals_told(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with serving(path), RpcClient.connect(path) as client:
            files = [FileVersion(number, 1) for number in range(1000)]
            answer = await client.call(Unclaim(files), 5)
            assert isinstance(answer, FileResults)
            assert [result.file for result in answer.results] == files
            assert await client.call(Landed(FILE, ByteRange(0, 1)), 5) == Refused(
                116, "changed meanwhile"
            )
            refused = await client.call(Pin([1], True), 5)
            assert isinstance(refused, Refused) and "try again" in refused.why
        assert not path.exists()

    run(test, tmp_path)


def test_a_call_that_waits_does_not_hold_up_others(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        answers: list[Answer] = []
        async with serving(path) as peer, RpcClient.connect(path) as client:

            async def slow() -> None:
                answers.append(await client.call(RecallNote(FILE, "x"), 5))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow)
                assert isinstance(await client.call(Unclaim([FILE]), 5), FileResults)
                assert answers == []
                peer.go_on.set()
            assert answers == [Done()]

    run(test, tmp_path)


def test_events_come_in_order(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with serving(path), RpcClient.connect(path) as client:
            await client.call(Sync(), 5)
            assert await client.events.receive() == EVENT
            assert await client.events.receive() == NoLongerWanted(FILE, True)

    run(test, tmp_path)


def test_no_answer_in_time_is_transient_and_harms_no_later_call(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with serving(path) as peer, RpcClient.connect(path) as client:
            with pytest.raises(TransientError, match="no answer"):
                await client.call(RecallNote(FILE, "x"), 0.01)
            peer.go_on.set()
            assert await client.call(RecallNote(FILE, "x"), 5) == Done()

    run(test, tmp_path)


def test_a_lost_connection_is_transient_for_all_that_wait(tmp_path: Path) -> None:
    async def test(path: Path) -> None:
        async with trio.open_nursery() as nursery:
            peer = Peer()
            scope = trio.CancelScope()

            async def server(task_status: trio.TaskStatus[None]) -> None:
                with scope:
                    await serve(path, peer.handle, peer.gone.append, task_status)

            await nursery.start(server)
            async with RpcClient.connect(path) as client:
                await client.call(Unclaim([FILE]), 5)
                nursery.start_soon(_cancel_soon, scope)
                with pytest.raises(TransientError, match="lost"):
                    await client.call(RecallNote(FILE, "x"), 5)
                with pytest.raises(TransientError, match="lost"):
                    await client.call(Sync(), 5)
                with pytest.raises(trio.EndOfChannel):
                    await client.events.receive()
            assert len(peer.gone) == 1
            with pytest.raises(OSError):
                async with RpcClient.connect(path):
                    pass

    run(test, tmp_path)


async def _cancel_soon(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


NO_FRAMES = {
    "oversized": struct.pack(">I", FRAME_BYTES_MAX + 1),
    "no msgpack": framed(b"\xc1"),
    "another type": framed(msgspec.msgpack.encode({"a": 1})),
    "unknown call": framed(msgspec.msgpack.encode(["Request", 1, ["Format", []]])),
    "not UTF-8": framed(b"\x93\xa7Request\x01\x93\xaaRecallNote\x92\x07\x03\xa1\xff"),
    "deeply nested": framed(b"\x94\xa7Request\x01\x91\xa4Sync" + b"\x91" * 100_000 + b"\x01"),
    "empty": framed(b""),
    "an answer": framed(msgspec.msgpack.encode(Reply(1, Done()))),
    "cut": framed(msgspec.msgpack.encode(Request(1, Sync())))[:-1],
}


@pytest.mark.parametrize("kind", NO_FRAMES)
def test_what_is_no_frame_ends_only_that_connection(tmp_path: Path, kind: str) -> None:
    async def test(path: Path) -> None:
        async with serving(path) as peer, RpcClient.connect(path) as client:
            await client.call(Unclaim([FILE]), 5)
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(NO_FRAMES[kind])
                if kind == "cut":
                    await stream.send_eof()
                assert await stream.receive_some(1) == b""
            while not peer.gone:
                await trio.sleep(0)
            assert isinstance(await client.call(Unclaim([FILE]), 5), FileResults)
            assert len(peer.gone) == 1 and peer.gone[0] not in peer.came

    run(test, tmp_path)


def test_a_call_given_up_in_mid_frame_leaves_no_torn_frame(tmp_path: Path) -> None:
    """The peer does not read: the frame is cut by the time-out, so the line is no more use."""

    async def test(path: Path) -> None:
        listening = trio.socket.socket(trio.socket.AF_UNIX)
        await listening.bind(str(path))
        listening.listen()
        async with RpcClient.connect(path) as client:
            deaf, _ = await listening.accept()
            with pytest.raises(TransientError):
                await client.call(RecallNote(FILE, "x" * (8 << 20)), 0.05)
            with pytest.raises(TransientError, match="lost"):
                await client.call(Sync(), 5)
            deaf.close()
        listening.close()

    run(test, tmp_path)
