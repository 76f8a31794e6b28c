"""The mount exported by Debian's nfs-ganesha, with the sample configuration."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.exports import Ganesha, need, running, wait_until
from support.nfsclient import NfsClient

PACKAGES = "nfs-ganesha nfs-ganesha-vfs libnfs-utils"
FILES = 10_000
SIZE = 300_000
WAIT_S = 60.0


def serve(directory: Path, export: Path) -> Iterator[Ganesha]:
    need("ganesha.nfsd", "nfs-cat", packages=PACKAGES)
    server = Ganesha(directory / "ganesha", export)
    with running(server):
        yield server


@pytest.fixture(scope="module")
def nfs(shared_fs, tmp_path_factory) -> Iterator[Ganesha]:
    """An export of the module's mount."""
    yield from serve(tmp_path_factory.mktemp("nfs"), shared_fs.mnt)


@pytest.fixture
def own_nfs(fs, tmp_path) -> Iterator[Ganesha]:
    """An export of the test's own mount."""
    yield from serve(tmp_path, fs.mnt)


@pytest.fixture
def mount() -> Iterator[Callable[[Ganesha], NfsClient]]:
    """Makes clients; all are closed at the end."""
    made = []

    def one(server: Ganesha) -> NfsClient:
        made.append(NfsClient(server.url()))
        return made[-1]

    yield one
    for client in made:
        client.close()


def make(path: Path, size: int = SIZE) -> bytes:
    data = os.urandom(size)
    path.write_bytes(data)
    return data


def residency(path: Path) -> bytes:
    return os.getxattr(path, "user.hsm.state")


def test_what_a_client_writes_is_there_and_comes_back(nfs, shared_fs, mount):
    client, data = mount(nfs), os.urandom(SIZE)
    client.mkdir("/docs")
    client.write("/docs/written", data)
    assert (shared_fs.mnt / "docs/written").read_bytes() == data
    assert mount(nfs).read("/docs/written") == data
    found, local = client.stat("/docs/written"), (shared_fs.mnt / "docs/written").stat()
    assert (found.ino, found.size, found.mode) == (local.st_ino, SIZE, local.st_mode)


def test_bytes_in_the_middle_and_a_shorter_end(nfs, shared_fs, mount):
    client, path = mount(nfs), shared_fs.mnt / "changed"
    data = make(path)
    with client.open("/changed", os.O_RDWR) as file:
        file.write(1000, b"in between")
        file.sync()
        assert file.read(0, 2000) == data[:1000] + b"in between" + data[1010:2000]
    client.truncate("/changed", 1005)
    assert path.read_bytes() == data[:1000] + b"in be"


def test_the_programs_of_libnfs(nfs, shared_fs):
    data = make(shared_fs.mnt / "for programs")
    shown = subprocess.run(["nfs-ls", nfs.url()], capture_output=True, check=True, text=True)
    assert " for programs\n" in shown.stdout
    cat = ["nfs-cat", nfs.url("/for programs")]
    assert subprocess.run(cat, capture_output=True, check=True).stdout == data


def test_rename_and_delete(nfs, shared_fs, mount):
    client = mount(nfs)
    data = make(shared_fs.mnt / "old")
    make(shared_fs.mnt / "replaced")
    client.rename("/old", "/replaced")
    assert (shared_fs.mnt / "replaced").read_bytes() == data
    assert not (shared_fs.mnt / "old").exists()
    client.mkdir("/folder")
    client.rename("/replaced", "/folder/new")
    with pytest.raises(OSError, match="NOTEMPTY"):
        client.rmdir("/folder")
    client.unlink("/folder/new")
    client.rmdir("/folder")
    assert not (shared_fs.mnt / "folder").exists()


def test_ten_thousand_files_are_listed_once_each(nfs, shared_fs, mount):
    folder = shared_fs.mnt / "many"
    folder.mkdir()
    expected = [f"file{number:05d}" for number in range(FILES)]
    for name in expected:
        (folder / name).touch()
    names = mount(nfs).names("/many")
    assert sorted(set(names) - {".", ".."}) == expected
    assert len(names) == len(set(names))


