"""The session's parts that need no mount."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal

import pytest
import structlog
import trio
import trio.testing

from hsmfs import logs
from hsmfs.deferred import Deferred
from hsmfs.errors import FsError
from hsmfs.metrics import FsMetrics
from hsmfs.namespace.model import Attr
from hsmfs.rpc.messages import StateCount, StatusReply, TierStatus
from hsmfs.servicemanager import notify
from hsmfs.session.executor import TrioExecutor
from hsmfs.session.mounting import mounted_at
from hsmfs.session.signals import ProcessWatch, wants_out
from hsmfs.session.waiting import WAITING_MAX, Waiting


def status(
    private=(), shared=(), blocked=(), ignored=(), caught=(), state: bytes = b"S (sleeping)"
) -> bytes:
    def mask(numbers) -> bytes:
        return b"%016x" % sum(1 << (number - 1) for number in numbers)

    return b"\n".join(
        [
            b"Name:\tcat: odd",
            b"State:\t" + state,
            b"SigPnd:\t" + mask(private),
            b"ShdPnd:\t" + mask(shared),
            b"SigBlk:\t" + mask(blocked),
            b"SigIgn:\t" + mask(ignored),
            b"SigCgt:\t" + mask(caught),
        ]
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (status(), False),
        (status(private=[signal.SIGKILL]), True),
        (status(shared=[signal.SIGINT]), True),
        (status(shared=[signal.SIGINT], caught=[signal.SIGINT]), True),
        (status(shared=[signal.SIGINT], blocked=[signal.SIGINT]), False),
        (status(shared=[signal.SIGINT], ignored=[signal.SIGINT]), False),
        (status(shared=[signal.SIGCHLD], caught=[signal.SIGCHLD]), False),
        (status(shared=[signal.SIGTSTP]), False),
        (status(private=[signal.SIGRTMIN], caught=[signal.SIGRTMIN]), False),
        (status(private=[64], caught=[64]), False),
        (status(state=b"Z (zombie)"), True),
    ],
)
def test_which_processes_want_out(text, expected):
    assert wants_out(text) is expected


def test_a_live_process_is_watched_and_one_that_was_never_there_is_not():
    own = ProcessWatch(os.getpid())
    assert own.watchable
    assert not own.interrupted()
    assert not ProcessWatch(0).watchable
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    gone = ProcessWatch(child)
    assert not gone.watchable
    assert not gone.interrupted()


ATTR = Attr(7, 1, 0o100644, 1, 0, 0, 0, 5, 8, 1, 2, 3, 4)


def test_the_topmost_mount_is_found(tmp_path):
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "90 22 0:50 / /a\\040b rw shared:7 - tmpfs tmp rw\n"
        "91 90 0:51 / /a\\040b rw - fuse.hsmfs site rw\n"
    )
    found = mounted_at(tmp_path.__class__("/a b"), str(table))
    assert found is not None
    assert (found.fs_type, found.source, os.minor(found.device)) == ("fuse.hsmfs", "site", 51)
    assert mounted_at(tmp_path, str(table)) is None


def test_waits_end_by_the_answer_and_are_measured(autojump_clock):
    metrics = FsMetrics()

    async def main() -> None:
        waiting = Waiting(metrics)
        answer: Deferred[bytes] = Deferred()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def later() -> None:
                await trio.sleep(7)
                assert waiting.count == 1
                answer.set(b"data")

            assert await waiting.interruptible(answer, 0) == b"data"
        assert waiting.count == 0
        assert await waiting.interruptible(b"at once", 0) == b"at once"

    trio.run(main, clock=autojump_clock)
    text = metrics.page().decode()
    assert "hsmfs_reader_wait_seconds_count 1.0" in text
    assert 'hsmfs_reader_wait_seconds_bucket{le="5.0"} 0.0' in text
    assert 'hsmfs_reader_wait_seconds_bucket{le="10.0"} 1.0' in text


def test_waits_are_bounded_and_end_when_stopped(autojump_clock):
    async def main() -> None:
        waiting = Waiting(FsMetrics())
        waiting.count = WAITING_MAX
        with pytest.raises(FsError) as refused:
            await waiting.interruptible(Deferred(), 0)
        assert refused.value.errno == errno.EAGAIN
        waiting.count = 0
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def reader() -> None:
                with pytest.raises(FsError) as ended:
                    await waiting.interruptible(Deferred(), 0)
                assert ended.value.errno == errno.ENOTCONN

            await trio.testing.wait_all_tasks_blocked()
            waiting.stop()
        with pytest.raises(FsError) as ended:
            await waiting.interruptible(Deferred(), 0)
        assert ended.value.errno == errno.ENOTCONN

    trio.run(main, clock=autojump_clock)


@pytest.fixture
def autojump_clock():
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.mark.allow_warnings
def test_the_executor_tells_results_failures_and_time():
    told = []

    async def main() -> None:
        metrics = FsMetrics()
        async with trio.open_nursery() as nursery:
            executor = TrioExecutor(nursery, 2, metrics)
            executor.submit(lambda: 6 * 7, lambda value, error: told.append((value, error)))
            await executor.drain()
            executor.submit(lambda: 1 // 0, lambda value, error: told.append(type(error)))
            await executor.drain()
            executor.call_later(0.0, lambda: told.append("later"))
            executor.call_later(0.0, lambda: told.append("never")).cancel()
            await trio.to_thread.run_sync(lambda: executor.run_soon(lambda: told.append("soon")))
            executor.run_soon(lambda: [][0])
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert 'hsmfs_errors_total{kind="bug"} 1.0' in metrics.page().decode()

    trio.run(main)
    assert told[:2] == [(42, None), ZeroDivisionError]
    assert sorted(told[2:]) == ["later", "soon"]


def test_metrics_show_the_status_of_the_moment():
    metrics = FsMetrics()
    reply = StatusReply([StateCount("migrated", 3, 900)], [TierStatus("ssd", 10, 100, 90)], 2, 4, 1)
    metrics.show(reply)
    text = metrics.page().decode()
    for line in (
        'hsmfs_files{state="migrated"} 3.0',
        'hsmfs_file_bytes{state="migrated"} 900.0',
        'hsmfs_tier_used_bytes{tier="ssd"} 10.0',
        'hsmfs_tier_capacity_bytes{tier="ssd"} 100.0',
        'hsmfs_tier_free_bytes{tier="ssd"} 90.0',
        "hsmfs_waiting_readers 2.0",
        "hsmfs_open_files 4.0",
        "hsmfs_claims 1.0",
    ):
        assert line in text


@pytest.fixture
def own_logging():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.mark.allow_warnings
def test_logs_of_both_kinds_come_out_as_json(own_logging):
    out = io.StringIO()
    logs.set_up("info", True, "hsmfs", out)
    logs.get("ours").info("burned", discs=2)
    logging.getLogger("theirs").warning("odd %s", "thing")
    logging.getLogger("theirs").debug("not wanted")
    try:
        raise ValueError("why")
    except ValueError:
        logs.get("ours").exception("bug")
    ours, theirs, bug = (json.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["discs"], ours["program"]) == ("burned", 2, "hsmfs")
    assert (theirs["event"], theirs["level"]) == ("odd thing", "warning")
    assert "ValueError: why" in bug["exception"]


def test_logs_for_people_are_single_lines(own_logging):
    out = io.StringIO()
    logs.set_up("warning", False, "hsmfs", out)
    logs.get("ours").info("not wanted")
    assert out.getvalue() == ""


def test_without_a_service_manager_nothing_is_told(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
