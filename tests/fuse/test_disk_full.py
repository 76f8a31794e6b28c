"""The disk under namespace and cache is full: ENOSPC, nothing synced is lost, work goes on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuse.conftest import made_system, wait_until
from support.crashes import Disk, disk

from hsmfs.session.mounting import mounted_at

DISK_BYTES = 48 << 20
TRIES_MAX = 200_000
TIMEOUT_S = 60.0

pytestmark = [
    pytest.mark.skipif(not Disk.is_possible(), reason="needs root and loop devices"),
]


@pytest.fixture(params=["native", "pyfuse3"])
def full(request, tmp_path):
    """A mounted system whose namespace and tier are on a small disk; its name is ``disk``."""
    (tmp_path / "s").mkdir()
    with disk(tmp_path, DISK_BYTES) as small, made_system(tmp_path / "s") as made:
        for name in ("namespace", "tier"):
            (small.path / name).mkdir()
        made.configure(fuse=f'session = "{request.param}"')
        text = made.config.read_text()
        for name in ("namespace", "tier"):
            text = text.replace(f"{made.dir}/{name}", f"{small.path}/{name}")
        made.config.write_text(text.replace("reserve_bytes = 1048576", "reserve_bytes = 0"))
        made.start()
        made.disk = small.path
        yield made
        made.clean_up()


class Foreign:
    """Somebody else's file on the same disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def grow(self) -> None:
        """Take all that is left, block by block at the end."""
        with self.path.open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 512):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(os.urandom(size))

    def go(self) -> None:
        self.path.unlink()


def is_full(work) -> bool:
    """Whether it fails for want of room; it must not fail for another reason."""
    try:
        work()
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        return True
    return False


def until_full(work) -> int:
    """How often it could be done before."""
    end_s = time.monotonic() + TIMEOUT_S
    for number in range(TRIES_MAX):
        if is_full(lambda: work(number)):  # noqa: B023
            return number
        assert time.monotonic() < end_s, "never full"
    raise AssertionError("never full")


def write_synced(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        assert file.write(data) == len(data)
        os.fsync(file.fileno())


def write_some(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a user sees."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            facts = path.lstat()
            row = (facts.st_ino, facts.st_mode, facts.st_nlink, facts.st_size, facts.st_mtime_ns)
            if stat.S_ISREG(facts.st_mode):
                row += (hashlib.sha256(path.read_bytes()).hexdigest(),)
            if stat.S_ISDIR(facts.st_mode):
                row = row[:3]
            found[str(path.relative_to(root))] = row
    return found


def fsck(system) -> None:
    command = [sys.executable, "-m", "hsmfs.tools.hsm", "--config", str(system.config), "fsck"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 findings" in done.stdout


def same_after_restart(system) -> None:
    before = tree(system.mnt)
    assert system.stop() == 0
    fsck(system)
    system.start()
    assert tree(system.mnt) == before


def keep(system) -> dict[Path, bytes]:
    """Synced files, which must stay whatever comes."""
    kept = {}
    (system.mnt / "kept").mkdir()
    for number in range(20):
        path = system.mnt / "kept" / f"f{number}"
        kept[path] = os.urandom(20_000)
        write_synced(path, kept[path])
    return kept


def are_kept(kept: dict[Path, bytes]) -> None:
    for path, data in kept.items():
        assert path.read_bytes() == data


def room_comes_back(system) -> None:
    """Without a restart; the namespace tries again by itself."""
    probe = system.mnt / "room"
    wait_until(lambda: not is_full(lambda: write_synced(probe, b"x" * 100_000)), TIMEOUT_S)
    for number in range(50):
        write_synced(system.mnt / f"after{number}", b"y" * 10_000)
        (system.mnt / f"folder{number}").mkdir()


def test_filled_by_its_own_files(full):
    mnt = full.mnt
    kept = keep(full)
    count = until_full(lambda n: write_some(mnt / f"big{n}", os.urandom(300_000)))
    assert count > 20
    are_kept(kept)
    # What is left takes names for a while, or none.
    for number in range(500):
        is_full(lambda: os.mkdir(mnt / f"d{number}"))  # noqa: B023
    for number in range(count):
        os.unlink(mnt / f"big{number}")
    room_comes_back(full)
    are_kept(kept)
    same_after_restart(full)


def test_filled_by_a_foreign_file(full):
    mnt, foreign = full.mnt, Foreign(full.disk / "foreign")
    kept = keep(full)
    (mnt / "doomed").mkdir()
    for number in range(50):
        write_synced(mnt / "doomed" / f"{number}", b"z" * 5000)
    foreign.grow()
    until_full(lambda n: os.mkdir(mnt / f"d{n}"))
    foreign.grow()  # what a commit that failed gave back
    assert is_full(lambda: os.mkdir(mnt / "one-more"))
    assert is_full(lambda: os.symlink("to", mnt / "link"))
    assert is_full(lambda: write_synced(mnt / "new", b"x" * 100_000))
    are_kept(kept)
    assert len(list(os.scandir(mnt / "kept"))) == 20
    for number in range(50):
        os.unlink(mnt / "doomed" / f"{number}")
    assert os.listdir(mnt / "doomed") == []
    os.rmdir(mnt / "doomed")
    foreign.go()
    room_comes_back(full)
    are_kept(kept)
    same_after_restart(full)


def test_an_fsync_that_fails_says_so_and_the_next_one_keeps_all(full):
    mnt, foreign = full.mnt, Foreign(full.disk / "foreign")
    kept = keep(full)
    foreign.grow()
    until_full(lambda n: os.mkdir(mnt / f"d{n}"))
    foreign.grow()
    folder = os.open(mnt / "kept", os.O_RDONLY)
    try:
        for number in range(20):
            os.chmod(mnt / "kept" / f"f{number}", 0o600)
        failed = is_full(lambda: os.fsync(folder))
        foreign.go()
        wait_until(lambda: not is_full(lambda: os.fsync(folder)), TIMEOUT_S)
    finally:
        os.close(folder)
    assert failed
    full.kill()
    full.start()
    are_kept(kept)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in kept}
    assert modes == {0o600}, "the second fsync promised it"
    room_comes_back(full)
    same_after_restart(full)


def test_stopped_while_full(full):
    mnt, foreign = full.mnt, Foreign(full.disk / "foreign")
    kept = keep(full)
    foreign.grow()
    until_full(lambda n: os.mkdir(mnt / f"d{n}"))
    foreign.grow()
    status = full.stop()
    said = full.log.read_text()
    assert status in (0, 1)
    assert "Traceback" not in said, said
    assert mounted_at(mnt) is None
    foreign.go()
    fsck(full)
    full.start()
    are_kept(kept)
    room_comes_back(full)
    same_after_restart(full)


def test_killed_while_full(full):
    mnt, foreign = full.mnt, Foreign(full.disk / "foreign")
    kept = keep(full)
    foreign.grow()
    until_full(lambda n: os.mkdir(mnt / f"d{n}"))
    full.kill()
    foreign.go()
    full.start()
    are_kept(kept)
    room_comes_back(full)
    same_after_restart(full)


def test_started_while_full(full):
    kept = keep(full)
    assert full.stop() == 0
    foreign = Foreign(full.disk / "foreign")
    foreign.grow()
    process = full.launch()
    if "ready" not in process.stdout.readline():
        assert process.wait(TIMEOUT_S) == 1
        said = full.log.read_text()
        assert "make room" in said
        assert "Traceback" not in said
        foreign.go()
        full.start()
    else:
        are_kept(kept)
        foreign.go()
    are_kept(kept)
    room_comes_back(full)
    same_after_restart(full)
