"""What systemd is told, and who may use hsmd's socket."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from hsmfs import servicemanager
from hsmfs.daemon.main import _open_to_group
from hsmfs.errors import ConfigError


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield channel


def told(channel: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(channel.recv(100).decode())
        except BlockingIOError:
            return found


def watched(period_us: str, monkeypatch: pytest.MonkeyPatch, alive_s: float = 0.0) -> float:
    """Clock time that passes while five seconds are watched."""
    monkeypatch.setenv("WATCHDOG_USEC", period_us)

    async def alive() -> None:
        await trio.sleep(alive_s)

    async def main() -> None:
        with trio.move_on_after(4.9):
            await servicemanager.keep_watchdog(alive)

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(main, clock=clock)
    return clock.current_time()


def test_signs_of_life_come_twice_in_their_time(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched("2000000", monkeypatch)
    assert told(manager) == ["WATCHDOG=1"] * 5


def test_one_that_does_not_answer_gives_none(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched("2000000", monkeypatch, alive_s=60.0)
    assert told(manager) == []


@pytest.mark.parametrize("period", ["", "0", "often"])
def test_nobody_asked(manager: socket.socket, monkeypatch: pytest.MonkeyPatch, period: str) -> None:
    watched(period, monkeypatch)
    assert told(manager) == []


def test_another_process_was_asked(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    watched("2000000", monkeypatch)
    assert told(manager) == []


def test_a_group_may_use_the_socket(tmp_path: Path) -> None:
    path, group = tmp_path / "hsmd.sock", grp.getgrgid(os.getgid())
    with socket.socket(socket.AF_UNIX) as channel:
        channel.bind(str(path))
        path.chmod(0o600)
        trio.run(_open_to_group, path, "")
        assert path.stat().st_mode & 0o777 == 0o600
        trio.run(_open_to_group, path, group.gr_name)
        assert (path.stat().st_mode & 0o777, path.stat().st_gid) == (0o660, group.gr_gid)
        with pytest.raises(ConfigError, match=r"run.group: found 'no-such', expected a group"):
            trio.run(_open_to_group, path, "no-such")
