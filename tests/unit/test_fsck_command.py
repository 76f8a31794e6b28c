"""``hsm fsck`` as a program: what it refuses, says, writes and returns."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hsmfs.configload import load
from hsmfs.namespace.recovery import make_namespace
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools import fsckcommand
from hsmfs.tools.sandbox import CONFIG_TEXT

DATA = b"what nobody has"


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A stopped system: an empty namespace, a cache tier, no catalog yet."""
    for folder in ("mnt", "cache", "state/namespace", "state/catalog", "run", "library"):
        (tmp_path / folder).mkdir(parents=True)
    store = LmdbStore(tmp_path / "state/namespace", 1 << 24)
    make_namespace(store, 0, 0, 0o755, 10**18)
    store.close()
    (tmp_path / "hsmfs.toml").write_text(
        CONFIG_TEXT.format(
            dir=tmp_path,
            reserve_bytes=1,
            session="pyfuse3",
            allow_other="true",
            magazine_slots=12,
            speed="instant",
        )
    )
    return tmp_path


def fsck(system: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hsmfs.tools.hsm", "--config", str(system / "hsmfs.toml")]
    return subprocess.run(
        [*command, "fsck", *words], capture_output=True, text=True, timeout=120, check=False
    )


def stray(system: Path) -> Path:
    tier = system / "cache"
    path = tier / "0" / "000" / "5"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    return path


def fill(system: Path) -> None:
    """Thousands of pages."""
    store = LmdbStore(system / "state/namespace", 1 << 24)
    store.transact(lambda writer: [writer.put(b"Y%06d" % n, b"x" * 100) for n in range(20_000)])
    store.close()


def put(system: Path, key: bytes, value: bytes) -> None:
    store = LmdbStore(system / "state/namespace", 1 << 24)
    store.transact(lambda writer: writer.put(key, value))
    store.close()


def test_a_sound_system(system):
    done = fsck(system)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 findings" in done.stdout


def test_found_then_repaired_then_clean(system):
    path = stray(system)
    put(system, b"Mnext_ino", b"100")
    found = fsck(system, "--json")
    assert found.returncode == 1
    assert [row["kind"] for row in json.loads(found.stdout)["findings"]] == ["stray"]
    assert path.read_bytes() == DATA, "looking changes nothing"
    repaired = fsck(system, "--repair", "--json")
    summary = json.loads(repaired.stdout)["summary"]
    assert (repaired.returncode, summary["found"], summary["repaired"]) == (0, 1, 1)
    backup = Path(summary["backup"])
    assert backup.parent == system / "state"
    assert (backup / "data.mdb").exists()
    again = fsck(system, "--repair", "--json")
    assert (again.returncode, json.loads(again.stdout)["findings"]) == (0, [])
    assert json.loads(again.stdout)["summary"]["backup"] == "", "nothing changed, no backup"
    assert not path.exists()


def test_a_backup_that_cannot_be_made_changes_nothing(system):
    path = stray(system)
    put(system, b"Mnext_ino", b"100")
    (system / "full").write_text("no directory")
    done = fsck(system, "--repair", "--backup", str(system / "full"))
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert path.read_bytes() == DATA


def test_part_of_it_repaired(system):
    put(system, b"S" + (20).to_bytes(8, "big"), b"target")
    put(system, b"Mnext_ino", b"100")
    assert fsck(system, "--repair").returncode == 0
    store = LmdbStore(system / "state/namespace", 1 << 24)
    store.transact(lambda writer: writer.delete(b"S" + (20).to_bytes(8, "big")))
    store.close()
    put(system, b"Zwhat", b"?")
    done = fsck(system, "--repair")
    assert done.returncode == 3
    assert "not all is well" in done.stderr


@pytest.mark.parametrize("program", ["hsmfs", "hsmd"])
def test_refused_while_a_program_runs(system, program):
    with open(system / "run" / f"{program}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        done = fsck(system)
    assert done.returncode == 1
    assert f"{program} runs" in done.stderr


def test_while_it_works_neither_program_starts(system):
    config = load(system / "hsmfs.toml")
    with fsckcommand.stopped(config):
        for module, name in (("hsmfs.main", "hsmfs"), ("hsmfs.daemon.main", "hsmd")):
            command = [sys.executable, "-m", module, "--config", str(system / "hsmfs.toml")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 1
            assert "in use, hsm fsck works" in done.stderr, name
            assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["namespace", "catalog"])
def test_refused_while_a_process_has_a_store(system, name):
    store = LmdbStore(system / "state" / name, 1 << 24)
    try:
        done = fsck(system, "--repair")
    finally:
        store.close()
    assert done.returncode == 1
    assert f"in use by process {os.getpid()}" in done.stderr


def test_a_damaged_store_is_an_error(system):
    (system / "state/namespace/data.mdb").write_bytes(b"no LMDB" * 2000)
    done = fsck(system)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "restore it from a backup" in done.stderr


def test_damaged_pages_are_an_error(system):
    fill(system)
    data = system / "state/namespace/data.mdb"
    with data.open("r+b") as file:
        for page in range(4, data.stat().st_size // 4096, 7):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    done = fsck(system)
    assert done.returncode == 1, done.stderr
    assert "damaged LMDB file" in done.stderr


def test_a_store_that_was_cut_is_an_error(system):
    fill(system)
    data = system / "state/namespace/data.mdb"
    os.truncate(data, data.stat().st_size // 2)
    done = fsck(system)
    assert done.returncode == 1, done.stderr
    assert "restore" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_newer_namespace_is_an_error(system):
    put(system, b"Mversion", b"99")
    done = fsck(system)
    assert done.returncode == 1
    assert "found version 99" in done.stderr
    assert "install the newer hsmfs" in done.stderr


def test_no_namespace_is_an_error(system):
    for file in (system / "state/namespace").iterdir():
        file.unlink()
    done = fsck(system, "--repair")
    assert done.returncode == 1
    assert "expected the namespace's store" in done.stderr


def test_no_cache_tier_is_an_error(system):
    (system / "cache").rmdir()
    done = fsck(system, "--repair")
    assert done.returncode == 1
    assert "mount its disk" in done.stderr
