"""The mount as a share of Debian's Samba, with the sample configuration."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.exports import Samba, need, running, wait_until
from support.smbshell import SmbShell

from hsmfs.namespace.dosattrib import OFFLINE, attributes

PACKAGES = "samba smbclient"
ARCHIVE, HIDDEN = 0x20, 0x02
FILES = 10_000
SIZE = 3_000_000
TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, int(sys.argv[3]), int(sys.argv[2]))
        print("granted")
    except BlockingIOError:
        print("refused")
"""


def serve(directory: Path, share: Path) -> Iterator[Samba]:
    need("smbd", "smbclient", packages=PACKAGES)
    server = Samba(directory / "samba", share)
    with running(server):
        yield server


@pytest.fixture(scope="module")
def smb(shared_fs, tmp_path_factory) -> Iterator[Samba]:
    """A share of the module's mount."""
    yield from serve(tmp_path_factory.mktemp("smb"), shared_fs.mnt)


@pytest.fixture
def own_smb(fs, tmp_path) -> Iterator[Samba]:
    """A share of the test's own mount."""
    yield from serve(tmp_path, fs.mnt)


@pytest.fixture
def robot(shared_fs, play_hsmd):
    """Makes and recalls stubs on the module's mount."""
    return play_hsmd(shared_fs)


def make(path: Path, size: int = SIZE) -> bytes:
    data = os.urandom(size)
    path.write_bytes(data)
    return data


def stored(path: Path) -> int | None:
    return attributes(os.getxattr(path, "user.DOSATTRIB"))


def residency(path: Path) -> bytes:
    return os.getxattr(path, "user.hsm.state")


def try_lock(path: Path, start: int, size: int) -> str:
    """Another local process asks for a lock."""
    command = [sys.executable, "-S", "-c", TRY_LOCK, str(path), str(start), str(size)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_client_writes_is_there_and_comes_back(smb, shared_fs, tmp_path):
    data = make(tmp_path / "here")
    smb.client("mkdir docs", f'put "{tmp_path / "here"}" docs\\written')
    assert (shared_fs.mnt / "docs/written").read_bytes() == data
    smb.client(f'get docs\\written "{tmp_path / "back"}"')
    assert (tmp_path / "back").read_bytes() == data


def test_what_a_client_writes_over_a_file_replaces_it(smb, shared_fs, tmp_path):
    make(shared_fs.mnt / "replaced")
    data = make(tmp_path / "here", 1000)
    smb.client(f'put "{tmp_path / "here"}" replaced')
    assert (shared_fs.mnt / "replaced").read_bytes() == data


def test_rename_and_delete(smb, shared_fs):
    data = make(shared_fs.mnt / "old", 1000)
    (shared_fs.mnt / "folder").mkdir()
    smb.client("rename old folder\\new")
    assert (shared_fs.mnt / "folder/new").read_bytes() == data
    assert not (shared_fs.mnt / "old").exists()
    assert "NT_STATUS_DIRECTORY_NOT_EMPTY" in smb.client("rmdir folder", check=False)
    smb.client("del folder\\new", "rmdir folder")
    assert not (shared_fs.mnt / "folder").exists()


def test_ten_thousand_files_are_listed_once_each(smb, shared_fs):
    folder = shared_fs.mnt / "many"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"file{number:05d}").touch()
    shown = set(smb.attributes("many\\")) - {".", ".."}
    assert shown == {f"file{number:05d}" for number in range(FILES)}


def test_a_client_s_lock_holds_against_local_programs(smb, shared_fs):
    path = shared_fs.mnt / "locked"
    make(path, 1000)
    shell = SmbShell(smb.client_command())
    try:
        file = shell.open("locked")
        assert shell.lock(file, 100, 50)
        assert try_lock(path, 120, 10) == "refused"
        assert try_lock(path, 200, 10) == "granted"
        shell.unlock(file, 100, 50)
        assert try_lock(path, 120, 10) == "granted"
    finally:
        shell.close()


