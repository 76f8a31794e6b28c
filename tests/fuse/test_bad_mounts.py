"""Mounts that cannot be: one line with file, line, key, what was found and what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fuse.conftest import made_system
from support.mountspaces import AS_NOBODY, NOBODY, Space, space

from hsmfs.session.mounting import mounted_at
from hsmfs.store.lmdbstore import LmdbStore

TIMEOUT_S = 60.0
PAGE = 4096

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs mount(2)")


def said_once(system, code: int, said: str, *words: str) -> None:
    """One line of error, no traceback, no mount left."""
    assert code == 1, said
    lines = [line for line in said.splitlines() if line.startswith("hsmfs: ")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    for word in words:
        assert word in lines[0], lines[0]
    there = mounted_at(system.mnt)
    assert there is None or not there.fs_type.startswith("fuse"), there


def must_refuse(system, *words: str) -> None:
    said_once(system, *system.run_to_end(), *words)


def at_key(system, key: str) -> str:
    """Where the configuration has it, as errors say it."""
    table, name = key.split(".")
    inside = False
    for number, line in enumerate(system.config.read_text().splitlines(), start=1):
        if line.startswith("["):
            inside = line == f"[{table}]"
        elif inside and line.startswith(f"{name} ="):
            return f"{system.config}:{number}: {key}: "
    raise AssertionError(key)


# -- the mount point ---------------------------------------------------------------------


@pytest.mark.parametrize("session", ["native", "pyfuse3"])
def test_missing_mount_point(system, session):
    system.configure(fuse=f'session = "{session}"')
    system.mnt.rmdir()
    must_refuse(system, at_key(system, "fuse.mount"), "no such directory", "mkdir -p")
    system.mnt.mkdir()
    system.start()


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: os.mkfifo(path)])
def test_a_mount_point_that_is_no_directory(system, make):
    system.mnt.rmdir()
    make(system.mnt)
    must_refuse(system, at_key(system, "fuse.mount"), "found a file", "name another")


def test_a_mount_point_with_files(system):
    (system.mnt / "precious").touch()
    must_refuse(system, at_key(system, "fuse.mount"), "not empty", "precious", "move them away")


def test_a_mount_point_with_another_file_system(system):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", system.mnt], check=True)
    try:
        must_refuse(system, at_key(system, "fuse.mount"), "busy", "tmpfs", "umount")
    finally:
        subprocess.run(["umount", system.mnt], check=True)


def test_a_mount_point_of_another_live_hsmfs(fs, tmp_path):
    (tmp_path / "other").mkdir()
    (fs.mnt / "f").write_text("here")
    with made_system(tmp_path / "other") as other:
        text = other.config.read_text().replace(f'"{other.mnt}"', f'"{fs.mnt}"')
        other.config.write_text(text)
        other_mnt, other.mnt = other.mnt, tmp_path / "nowhere"
        must_refuse(other, at_key(other, "fuse.mount"), "busy", "fuse.hsmfs")
        other.mnt = other_mnt
    assert (fs.mnt / "f").read_text() == "here"


def test_the_same_system_twice(fs):
    first, fs.process = fs.process, None
    fs.log.unlink()
    code, said = fs.run_to_end()
    fs.process = first
    first_line = next(line for line in said.splitlines() if line.startswith("hsmfs: "))
    assert code == 1
    for word in (at_key(fs, "run.path"), f"process id {first.pid}", "stop it first"):
        assert word in first_line
    (fs.mnt / "f").write_text("goes on")


@pytest.mark.parametrize("session", ["native", "pyfuse3"])
def test_a_dead_mount_is_taken_away(system, session):
    system.configure(fuse=f'session = "{session}"')
    system.start()
    for number in range(3):
        with (system.mnt / f"f{number}").open("wb") as file:
            file.write(b"synced")
            file.flush()
            os.fsync(file.fileno())
        system.kill()
        with pytest.raises(OSError, match="not connected"):
            os.listdir(system.mnt)
        system.start()
        assert len(os.listdir(system.mnt)) == number + 1
    mounts = Path("/proc/self/mountinfo").read_text().count(f" {system.mnt} ")
    assert mounts == 1


# -- the device and what we may do -------------------------------------------------------


@pytest.fixture
def inside(system, tmp_path):
    with space(tmp_path / "space") as made:
        yield made


def run_inside(inside: Space, system, *how: str) -> tuple[int, str]:
    command = [*how, sys.executable, "-m", "hsmfs.main", "--config", system.config]
    done = inside.run(*command, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("session", ["native", "pyfuse3"])
def test_no_device(inside, system, session):
    system.configure(fuse=f'session = "{session}"')
    inside.drop_device()
    said_once(system, *run_inside(inside, system), "/dev/fuse: not found", "modprobe fuse")


@pytest.mark.parametrize("session", ["native", "pyfuse3"])
def test_a_file_in_place_of_the_device(inside, system, session):
    system.configure(fuse=f'session = "{session}"')
    inside.put_device(stat.S_IFREG)
    said_once(system, *run_inside(inside, system), "/dev/fuse: found no character device", "mknod")


@pytest.mark.parametrize("session", ["native", "pyfuse3"])
def test_a_device_without_its_driver(inside, system, session):
    system.configure(fuse=f'session = "{session}"')
    inside.put_device(number=os.makedev(10, 254))
    said_once(system, *run_inside(inside, system), "fuse")


def test_no_capability_and_nobody_who_has_it(inside, system):
    """As in most containers."""
    less = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    said = run_inside(inside, system, *less)
    said_once(system, *said, at_key(system, "fuse.mount"), "CAP_SYS_ADMIN", "container")


NO_SYS_ADMIN = """
import ctypes, struct, sys
header = struct.pack("<Ii", 0x20080522, 0)
sets = ctypes.create_string_buffer(24)
libc = ctypes.CDLL(None)
assert libc.capget(header, sets) == 0
words = list(struct.unpack("<6I", sets.raw))
for place in (0, 1):
    words[place] &= ~(1 << 21)
