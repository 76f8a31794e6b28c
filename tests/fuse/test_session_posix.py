"""The mount behaves as a local file system, seen through ordinary calls."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import subprocess
from pathlib import Path

import pytest

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path, new: Path, flags: int) -> None:
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@pytest.fixture
def mnt(shared_fs, request) -> Path:
    """An empty directory on the mount."""
    directory = shared_fs.mnt / request.node.name.replace("/", "_")
    directory.mkdir()
    return directory


def test_files_are_written_read_appended_and_truncated(mnt):
    path = mnt / "a"
    path.write_bytes(b"0123456789")
    with path.open("ab") as file:
        file.write(b"abc")
    assert path.read_bytes() == b"0123456789abc"
    os.truncate(path, 5)
    assert path.read_bytes() == b"01234"
    os.truncate(path, 8)
    assert path.read_bytes() == b"01234\0\0\0"
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_size == 3


def test_large_files_and_writes_at_odd_places(mnt):
    data = os.urandom(3_000_001)
    path = mnt / "large"
    path.write_bytes(data)
    with path.open("r+b") as file:
        file.seek(1_234_567)
        file.write(b"x" * 200_003)
    changed = data[:1_234_567] + b"x" * 200_003 + data[1_434_570:]
    assert path.read_bytes() == changed
    with path.open("rb") as file:
        assert os.pread(file.fileno(), 1000, 1_234_000) == changed[1_234_000:1_235_000]
        assert os.pread(file.fileno(), 1000, 3_000_001) == b""


def test_modes_umask_owner_and_times_to_the_nanosecond(mnt):
    before = os.umask(0o027)
    try:
        (mnt / "d").mkdir(0o777)
        os.close(os.open(mnt / "f", os.O_CREAT | os.O_WRONLY, 0o666))
    finally:
        os.umask(before)
    assert stat.S_IMODE((mnt / "d").stat().st_mode) == 0o750
    assert stat.S_IMODE((mnt / "f").stat().st_mode) == 0o640
    os.chmod(mnt / "f", 0o4711)
    assert stat.S_IMODE((mnt / "f").stat().st_mode) == 0o4711
    os.utime(mnt / "f", ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    found = (mnt / "f").stat()
    assert found.st_atime_ns == 1_234_567_890_123_456_789
    assert found.st_mtime_ns == 987_654_321_987_654_321
    if os.geteuid() == 0:
        os.chown(mnt / "f", 12, 34)
        assert ((mnt / "f").stat().st_uid, (mnt / "f").stat().st_gid) == (12, 34)


def test_hard_links_share_one_inode(mnt):
    (mnt / "a").write_bytes(b"one")
    (mnt / "d").mkdir()
    os.link(mnt / "a", mnt / "d" / "b")
    assert (mnt / "a").stat().st_nlink == 2
    assert (mnt / "a").stat().st_ino == (mnt / "d" / "b").stat().st_ino
    (mnt / "d" / "b").write_bytes(b"two")
    assert (mnt / "a").read_bytes() == b"two"
    (mnt / "a").unlink()
    assert (mnt / "d" / "b").stat().st_nlink == 1
    assert (mnt / "d" / "b").read_bytes() == b"two"


def test_symbolic_links_and_special_files(mnt):
    os.symlink("some/target", mnt / "s")
    assert os.readlink(mnt / "s") == "some/target"
    assert (mnt / "s").lstat().st_size == len("some/target")
    os.mkfifo(mnt / "p", 0o600)
    assert stat.S_ISFIFO((mnt / "p").stat().st_mode)


def test_rename_replaces_exchanges_and_refuses(mnt):
    (mnt / "a").write_bytes(b"a")
    (mnt / "b").write_bytes(b"b")
    with pytest.raises(OSError) as refused:
        renameat2(mnt / "a", mnt / "b", RENAME_NOREPLACE)
    assert refused.value.errno == errno.EEXIST
    renameat2(mnt / "a", mnt / "b", RENAME_EXCHANGE)
    assert (mnt / "a").read_bytes() == b"b"
    os.rename(mnt / "a", mnt / "b")
    assert (mnt / "b").read_bytes() == b"b"
    assert os.listdir(mnt) == ["b"]
    (mnt / "d").mkdir()
    os.rename(mnt / "b", mnt / "d" / "c")
    (mnt / "e").mkdir()
    os.rename(mnt / "d", mnt / "e" / "d")
    assert (mnt / "e" / "d" / "c").read_bytes() == b"b"
    with pytest.raises(OSError) as refused:
        os.rename(mnt / "e", mnt / "e" / "d" / "below")
    assert refused.value.errno == errno.EINVAL


def test_directory_errors(mnt):
    (mnt / "d").mkdir()
    (mnt / "d" / "f").write_bytes(b"")
    for call, expected in [
        (lambda: (mnt / "d").rmdir(), errno.ENOTEMPTY),
        (lambda: (mnt / "d").mkdir(), errno.EEXIST),
        (lambda: (mnt / "x").stat(), errno.ENOENT),
        (lambda: (mnt / "d" / "f" / "g").stat(), errno.ENOTDIR),
        (lambda: (mnt / "d").unlink(), errno.EISDIR),
        (lambda: (mnt / ("n" * 256)).write_bytes(b""), errno.ENAMETOOLONG),
    ]:
        with pytest.raises(OSError) as refused:
            call()
        assert refused.value.errno == expected


def test_names_come_and_go_though_absence_was_seen(mnt):
    for _ in range(3):
        assert not (mnt / "n").exists()
        (mnt / "n").write_bytes(b"1")
        assert (mnt / "n").read_bytes() == b"1"
        (mnt / "n").unlink()
    assert not (mnt / "n").exists()


def test_names_are_bytes(mnt):
    name = os.fsencode(mnt) + b"/\xff\xfe odd \n name"
    with open(name, "wb") as file:
        file.write(b"x")
    assert os.listdir(os.fsencode(mnt)) == [b"\xff\xfe odd \n name"]


def test_extended_attributes(mnt):
    path = mnt / "f"
    path.write_bytes(b"")
    os.setxattr(path, "user.color", b"red", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.color", b"blue", os.XATTR_CREATE)
    with pytest.raises(OSError) as absent:
        os.setxattr(path, "user.other", b"x", os.XATTR_REPLACE)
    assert absent.value.errno == errno.ENODATA
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.color") == b"red"
    assert os.getxattr(path, "user.empty") == b""
    assert {"user.color", "user.empty"} <= set(os.listxattr(path))
    os.removexattr(path, "user.color")
    assert "user.color" not in os.listxattr(path)
    big = os.urandom(60_000)
    os.setxattr(path, "user.big", big)
    assert os.getxattr(path, "user.big") == big
    assert os.getxattr(path, "user.hsm.state") == b"resident"


def cached_bytes(system, path: Path) -> int:
    """What the cache file takes on its disk."""
    name = f"{path.stat().st_ino:x}"
    [found] = (system.dir / "tier").rglob(name)
    return found.stat().st_blocks * 512


def test_sparse_files_take_little_space(shared_fs, mnt):
    path = mnt / "sparse"
    with path.open("wb") as file:
        file.seek(50_000_000)
        file.write(b"end")
    assert path.stat().st_size == 50_000_003
    assert cached_bytes(shared_fs, path) < 5_000_000
    with path.open("rb") as file:
        assert file.read(10_000) == bytes(10_000)
        file.seek(50_000_000)
        assert file.read() == b"end"


def test_an_open_file_outlives_its_name(mnt):
    path = mnt / "gone"
    with path.open("w+b") as file:
        file.write(b"before")
        file.flush()
        path.unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b" after")
        file.flush()
        file.seek(0)
        assert file.read() == b"before after"
        os.ftruncate(file.fileno(), 3)
        assert os.fstat(file.fileno()).st_size == 3
    assert not path.exists()


def test_a_removed_name_that_is_only_referred_to_can_be_asked(mnt):
    (mnt / "f").write_bytes(b"x")
    (mnt / "d").mkdir()
    file = os.open(mnt / "f", os.O_PATH)
    directory = os.open(mnt / "d", os.O_PATH)
    (mnt / "f").unlink()
    (mnt / "d").rmdir()
    assert os.fstat(file).st_nlink == 0
    assert os.fstat(directory).st_nlink == 0
    os.close(file)
    os.close(directory)


def test_a_large_directory_is_listed_while_entries_are_removed(mnt):
    names = {f"file-{number:05d}" for number in range(5_000)}
    for name in names:
        os.close(os.open(mnt / name, os.O_CREAT | os.O_WRONLY))
    assert set(os.listdir(mnt)) == names
    seen = []
    with os.scandir(mnt) as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) % 2:
                os.unlink(entry.path)
    assert sorted(seen) == sorted(names)
    assert len(os.listdir(mnt)) == 2_500


def test_fsync_of_files_and_directories(mnt):
    with (mnt / "f").open("wb") as file:
        file.write(b"x" * 100_000)
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    directory = os.open(mnt, os.O_DIRECTORY)
    os.fsync(directory)
    os.close(directory)


def test_space_is_reported(mnt):
    facts = os.statvfs(mnt)
    assert facts.f_blocks >= facts.f_bfree > 0
    assert facts.f_namemax == 255


def test_maps_of_memory(mnt):
    import mmap

    path = mnt / "m"
    path.write_bytes(b"a" * 10_000)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5000:5003] = b"xyz"
        mapped.flush()
    assert path.read_bytes() == b"a" * 5000 + b"xyz" + b"a" * 4997


def make_tree(root: Path) -> None:
    (root / "deep" / "er").mkdir(parents=True)
    for number in range(20):
        path = root / "deep" / f"slice{number}.dcm"
        path.write_bytes(os.urandom(number * 7_777))
        os.utime(path, ns=(10**18 + number, 10**18 + number * 1_000_001))
    os.symlink("../slice1.dcm", root / "deep" / "er" / "link")
    os.utime(root / "deep" / "er" / "link", ns=(10**18, 10**18 + 7), follow_symlinks=False)
    os.link(root / "deep" / "slice2.dcm", root / "deep" / "er" / "hard")
    os.chmod(root / "deep" / "slice3.dcm", 0o400)
    os.setxattr(root / "deep" / "slice4.dcm", "user.patient", b"somebody")
    for directory in (root / "deep" / "er", root / "deep"):
        # Long ago: rsync takes times of one second for equal.
        os.utime(directory, ns=(10**18 + 5, 10**18 + 123_456_789))


def listing(root: Path) -> list[tuple]:
    rows = []
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        kind = stat.S_IFMT(facts.st_mode)
        content = path.read_bytes() if stat.S_ISREG(kind) else b""
        links = facts.st_nlink if stat.S_ISREG(kind) else 0
        rows.append(
            (path.relative_to(root), facts.st_mode, facts.st_mtime_ns, links, facts.st_uid, content)
        )
    return rows


@pytest.mark.parametrize(
    "command", [["cp", "-a"], ["rsync", "-aHX", "--inplace"], ["rsync", "-aHX"]], ids=" ".join
)
def test_trees_are_copied_in_and_out(mnt, tmp_path, command):
    source = tmp_path / "source"
    source.mkdir()
    make_tree(source)
    subprocess.run([*command, f"{source}/.", mnt / "tree"], check=True)
    assert listing(mnt / "tree") == listing(source)
    assert os.getxattr(mnt / "tree" / "deep" / "slice4.dcm", "user.patient") == b"somebody"
    subprocess.run([*command, f"{mnt}/tree/.", tmp_path / "back"], check=True)
    assert listing(tmp_path / "back") == listing(source)