def test_a_local_lock_holds_against_clients(smb, shared_fs, tmp_path):
    path = shared_fs.mnt / "held"
    data = make(path, 1000)
    copy = tmp_path / "copy"
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        refused = smb.client(f'get held "{copy}"', check=False)
        assert "NT_STATUS_FILE_LOCK_CONFLICT" in refused
    smb.client(f'get held "{copy}"')
    assert copy.read_bytes() == data


def test_stubs_and_nothing_else_are_shown_as_offline(smb, shared_fs, robot):
    folder = shared_fs.mnt / "shown"
    folder.mkdir()
    make(folder / "stub")
    make(folder / "resident")
    robot.make_stubs(folder / "stub")
    assert "attributes: O (1000)" in smb.client("allinfo shown\\stub")
    assert "attributes:  (80)" in smb.client("allinfo shown\\resident")
    shown = smb.attributes("shown\\")
    assert shown == {".": "D", "..": "D", "stub": "o", "resident": "N"}


def test_attributes_that_samba_keeps_survive_release_and_recall(smb, shared_fs, robot, tmp_path):
    data = make(tmp_path / "here")
    path = shared_fs.mnt / "kept"
    smb.client(f'put "{tmp_path / "here"}" kept')
    assert stored(path) == ARCHIVE
    before = smb.client("allinfo kept").splitlines()[1]
    robot.make_stubs(path)
    shown = smb.client("allinfo kept")
    assert "attributes: OA (1020)" in shown
    assert "create_time" in before and shown.splitlines()[1] == before
    # What smbclient sets holds what it read, our bit too.
    smb.client("setmode kept +h")
    assert stored(path) == OFFLINE | ARCHIVE | HIDDEN
    smb.client(f'get kept "{tmp_path / "back"}"')
    assert (tmp_path / "back").read_bytes() == data
    wait_until(lambda: residency(path) == b"premigrated")
    assert stored(path) == ARCHIVE | HIDDEN
    assert "attributes: HA (22)" in smb.client("allinfo kept")


def test_looking_at_a_stub_does_not_recall_it(smb, shared_fs, robot):
    make(shared_fs.mnt / "looked at")
    robot.make_stubs(shared_fs.mnt / "looked at")
    smb.client("ls", 'allinfo "looked at"', 'setmode "looked at" +h', 'rename "looked at" seen')
    assert robot.loads == 0
    assert residency(shared_fs.mnt / "seen") == b"migrated"


def test_others_go_on_while_one_reads_a_stub(own_smb, fs, play_hsmd, tmp_path):
    robot = play_hsmd(fs, answering=False)
    data = make(fs.mnt / "stub")
    other = make(fs.mnt / "other")
    (stub,) = robot.make_stubs(fs.mnt / "stub")
    get = own_smb.client_command("-c", f'get stub "{tmp_path / "stub"}"')
    reader = subprocess.Popen(get, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: robot.wanted_of(stub))
        own_smb.client(f'get other "{tmp_path / "other"}"', "mkdir new", "allinfo stub", "ls")
        assert (tmp_path / "other").read_bytes() == other
        assert reader.poll() is None
        robot.recall(stub)
        said, _ = reader.communicate(timeout=60)
    finally:
        reader.kill()
        reader.communicate()
    assert reader.returncode == 0, said
    assert (tmp_path / "stub").read_bytes() == data


def test_a_restart_of_hsmfs_needs_none_of_samba(own_smb, fs, tmp_path):
    data = make(fs.mnt / "file")
    own_smb.client("ls")
    fs.stop()
    assert "NT_STATUS_" in own_smb.client("get file -", check=False)
    fs.start()
    own_smb.client(f'get file "{tmp_path / "back"}"', "mkdir new")
    assert (tmp_path / "back").read_bytes() == data
