"""Readers of stubs: served by hsmd's part of the work, interrupted, timed out."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

READERS = 200
"""More than the kernel's default of background requests, and than any pool."""
READ_BEYOND_HEAD = """
import os, sys
file = os.open(sys.argv[1], os.O_RDONLY)
sys.stdout.write("open\\n"); sys.stdout.flush()
try:
    data = os.pread(file, 1000, 200000)
except OSError as error:
    print(error.errno)
else:
    print(len(data))
"""


def make(path: Path, size: int) -> bytes:
    data = os.urandom(size)
    path.write_bytes(data)
    return data


@pytest.fixture
def reader():
    """Starts processes that read beyond the head; each says when it has opened."""
    started = []

    def start(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-E", "-c", READ_BEYOND_HEAD, str(path)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "open\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def state(path: Path) -> bytes:
    return os.getxattr(path, "user.hsm.state")


def wait_until(true, timeout_s=20.0):
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, f"not true within {timeout_s} s"
        time.sleep(0.02)


def test_a_stub_is_recalled_by_reading_it(fs, hsmd):
    path = fs.mnt / "scan"
    data = make(path, 3_000_000)
    before = path.stat()
    hsmd.make_stubs(path)
    assert state(path) == b"migrated"
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert after.st_blocks * 512 < 1_000_000
    assert path.read_bytes() == data
    wait_until(lambda: state(path) == b"premigrated")
    assert path.stat().st_blocks * 512 >= 3_000_000
    assert path.read_bytes() == data
    assert hsmd.loads == 1
    assert hsmd.wanted[0].program


def test_the_head_of_a_stub_is_read_without_a_recall(fs, hsmd):
    path = fs.mnt / "scan"
    data = make(path, 3_000_000)
    hsmd.make_stubs(path)
    with path.open("rb", buffering=0) as file:
        assert file.read(65536) == data[:65536]
        assert os.pread(file.fileno(), 100, 65000) == data[65000:65100]
    assert subprocess.run(["head", "-c", "60000", path], capture_output=True).stdout == data[:60000]
    assert hsmd.wanted == []
    assert state(path) == b"migrated"


def test_ranges_are_served_as_they_land(fs, hsmd, reader):
    path = fs.mnt / "scan"
    data = make(path, 4_000_000)
    [file] = hsmd.make_stubs(path)
    hsmd.answering = False
    waiting = reader(path)
    wait_until(lambda: hsmd.wanted)
    assert hsmd.wanted[0].range.start <= 200_000 < hsmd.wanted[0].range.stop
    assert waiting.poll() is None
    assert b"recalling" in state(path)
    hsmd.last_first = True
    hsmd.recall(file)
    assert waiting.communicate(timeout=20)[0] == "1000\n"
    assert path.read_bytes() == data


def test_a_write_to_a_stub_keeps_the_other_bytes(fs, hsmd):
    path = fs.mnt / "scan"
    data = make(path, 1_000_000)
    hsmd.make_stubs(path)
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"changed", 500_000)
    assert path.read_bytes() == data[:500_000] + b"changed" + data[500_007:]
    assert state(path) == b"resident"


def test_truncating_a_stub_to_nothing_needs_no_disc(fs, hsmd):
    path = fs.mnt / "scan"
    make(path, 1_000_000)
    hsmd.make_stubs(path)
    path.write_bytes(b"anew")
    assert path.read_bytes() == b"anew"
    assert hsmd.wanted == []


def test_without_hsmd_stubs_time_out_and_other_files_work(system, play_hsmd, reader):
    system.configure(recall="recall_timeout_s = 1.0")
    system.start()
    player = play_hsmd(system)
    path, other = system.mnt / "scan", system.mnt / "other"
    make(path, 1_000_000)
    player.make_stubs(path)
    player.close()
    waiting = reader(path)
    other.write_bytes(b"written meanwhile")
    assert other.read_bytes() == b"written meanwhile"
    assert waiting.communicate(timeout=20)[0] == f"{errno.ETIMEDOUT}\n"
    assert state(path) == b"migrated"