def test_locks_hold_between_clients_and_against_local_programs(nfs, shared_fs, mount):
    # Each that may be refused is a client of its own: after a refusal libnfs
    # no longer agrees with the server on the number of its requests.
    holder, other, refused, later = (mount(nfs) for _ in range(4))
    path = shared_fs.mnt / "locked"
    make(path, 1000)
    with holder.open("/locked", os.O_RDWR) as held:
        held.lock(0, 100)
        with other.open("/locked", os.O_RDWR) as file:
            file.lock(200, 10)
        with pytest.raises(OSError, match="DENIED"), refused.open("/locked", os.O_RDWR) as file:
            file.lock(50, 10)
        with path.open("r+b") as local, pytest.raises(BlockingIOError):
            fcntl.lockf(local, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        held.unlock(0, 100)
    with later.open("/locked", os.O_RDWR) as file:
        file.lock(50, 10)


def test_a_local_lock_holds_against_clients(nfs, shared_fs, mount):
    path = shared_fs.mnt / "held"
    make(path, 1000)
    with path.open("r+b") as local:
        fcntl.lockf(local, fcntl.LOCK_EX, 10, 0)
        with (
            pytest.raises(OSError, match="DENIED"),
            mount(nfs).open("/held", os.O_RDWR) as file,
        ):
            file.lock(0, 5)


def test_a_written_file_is_closed_soon_so_that_it_can_migrate(own_nfs, fs, mount, hsmd):
    data = os.urandom(SIZE)
    mount(own_nfs).write("/written", data)
    path = fs.mnt / "written"
    wait_until(lambda: path not in own_nfs.open_files())
    hsmd.make_stubs(path)
    assert residency(path) == b"migrated"
    assert mount(own_nfs).read("/written") == data
    wait_until(lambda: residency(path) == b"premigrated")
    assert hsmd.loads == 1


def test_looking_at_a_stub_does_not_recall_it(own_nfs, fs, mount, hsmd):
    make(fs.mnt / "stub")
    hsmd.make_stubs(fs.mnt / "stub")
    client = mount(own_nfs)
    assert client.stat("/stub").size == SIZE
    assert "stub" in client.names("/")
    client.rename("/stub", "/seen")
    assert residency(fs.mnt / "seen") == b"migrated"
    assert hsmd.loads == 0


def test_others_go_on_while_one_reads_a_stub(own_nfs, fs, mount, play_hsmd):
    robot = play_hsmd(fs, answering=False)
    data = make(fs.mnt / "stub")
    other = make(fs.mnt / "other")
    (stub,) = robot.make_stubs(fs.mnt / "stub")
    reader_client, client = mount(own_nfs), mount(own_nfs)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(reader_client.read("/stub")))
    reader.start()
    try:
        wait_until(lambda: robot.wanted_of(stub))
        assert client.read("/other") == other
        client.write("/new", other)
        assert client.stat("/stub").size == SIZE
        assert not read
    finally:
        robot.recall(stub)
        reader.join(WAIT_S)
    assert read == [data]


def test_file_handles_are_the_same_after_restarts(own_nfs, fs, mount, play_hsmd):
    robot = play_hsmd(fs)
    data = make(fs.mnt / "stub")
    (fs.mnt / "folder").mkdir()
    other = make(fs.mnt / "folder/other")
    robot.make_stubs(fs.mnt / "stub")
    before = handles(mount(own_nfs), "/stub", "/folder/other")
    robot.close()
    # ganesha has the mount open: what it has is detached, and the new mount
    # gets another device number.
    fs.stop()
    fs.start()
    own_nfs.stop()
    own_nfs.start()
    play_hsmd(fs).discs = robot.discs
    client = mount(own_nfs)
    assert handles(client, "/stub", "/folder/other") == before
    assert client.read("/folder/other") == other
    assert client.read("/stub") == data
    wait_until(lambda: residency(fs.mnt / "stub") == b"premigrated")


def handles(client: NfsClient, *paths: str) -> list[bytes]:
    found = []
    for path in paths:
        with client.open(path) as file:
            found.append(file.handle())
    return found