assert libc.capset(header, struct.pack("<6I", *words)) == 0
from hsmfs.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_no_capability_but_fusermount3(system):
    """Mounted by it; passthrough is off, which is said once."""
    with system.log.open("a") as log:
        system.process = subprocess.Popen(
            [sys.executable, "-c", NO_SYS_ADMIN, "--config", str(system.config)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert "ready" in system.process.stdout.readline(), system.log.read_text()
    for number in range(20):
        path = system.mnt / f"f{number}"
        path.write_bytes(b"x" * 100_000)
        assert path.read_bytes() == b"x" * 100_000
    assert system.stop() == 0
    text = system.log.read_text()
    assert text.count("passthrough is off") == 1
    assert "CAP_SYS_ADMIN is missing" in text
    system.start()
    assert len(os.listdir(system.mnt)) == 20


@pytest.fixture
def of_nobody():
    directory = Path(tempfile.mkdtemp(prefix="hsmfs-user-"))
    directory.chmod(0o755)
    try:
        with made_system(directory) as made:
            for path in [directory, *directory.rglob("*")]:
                os.chown(path, NOBODY, NOBODY)
            made.configure(fuse="allow_other = false")
            yield made
    finally:
        shutil.rmtree(directory)


def test_a_user_who_may_not_open_the_device(of_nobody, tmp_path):
    with space(tmp_path / "space") as inside:
        inside.let_users_run_python()
        inside.put_device()
        (inside.scratch / "fuse").chmod(0o600)
        said = run_inside(inside, of_nobody, *AS_NOBODY)
    said_once(of_nobody, *said, f"/dev/fuse: not readable and writable for user {NOBODY}", "root")


def test_a_user_whose_mount_point_it_is_not(of_nobody, tmp_path):
    with space(tmp_path / "space") as inside:
        inside.let_users_run_python()
        inside.put_device()
        os.chown(of_nobody.mnt, 0, 0)
        said = run_inside(inside, of_nobody, *AS_NOBODY)
    said_once(of_nobody, *said, at_key(of_nobody, "fuse.mount"), "must own the directory")


def test_a_user_without_fusermount3(of_nobody, tmp_path):
    with space(tmp_path / "space") as inside:
        inside.let_users_run_python()
        inside.put_device()
        said = run_inside(inside, of_nobody, *AS_NOBODY, "env", "PATH=/nonexistent")
    said_once(of_nobody, *said, "install the package fuse3")


def test_a_run_directory_of_another_user(of_nobody, tmp_path):
    (of_nobody.run_dir / "hsmfs.lock").touch(0o600)
    with space(tmp_path / "space") as inside:
        inside.let_users_run_python()
        inside.put_device()
        said = run_inside(inside, of_nobody, *AS_NOBODY)
    said_once(of_nobody, *said, "hsmfs.lock: Permission denied", "another user")


# -- the namespace's store ---------------------------------------------------------------


@pytest.fixture
def stopped(system):
    """A system that has a thousand names, at rest."""
    system.start()
    for number in range(1000):
        (system.mnt / f"file-with-a-long-name-{number}").touch()
    (system.mnt / "precious").write_bytes(b"precious")
    assert system.stop() == 0
    system.log.unlink()
    return system


def data_of(system) -> Path:
    return system.dir / "namespace" / "data.mdb"


def cut_to(pages: float):
    def cut(path: Path) -> None:
        os.truncate(path, int(path.stat().st_size * pages) if pages < 1 else int(pages))

    return cut


def overwritten(start: int, content: bytes):
    def overwrite(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(content)

    return overwrite


DAMAGES = {
    "emptied": cut_to(0.0),
    "one byte": cut_to(1),
    "header only": cut_to(2 * PAGE),
    "half": cut_to(0.5),
    "most of it": cut_to(0.95),
    "header zeroed": overwritten(0, bytes(2 * PAGE)),
    "header random": overwritten(0, random.Random(1).randbytes(2 * PAGE)),
    "no LMDB": lambda path: path.write_bytes(b"no LMDB" * 5000),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store(stopped, damage):
    files = sum(1 for path in (stopped.dir / "tier").rglob("*") if path.is_file())
    kept = data_of(stopped).with_name("kept")
    shutil.copyfile(data_of(stopped), kept)
    DAMAGES[damage](data_of(stopped))
    must_refuse(stopped, at_key(stopped, "namespace.path"), "found", "restore")
    assert sum(1 for path in (stopped.dir / "tier").rglob("*") if path.is_file()) == files
    kept.rename(data_of(stopped))
    (stopped.dir / "namespace" / "lock.mdb").unlink()
    stopped.start()
    assert (stopped.mnt / "precious").read_bytes() == b"precious"
    assert len(os.listdir(stopped.mnt)) == 1001


@pytest.mark.parametrize("seed", range(6))
def test_pages_overwritten_at_random(system, seed):
    """It starts and serves what can be read, or says why not; nothing in between."""
    system.start()
    for number in range(300):
        (system.mnt / f"file-with-a-long-name-{number}").touch()
    assert system.stop() == 0
    system.log.unlink()
    chance = random.Random(seed)
    size = data_of(system).stat().st_size
    for page in chance.sample(range(2, size // PAGE), k=max(1, size // PAGE // 3)):
        overwritten(page * PAGE, chance.randbytes(PAGE))(data_of(system))
    process = system.launch()
    if "ready" not in process.stdout.readline():
        assert process.wait(TIMEOUT_S) == 1
        said_once(system, 1, system.log.read_text(), "damaged", "restore")
        return
    for number in range(300):
        try:
            (system.mnt / f"file-with-a-long-name-{number}").lstat()
        except OSError as error:
            assert error.errno in (errno.EIO, errno.ENOENT)


def test_a_missing_store_beside_a_full_cache(stopped):
    shutil.rmtree(stopped.dir / "namespace")
    (stopped.dir / "namespace").mkdir()
    must_refuse(stopped, at_key(stopped, "namespace.path"), "found no namespace", "empty the tier")
    data = [path.read_bytes() for path in (stopped.dir / "tier").rglob("*") if path.is_file()]
    assert b"precious" in data


def test_a_store_of_a_newer_program(stopped):
    store = LmdbStore(stopped.dir / "namespace", 1 << 30)
    store.transact(lambda writer: writer.put(b"Mversion", b"99"))
    store.close()
    must_refuse(stopped, "found version 99", "install the newer hsmfs")


def test_a_store_that_may_not_be_read(of_nobody, tmp_path):
    (of_nobody.dir / "namespace").chmod(0o700)
    os.chown(of_nobody.dir / "namespace", 0, 0)
    with space(tmp_path / "space") as inside:
        inside.let_users_run_python()
        inside.put_device()
        code, said = run_inside(inside, of_nobody, *AS_NOBODY)
    assert code == 2
    assert "namespace.path: found" in said
    assert "not writable" in said


@pytest.mark.parametrize("session", ["native", "pyfuse3"])
def test_a_lock_held_by_another(system, session):
    system.configure(fuse=f'session = "{session}"')
    with (system.run_dir / "hsmfs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        must_refuse(system, at_key(system, "run.path"), "in use", "stop it first")
    system.start()


def test_a_tier_whose_disk_is_not_mounted(stopped):
    tier, aside = stopped.dir / "tier", stopped.dir / "tier of the disk"
    tier.rename(aside)
    tier.mkdir()
    must_refuse(stopped, "tier[0].path: ", "found an empty directory", "is its disk mounted?")
    assert not list(tier.iterdir())
    tier.rmdir()
    aside.rename(tier)
    stopped.start()
    assert (stopped.mnt / "precious").read_bytes() == b"precious"
