"""The file system as a whole: statfs, read-only, handles, what FUSE does not have."""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import subprocess
from collections.abc import Iterator

import pytest
from fuse.conftest import made_system
from support import syscalls
from support.pathcalls import ALL, PathCall, libc
from support.places import OK, SESSIONS, content, make_file, needs_root, opened, outcome

FUSE_SUPER_MAGIC = 0x65735546
RENAME_WHITEOUT = 4
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR = 0x80086601, 0x40086602, 0x801C581F
FICLONE, FIEMAP, FIBMAP = 0x40049409, 0xC020660B, 1


def test_statfs(here):
    facts = os.statvfs(".")
    assert facts.f_blocks >= facts.f_bfree >= facts.f_bavail > 0
    assert facts.f_files >= facts.f_ffree > 0
    assert facts.f_namemax == 255
    assert facts.f_frsize in (512, 1024, 2048, 4096)
    with opened(".", os.O_RDONLY) as fd:
        assert os.fstatvfs(fd).f_namemax == 255
        assert os.fpathconf(fd, "PC_NAME_MAX") == 255


def test_written_data_takes_space(here):
    make_file("x", b"\1" * (4 << 20))
    with opened("x") as fd:
        os.fsync(fd)
        assert os.fstat(fd).st_blocks * 512 >= 4 << 20
    assert os.stat("x").st_blksize >= 4096


def test_preallocated_space_is_counted(here):
    make_file("x")
    with opened("x") as fd:
        if outcome(syscalls.fallocate, fd, 1, 0, 1 << 20) == OK:
            os.fsync(fd)
            assert os.fstat(fd).st_size == 0
            wanted = 0 if here.lacks("blocks_beyond_end") else 1 << 20
            assert os.fstat(fd).st_blocks * 512 == wanted


# -- read-only ------------------------------------------------------------------------