def test_a_waiting_recall_is_told_to_an_hsmd_that_comes_later(fs, play_hsmd, reader):
    player = play_hsmd(fs)
    path = fs.mnt / "scan"
    make(path, 1_000_000)
    player.make_stubs(path)
    player.close()
    waiting = reader(path)
    later = play_hsmd(fs, answering=False)
    wait_until(lambda: later.wanted)
    later.discs = player.discs
    later.recall(later.wanted[0].file)
    assert waiting.communicate(timeout=20)[0] == "1000\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_waiting_reader_ends_at_once_by_a_signal(fs, hsmd, number, reader):
    path = fs.mnt / "scan"
    make(path, 1_000_000)
    hsmd.make_stubs(path)
    hsmd.answering = False
    waiting = reader(path)
    wait_until(lambda: hsmd.wanted)
    waiting.send_signal(number)
    waiting.communicate(timeout=5)
    assert waiting.returncode != 0


def test_a_reader_that_ignores_a_signal_goes_on(fs, hsmd, reader):
    path = fs.mnt / "scan"
    make(path, 1_000_000)
    [file] = hsmd.make_stubs(path)
    hsmd.answering = False
    waiting = reader(path)
    wait_until(lambda: hsmd.wanted)
    waiting.send_signal(signal.SIGWINCH)
    time.sleep(0.5)
    assert waiting.poll() is None
    hsmd.recall(file)
    assert waiting.communicate(timeout=20)[0] == "1000\n"


def test_a_reader_with_an_inherited_descriptor_is_not_taken_for_dead(fs, hsmd):
    path = fs.mnt / "scan"
    data = make(path, 1_000_000)
    [file] = hsmd.make_stubs(path)
    hsmd.answering = False
    shell = 'exec 3<"$0"; { sleep 0.3; cat <&3; } & exec 3<&-'
    opener = subprocess.Popen(["bash", "-c", shell, str(path)], stdout=subprocess.PIPE)
    wait_until(lambda: hsmd.wanted)
    time.sleep(0.5)
    hsmd.recall(file)
    assert opener.communicate(timeout=20)[0] == data


def test_many_waiting_readers_leave_room_for_everything_else(fs, hsmd):
    stubs = [fs.mnt / f"stub{number}" for number in range(READERS)]
    for path in stubs:
        path.write_bytes(bytes(300_000))
    resident = fs.mnt / "resident"
    data = make(resident, 5_000_000)
    hsmd.make_stubs(*stubs)
    hsmd.answering = False
    script = 'for f in "$@"; do tail -c 1000 "$f" >/dev/null & done; wait'
    readers = subprocess.Popen(["bash", "-c", script, "readers", *map(str, stubs)])
    wait_until(lambda: len({event.file.ino for event in hsmd.wanted}) == READERS)
    # Nothing below can end while a worker or a kernel slot is missing.
    subprocess.run(["cat", resident], stdout=subprocess.DEVNULL, check=True, timeout=30)
    subprocess.run(["ls", "-lR", fs.mnt], stdout=subprocess.DEVNULL, check=True, timeout=30)
    os.posix_fadvise(file := os.open(resident, os.O_RDONLY), 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    assert resident.read_bytes() == data
    (fs.mnt / "new").write_bytes(data)
    assert readers.poll() is None
    for event in {event.file.ino: event for event in hsmd.wanted}.values():
        hsmd.recall(event.file)
    assert readers.wait(timeout=60) == 0


def test_readers_that_wait_do_not_stop_the_program_from_ending(fs, hsmd, reader):
    path = fs.mnt / "scan"
    make(path, 1_000_000)
    hsmd.make_stubs(path)
    hsmd.answering = False
    waiting = reader(path)
    wait_until(lambda: hsmd.wanted)
    assert fs.stop() == 0
    waiting.communicate(timeout=10)
    assert not os.path.ismount(fs.mnt)
