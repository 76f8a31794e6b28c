"""``hsm adopt``: a tree on the cache's disk becomes one of the mount; nothing is copied."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuse.conftest import SESSIONS, System, wait_until
from support.trees import differences, tree_of

from hsmfs.cache.paths import cache_path
from hsmfs.configload import load
from hsmfs.fsck.findings import Summary
from hsmfs.rpc.client import RpcClient
from hsmfs.tools import fsckcommand
from hsmfs.tools import hsm as hsm_program

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices are root's")
FS_IOC_SETFLAGS = 0x40086602
IMMUTABLE = 0x10
CUT = 9
STEPS = ("link", "unlink", "rmdir", "chown", "chmod", "fsync", "mkdir")


def hsm(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hsmfs.tools.hsm", "--config", str(system.config), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def cut_after(left: int, system: System, *words: str) -> int:
    """The command in a child that ends, as by SIGKILL, at one of its changes of the disk, or
    before or after one of its calls; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            _cut_child(left, ["hsm", "--config", str(system.config), *words])
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _cut_child(left: int, words: list[str]) -> None:
    steps = iter(range(left))

    def step() -> None:
        if next(steps, None) is None:
            os._exit(CUT)

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            step()
            return real(*args, **kwargs)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    real_call = RpcClient.call

    async def call(self: RpcClient, *args: Any) -> Any:
        step()
        answer = await real_call(self, *args)
        step()
        return answer

    RpcClient.call = call  # type: ignore[method-assign]
    sys.argv = words
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    try:
        hsm_program.main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 0)


def adopt(system: System, source: Path, *words: str, status: int = 0) -> dict[str, Any]:
    done = hsm(system, "adopt", str(source), "--json", *words)
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def make_awkward(root: Path) -> None:
    """Kinds, names, attributes, times."""
    box = os.fsencode(root)
    os.makedirs(box + b"/deep/" + b"/".join(b"%d" % n for n in range(60)))
    names = [
        "患者".encode(),
        "日本語 🏥".encode(),
        b"n\xffot utf8 \x01",
        b"x" * 255,
        b"end. ",
        b"CON",
        b"a:b",
        "e\u0301".encode(),
    ]
    for number, name in enumerate(names):
        path = box + b"/" + name
        with open(path, "wb") as file:
            file.write(os.urandom(number * 700))
        os.chown(path, 1000 + number, 2000 + number)
        os.chmod(path, (0o644, 0o4755, 0o2711, 0o000, 0o600, 0o1777, 0o444, 0o640)[number])
        mtime_ns = (-(10**18), 4_000_000_000_123_456_789)[number % 2] + number
        os.utime(path, ns=(2_000_000_000_000_000_001, mtime_ns))
    os.setxattr(box + b"/CON", "user.study", b"\0\xff42")
    os.setxattr(box + b"/CON", "trusted.mark", b"t")
    acl = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff")
    acl += bytes.fromhex("10000600ffffffff20000400ffffffff")
    os.setxattr(box + b"/a:b", "system.posix_acl_access", acl)
    os.makedirs(box + b"/with default/inside")
    os.setxattr(box + b"/with default", "system.posix_acl_default", acl)
    with open(box + b"/sparse", "wb") as file:
        file.truncate(50_000_000)
        file.seek(40_000_000)
        file.write(b"far out")
    os.link(box + b"/sparse", box + b"/deep/second name")
    os.link(box + b"/sparse", box + b"/with default/third name")
    os.symlink(b"../no\xffwhere", box + b"/link")
    os.chown(box + b"/link", 7, 8, follow_symlinks=False)
    os.utime(box + b"/link", ns=(5, 6), follow_symlinks=False)
    os.mkfifo(box + b"/fifo", 0o620)
    os.link(box + b"/fifo", box + b"/deep/fifo too")
    os.mknod(box + b"/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as channel:
        before = os.getcwd()
        os.chdir(root)
        channel.bind("socket")
        os.chdir(before)
    os.chmod(box + b"/deep", 0o2755)
    for folder in (b"/deep", b"/with default", b""):
        os.utime(box + folder, ns=(11, 1_000_000_000_000_000_007))


def times_of(root: Path) -> dict[bytes, tuple[int, int]]:
    """Of all below; access times of what a listing reads aside."""
    found = {}
    for path in [root, *root.rglob("*")]:
        info = path.lstat()
        atime_ns = 0 if stat.S_ISDIR(info.st_mode) or path.is_symlink() else info.st_atime_ns
        name = os.fsencode(path)[len(os.fsencode(root)) :]
        found[name] = (info.st_mtime_ns, atime_ns)
    return found


def disk_inodes(root: Path) -> dict[bytes, int]:
    return {
        os.fsencode(path.relative_to(root)): path.lstat().st_ino
        for path in root.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode)
    }


def check_not_copied(system: System, mounted: Path, before: dict[bytes, int]) -> None:
    """The cache files are the very inodes of the disk that the old names had."""
    for name, disk_ino in before.items():
        ino = os.lstat(os.fsencode(mounted) + b"/" + name).st_ino
        there = os.stat(cache_path(system.dir / "tier", ino))
        assert there.st_ino == disk_ino, name
        assert (there.st_mode & 0o7777, there.st_uid) == (0o600, 0), name