@contextlib.contextmanager
def read_only(path: str) -> Iterator[None]:
    """A second mount of this directory on itself that may not be written."""
    subprocess.run(["mount", "--bind", path, path], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


READING = {
    "open_read",
    "open_path",
    "stat",
    "lstat",
    "access",
    "statfs",
    "listxattr",
    "llistxattr",
    "chdir",
    "listdir",
    "readlink",
}


@needs_root
def test_nothing_changes_on_a_read_only_mount(here):
    os.mkdir("ro")
    for call in ALL:
        prepare_read_only(call)
    with read_only("ro"):
        home = os.getcwd()
        for call in ALL:
            os.chdir(f"{home}/ro/{call.name}")
            wanted = OK if call.name in READING else "EROFS"
            assert outcome(call.call, "name") == wanted, call.name
        os.chdir(home)


def prepare_read_only(call: PathCall) -> None:
    os.mkdir(f"ro/{call.name}")
    make_file(f"ro/{call.name}/other")
    if call.makes:
        return
    if call.kind == "dir":
        os.mkdir(f"ro/{call.name}/name")
    elif call.kind == "link":
        os.symlink("target", f"ro/{call.name}/name")
    else:
        make_file(f"ro/{call.name}/name")


# -- file handles ----------------------------------------------------------------------


class Handle(ctypes.Structure):
    """struct file_handle."""

    _fields_ = [
        ("bytes", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("handle", ctypes.c_ubyte * 128),
    ]


def handle_of(path: str) -> Handle:
    handle, mount = Handle(bytes=128), ctypes.c_int()
    reference = ctypes.byref(handle)
    if libc.name_to_handle_at(-100, os.fsencode(path), reference, ctypes.byref(mount), 0) != 0:
        raise OSError(ctypes.get_errno(), path)
    return handle


def open_handle(directory: int, handle: Handle, flags: int = os.O_RDONLY) -> int:
    fd = libc.open_by_handle_at(directory, ctypes.byref(handle), flags)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return fd


@needs_root
def test_handles_open_what_they_were_made_of(here):
    os.mkdir("d")
    make_file("d/x", b"by handle")
    handle = handle_of("d/x")
    os.rename("d/x", "moved")
    with opened(".", os.O_RDONLY) as directory:
        fd = open_handle(directory, handle)
        assert os.read(fd, 100) == b"by handle"
        assert os.fstat(fd).st_ino == os.stat("moved").st_ino
        os.close(fd)
        os.close(open_handle(directory, handle_of("d"), os.O_RDONLY | os.O_DIRECTORY))


@needs_root
def test_handles_of_what_is_gone_are_stale(here):
    make_file("x")
    handle = handle_of("x")
    os.unlink("x")
    for number in range(20):
        make_file(f"{number}")
    with opened(".", os.O_RDONLY) as directory:
        assert outcome(open_handle, directory, handle) == "ESTALE"


# -- what FUSE does not have --------------------------------------------------------------


def ioctl(fd: int, request: int, argument: bytes) -> None:
    fcntl.ioctl(fd, request, array.array("B", argument), True)


ONLY_EXT4 = {
    "get_flags": lambda fd: ioctl(fd, FS_IOC_GETFLAGS, bytes(8)),
    "get_project": lambda fd: ioctl(fd, FS_IOC_FSGETXATTR, bytes(28)),
    "extents": lambda fd: ioctl(fd, FIEMAP, bytes(8) + b"\xff" * 8 + bytes(48)),
}


@pytest.mark.parametrize("name", ONLY_EXT4)
def test_ioctls_of_ext4(here, name):
    make_file("x", b"123")
    with opened("x") as fd:
        result = outcome(ONLY_EXT4[name], fd)
    refused = "EOPNOTSUPP" if name == "extents" else "ENOTTY"
    assert result == (OK if here.is_reference else refused)


def test_no_clones(here):
    make_file("x", b"123")
    make_file("y")
    with opened("x") as old, opened("y") as new:
        assert outcome(fcntl.ioctl, new, FICLONE, old) == "EOPNOTSUPP"


@needs_root
def test_whiteouts(here):
    make_file("x")
    wanted = OK if here.is_reference else "EINVAL"
    assert outcome(syscalls.renameat2, b"x", b"y", RENAME_WHITEOUT) == wanted


@needs_root
def test_swap_files(here):
    """mkswap's header, so that only the file system says no."""
    header = bytearray(4096 * 10)
    header[1024:1036] = (1).to_bytes(4, "little") + (9).to_bytes(4, "little") + bytes(4)
    header[4086:4096] = b"SWAPSPACE2"
    make_file("x", bytes(header), 0o600)
    with opened("x") as fd:
        os.fsync(fd)
    assert outcome(swap_on, "x") == (OK if here.is_reference else "EINVAL")


def swap_on(path: str) -> None:
    name = os.path.abspath(path).encode()
    if libc.swapon(name, 0) != 0:
        raise OSError(ctypes.get_errno(), path)
    libc.swapoff(name)


def test_the_mount_table(here):
    with open("/proc/self/mountinfo") as table:
        lines = [line.split() for line in table]
    mounts = {line[4]: line for line in lines}
    path = os.path.dirname(here.root)
    if here.is_reference:
        assert path not in mounts
        return
    line = mounts[path]
    assert line[line.index("-") + 1] == "fuse.hsmfs"
    assert {"nosuid", "nodev"} <= set(line[5].split(","))
    assert "default_permissions" in line[-1].split(",")


@pytest.mark.fuse
@pytest.mark.parametrize("option", ["noatime", "relatime"])
@pytest.mark.parametrize("session", SESSIONS)
def test_the_option_of_access_times(tmp_path, session, option):
    """The kernel leaves access times to the server (fuse_iget: S_NOATIME)."""
    with made_system(tmp_path) as system:
        system.configure(fuse=f'session = "{session}"\noptions = ["{option}"]')
        system.start()
        old, new = str(system.mnt / "old"), str(system.mnt / "new")
        make_file(old, b"123")
        os.utime(old, (1, 1))
        for flags in (os.O_RDWR, os.O_RDONLY):
            with opened(old, flags) as fd:
                assert os.read(fd, 3) == b"123"
        with opened(new, os.O_RDWR | os.O_CREAT) as fd:
            os.pwrite(fd, b"123", 0)
            os.utime(new, (1, 1))
            assert os.pread(fd, 3, 0) == b"123"
        moved = [os.stat(path).st_atime != 1 for path in (old, new)]
    # With pyfuse3 the page cache may answer the second file's read.
    assert not any(moved) if option == "noatime" else moved[0]


def test_content_is_there_after_syncfs(here):
    make_file("x", b"synced")
    with opened("x") as fd:
        assert libc.syncfs(fd) == 0
    assert content("x") == b"synced"
