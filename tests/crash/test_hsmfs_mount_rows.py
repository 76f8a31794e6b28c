"""Rows of docs/crash-safety.md for hsmfs that need a kernel, a connection or its helpers.

The others are in ``test_hsmfs_rows.py``. One mounted hsmfs with the native session is for all
tests; programs are killed at a step by ``support.crashsite``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from fuse.conftest import Player, System, made_system, wait_until
from support.crashpoints import CrashFile
from support.hsmfscuts import APPLY, check_fsck, in_a_child

from hsmfs.cache.paths import cache_path
from hsmfs.namespace import schema
from hsmfs.namespace.view import NamespaceView
from hsmfs.rpc.messages import RecallBegin
from hsmfs.store.interface import Reader
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools import hsm as hsm_program

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="hsm adopt and passthrough need root"),
]
OLD, NEW = b"old " * 5000, b"new " * 6000
ADOPT = "hsmfs.tools.adopt.run"
MAKE = "hsmfs.namespace.adoption:Adoption.make"


class Rig(NamedTuple):
    """A mounted hsmfs that can be killed at a step."""

    system: System
    crash: CrashFile

    def killed(self, point: str, when: str, pid: int) -> None:
        """The program of this number got there and is gone."""
        wait_until(self.crash.note.exists)
        self.crash.disarm()
        hit = json.loads(self.crash.note.read_text())
        assert (hit["point"], hit["when"], hit["pid"]) == (point, when, pid)

    def start(self) -> None:
        """After it was killed; what is left of the mount is taken away, as operators would."""
        subprocess.run(["umount", "-l", str(self.system.mnt)], check=True)
        self.system.start()

    def cache_file(self, ino: int) -> Path:
        return Path(cache_path(self.system.dir / "tier", ino))

    @contextmanager
    def store(self) -> Iterator[Reader]:
        store = LmdbStore(self.system.dir / "namespace", 1 << 30, read_only=True)
        try:
            with store.snapshot() as reader:
                yield reader
        finally:
            store.close()

    def doomed(self) -> set[int]:
        """Inodes with the mark of those whose data goes."""
        with self.store() as reader:
            marks = list(reader.scan(b"O", b"P"))
        return {schema.U64.unpack_from(k, 1)[0] for k, v in marks if v == schema.MARK_DOOMED}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    root = tmp_path_factory.mktemp("rows")
    crash = CrashFile(root / "crash")
    with pytest.MonkeyPatch.context() as patched, made_system(root) as system:
        for name, value in crash.environment.items():
            patched.setenv(name, value)
        system.start()
        yield Rig(system, crash)
        assert system.stop() == 0
        check_fsck(system)


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """For all tests; each brings it up if the one before failed."""
    shared.crash.path.unlink(missing_ok=True)
    process = shared.system.process
    if process is None or process.poll() is not None:
        shared.start()
    return shared


def test_write_by_a_program_that_has_the_cache_file_itself_passthrough_and_lives_on(
    rig: Rig,
) -> None:
    path = rig.system.mnt / "live"
    path.write_bytes(OLD)
    fd = os.open(path, os.O_RDWR)
    try:
        ino = os.fstat(fd).st_ino
        os.fsync(fd)
        os.pwrite(fd, NEW, len(OLD))
        rig.system.kill()
        try:
            os.pwrite(fd, b"late", 0)
        except OSError:
            pytest.skip("this kernel has no passthrough: the program's file ends with its mount")
        cached = rig.cache_file(ino)
        left = b"late" + OLD[4:] + NEW
        assert cached.read_bytes() == left
        with rig.store() as reader:
            record = NamespaceView(reader).inode(ino)
            mark = reader.get(schema.mark_key(ino))
        is_marked_open = (rig.system.dir / "tier" / "open" / f"{ino:x}").exists()
        assert record is not None
        assert record.size < len(left)
        assert mark == schema.MARK_WRITE or is_marked_open
        disk_ino = cached.stat().st_ino
        rig.start()
        assert cached.stat().st_ino != disk_ino, "a copy of its own"
        os.pwrite(fd, b"nobody sees this", 0)
        assert path.read_bytes() == left
    finally:
        os.close(fd)
    path.unlink()


def test_hsmd_gone_in_mid_recall_no_reader_left(rig: Rig) -> None:
    path = rig.system.mnt / "stub"
    path.write_bytes(OLD)
    hsmd = Player(rig.system, answering=False)
    (file,) = hsmd.make_stubs(path, head_bytes=0)
    hsmd.call(RecallBegin(file))
    hsmd.close()
    recalls = rig.system.dir / "tier" / "recall"
    assert os.getxattr(path, "user.hsm.state") == b"recalling"
    assert os.listdir(recalls) == [f"{file.ino:x}.{file.data_version}"]
    Player(rig.system).close()
    assert os.getxattr(path, "user.hsm.state") == b"migrated"
    assert os.listdir(recalls) == []
    path.unlink()  # the catalog of this hsmfs knows no copy of it


# -- adopt -------------------------------------------------------------------------------------


def old_tree(rig: Rig, name: str) -> Path:
    source = rig.system.dir / name
    (source / "below").mkdir(parents=True)
    (source / "below" / "file").write_bytes(OLD)
    return source


def adopt(rig: Rig, source: Path) -> int:
    """``hsm adopt`` as a program of its own; its exit status."""

    def run() -> None:
        sys.argv = ["hsm", "--config", str(rig.system.config), "adopt", str(source)]
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 1)
        os.dup2(devnull, 2)
        hsm_program.main()

    return in_a_child(rig.crash, run)


def cut_adopt(rig: Rig, source: Path, point: str) -> None:
    rig.crash.arm(point, "before")
    assert adopt(rig, source) == -signal.SIGKILL
    rig.crash.disarm()


def is_adopted(rig: Rig, source: Path, data: bytes) -> None:
    """``hsm adopt`` again ends it."""
    assert adopt(rig, source) == 0
    assert not source.exists()
    assert (rig.system.mnt / source.name / "below" / "file").read_bytes() == data


def second_names(source: Path) -> int:
    return (source / "below" / "file").stat().st_nlink - 1


@pytest.mark.parametrize("who", ["hsm adopt", "hsmfs"])
def test_adopt_before_a_file_s_record_is_durable(rig: Rig, who: str) -> None:
    source = old_tree(rig, f"first of {who}")
    if who == "hsm adopt":
        cut_adopt(rig, source, f"{ADOPT}:_Run._make")
    else:
        assert rig.system.process is not None
        rig.crash.arm(MAKE, "before")
        assert adopt(rig, source) == 1
        rig.killed(MAKE, "before", rig.system.process.pid)
        rig.system.process.wait()
        assert second_names(source) == 1
        ino = (source / "below" / "file").stat().st_ino
        assert any(
            rig.cache_file(number).exists() and rig.cache_file(number).stat().st_ino == ino
            for number in rig.doomed()
        )
        rig.start()
    wait_until(lambda: second_names(source) == 0)
    assert (source / "below" / "file").read_bytes() == OLD
    is_adopted(rig, source, OLD)


def test_adopt_record_durable_old_name_not_yet_removed(rig: Rig) -> None:
    source = old_tree(rig, "second")
    cut_adopt(rig, source, f"{ADOPT}:_Run._take_away")
    mounted = rig.system.mnt / source.name / "below" / "file"
    old = source / "below" / "file"
    assert old.stat().st_ino == rig.cache_file(mounted.stat().st_ino).stat().st_ino
    assert (old.read_bytes(), mounted.read_bytes()) == (OLD, OLD)
    with old.open("ab") as file:
        file.write(NEW)
    is_adopted(rig, source, OLD + NEW)


def test_adopt_old_names_gone_directories_not(rig: Rig) -> None:
    source = old_tree(rig, "third")
    cut_adopt(rig, source, f"{ADOPT}:remove_folders")
    assert [path.name for path in source.rglob("*")] == ["below"]
    assert (rig.system.mnt / source.name / "below" / "file").read_bytes() == OLD
    is_adopted(rig, source, OLD)


# -- the process that commits --------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"], ids=["not at all", "whole"])
def test_commit_by_the_process_that_writes_the_store(rig: Rig, when: str) -> None:
    """It is killed; hsmfs goes on and hands the batch to another."""
    name = f"committed {when}"
    committer = committer_of(rig)
    rig.crash.arm(APPLY, when)
    (rig.system.mnt / name).mkdir()
    rig.killed(APPLY, when, committer)
    assert rig.system.process is not None
    assert rig.system.process.poll() is None

    def durable() -> bool:
        """fsync tells of the commit that failed until one has succeeded."""
        fd = os.open(rig.system.mnt / name, os.O_RDONLY)
        try:
            os.fsync(fd)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    wait_until(durable)
    assert committer_of(rig) != committer
    rig.system.kill()
    with rig.store() as reader:
        assert NamespaceView(reader).lookup_path(os.fsencode(name)) is not None
    rig.start()
    assert (rig.system.mnt / name).is_dir()


def committer_of(rig: Rig) -> int:
    """The child of hsmfs that commits."""
    assert rig.system.process is not None
    for task in Path(f"/proc/{rig.system.process.pid}/task").iterdir():
        for word in (task / "children").read_text().split():
            if b"hsmfs.store.committer" in Path(f"/proc/{word}/cmdline").read_bytes():
                return int(word)
    raise AssertionError("hsmfs has no committer")