def check_fsck(system: System) -> None:
    assert system.stop() == 0
    config = load(system.config)
    with fsckcommand.stopped(config):
        found = list(fsckcommand.findings(config, False, None, Summary()))
    assert not found, "\n".join(map(str, found))


@pytest.fixture
def source(system: System) -> Path:
    folder = system.dir / "old data"
    folder.mkdir()
    return folder


def test_an_awkward_tree_is_the_same_and_nothing_is_copied(system: System, source: Path) -> None:
    make_awkward(source)
    system.start()
    before = tree_of(os.fsencode(source))  # reading moves access times
    times = times_of(source)
    inodes = disk_inodes(source)
    with contextlib.suppress(FileNotFoundError):
        (system.mnt / "old data").stat()  # the kernel now knows that there is no such name
    assert os.listdir(system.mnt) == []
    told = adopt(system, source)
    assert (told["left"], told["resumed"], told["to"]) == (0, False, str(system.mnt / "old data"))
    assert not source.exists()
    assert os.listdir(system.mnt) == ["old data"]
    mounted = system.mnt / "old data"
    assert times_of(mounted) == times
    after = tree_of(os.fsencode(mounted))
    assert after == before, differences(before, after)
    check_not_copied(system, mounted, inodes)
    assert (mounted / "sparse").stat().st_blocks < 100
    (mounted / "CON").write_bytes(b"it can be changed")
    check_fsck(system)
    system.start()
    assert (mounted / "CON").read_bytes() == b"it can be changed"


@pytest.mark.parametrize("session", SESSIONS)
def test_a_listing_and_a_missing_name_that_the_kernel_knows_are_forgotten(
    system: System, source: Path
) -> None:
    (source / "sub").mkdir()
    (source / "sub" / "f").write_text("x")
    system.start()
    (system.mnt / "place").mkdir()
    assert list((system.mnt / "place").iterdir()) == []
    assert not (system.mnt / "place" / "here").exists()
    adopt(system, source, "--to", str(system.mnt / "place" / "here"))
    wait_until(lambda: (system.mnt / "place" / "here" / "sub" / "f").exists(), 5)
    assert os.listdir(system.mnt / "place") == ["here"]


def test_plan_changes_nothing(system: System, source: Path) -> None:
    make_awkward(source)
    before = tree_of(os.fsencode(source))
    told = adopt(system, source, "--plan")
    assert (told["done"], told["files"], told["others"], told["left"]) == (False, 9, 4, 0)
    assert tree_of(os.fsencode(source)) == before


# -- bad input ----------------------------------------------------------------------------


def refused(system: System, source: Path, *words: str) -> str:
    before = sorted(os.listdir(source)) if source.is_dir() else []
    done = hsm(system, "adopt", str(source), *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (sorted(os.listdir(source)) if source.is_dir() else []) == before
    return done.stderr


def test_what_cannot_be_adopted_at_all_says_why(fs: System, source: Path) -> None:
    (source / "f").write_text("x")
    assert "is in the mount already" in refused(fs, fs.mnt)
    assert "tier.path" in refused(fs, fs.dir / "tier")
    assert "hsmfs itself uses" in refused(fs, fs.dir)
    assert "namespace.path" in refused(fs, fs.dir / "namespace")
    assert "expected one to adopt" in refused(fs, source / "f")
    assert "No such file" in refused(fs, source / "missing")
    (fs.mnt / "taken").mkdir()
    assert "File exists" in refused(fs, source, "--to", str(fs.mnt / "taken"))
    assert "No such file" in refused(fs, source, "--to", str(fs.mnt / "no" / "way"))
    assert "root is there already" in refused(fs, source, "--to", str(fs.mnt))
    shared = Path(f"/dev/shm/hsmfs-adopt-{os.getpid()}")
    shared.mkdir()
    try:
        said = refused(fs, shared)
    finally:
        shared.rmdir()
    assert "another file system" in said and "rsync" in said
    assert fs.stop() == 0
    assert "hsmfs is not running" in refused(fs, source)


def test_a_quota_or_a_full_tier_refuses_all_of_it(system: System, source: Path) -> None:
    for number in range(4):
        (source / str(number)).write_bytes(bytes(1000))
    text = system.config.read_text()
    quota = '[[quota]]\npath = "/small"\nbytes_max = 3000\n'
    system.config.write_text(text + quota)
    system.start()
    assert "quota of /small" in refused(system, source, "--to", str(system.mnt / "small" / "x"))
    (source / "3").unlink()
    (source / "2").unlink()
    adopt(system, source, "--to", str(system.mnt / "small" / "x"))
    with pytest.raises(OSError, match="quota"):
        (system.mnt / "small" / "more").write_bytes(bytes(2000))
    system.stop()
    text = system.config.read_text()
    system.config.write_text(text.replace("reserve_bytes", "capacity_bytes = 5000\nreserve_bytes"))
    system.start()
    source.mkdir()
    (source / "large").write_bytes(bytes(4000))
    assert "capacity_bytes" in refused(system, source)
    check_fsck(system)


@contextlib.contextmanager
def immutable(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, IMMUTABLE.to_bytes(4, "little"))
        yield
    finally:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, bytes(4))
        os.close(fd)


def test_what_must_stay_stays_and_comes_later(fs: System, source: Path) -> None:
    for name in ("plain", "written", "immutable", "outside", "strange"):
        (source / name).write_text(name)
    for name in ("locked", "mounted", "free"):
        (source / name).mkdir()
        (source / name / "f").write_text(name)
    os.link(source / "outside", fs.dir / "elsewhere")
    os.setxattr(source / "strange", "user.hsm.pin", b"1")
    subprocess.run(["mount", "--bind", str(source / "free"), str(source / "mounted")], check=True)
    try:
        with (
            open(source / "written", "r+b") as writer,
            immutable(source / "immutable"),
            immutable(source / "locked"),
        ):
            told = adopt(fs, source, status=3)
            writer.write(b"WRI")
    finally:
        subprocess.run(["umount", str(source / "mounted")], check=True)
    reasons = {Path(item["path"]).name: item["why"] for item in told["reasons"]}
    assert "write lease refused" in reasons.pop("written")
    assert "chattr" in reasons.pop("immutable")
    assert "chattr" in reasons.pop("locked")
    assert "mounted here" in reasons.pop("mounted")
    assert "1 more names outside" in reasons.pop("outside")
    assert "user.hsm.pin cannot be kept" in reasons.pop("strange")
    assert reasons == {}
    mounted = fs.mnt / source.name
    assert sorted(os.listdir(mounted)) == ["free", "plain"]
    assert sorted(os.listdir(source)) == [
        "immutable",
        "locked",
        "mounted",
        "outside",
        "strange",
        "written",
    ]
    (fs.dir / "elsewhere").unlink()
    os.removexattr(source / "strange", "user.hsm.pin")
    told = adopt(fs, source)
    assert told["resumed"] and not source.exists()
    assert (mounted / "written").read_text() == "WRItten"
    assert (mounted / "mounted" / "f").read_text() == "mounted"
    check_fsck(fs)


def test_a_name_that_came_into_the_namespace_meanwhile_is_not_replaced(
    fs: System, source: Path
) -> None:
    (source / "f").write_text("old")
    with open(source / "f", "r+b"):
        adopt(fs, source, status=3)
    (fs.mnt / source.name / "f").write_text("new")
    told = adopt(fs, source, status=3)
    assert "has something of this name" in told["reasons"][0]["why"]
    assert (source / "f").read_text() == "old"
    assert (fs.mnt / source.name / "f").read_text() == "new"


# -- cuts -----------------------------------------------------------------------------------


def make_small(root: Path) -> None:
    root.mkdir()
    (root / "a").mkdir()
    (root / "a" / "f").write_bytes(b"f" * 5000)
    (root / "g").write_bytes(b"g" * 3000)
    os.link(root / "g", root / "a" / "h")
    os.symlink("g", root / "s")
    os.mkfifo(root / "p")


def in_one_place(source: Path, mounted: Path, name: str) -> bytes:
    """Content of a file, by its old name or the new."""
    for root in (source, mounted):
        with contextlib.suppress(FileNotFoundError):
            return (root / name).read_bytes()
    raise AssertionError(f"{name} is lost")


def check_all_there(source: Path, mounted: Path) -> None:
    assert in_one_place(source, mounted, "a/f") == b"f" * 5000
    assert in_one_place(source, mounted, "g") == b"g" * 3000
    assert in_one_place(source, mounted, "a/h") == b"g" * 3000


@pytest.mark.parametrize("also_hsmfs", [False, True])
def test_killed_at_each_step_nothing_is_lost_and_the_next_run_ends_it(
    fs: System, also_hsmfs: bool
) -> None:
    """With hsmfs going on, and with hsmfs killed at the same moment."""
    steps = cuts = 0
    while True:
        source = fs.dir / f"old{steps}"
        mounted = fs.mnt / source.name
        make_small(source)
        before = tree_of(os.fsencode(source))
        status = cut_after(steps, fs, "adopt", str(source))
        if status != CUT:
            assert status == 0
            break
        cuts += 1
        if also_hsmfs:
            fs.kill()
            subprocess.run(["umount", "-l", str(fs.mnt)], check=True)
            fs.start()
        check_all_there(source, mounted)
        if source.exists():
            assert cut_after(10**9, fs, "adopt", str(source)) == 0, steps
        assert not source.exists(), steps
        after = tree_of(os.fsencode(mounted))
        assert after == before, (steps, differences(before, after))
        shutil.rmtree(mounted)
        steps += 3 if also_hsmfs else 1
    assert cuts > 10
    check_fsck(fs)
    inodes = sum(1 for path in (fs.dir / "tier").rglob("*") if path.is_file())
    assert inodes == 2, "second names of what was cut are gone"
