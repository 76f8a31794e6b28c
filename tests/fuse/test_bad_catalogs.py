"""hsmd beside a catalog that is cut, damaged or gone: it says so in one line and what to do."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sandboxes import BIN, Sandbox, differing, write_files

from hsmfs.store.lmdbstore import LmdbStore

pytestmark = pytest.mark.fuse
PAGE = 4096
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, dict[str, bytes]]]:
    """A system with files on volumes, at rest; each test puts the catalog back."""
    box = Sandbox(tmp_path_factory.mktemp("catalogs") / "sb")
    box.start("--drives", "1", "--slots", "4", "--disc-bytes", "20000000", "--pool-copies", "1")
    try:
        made = write_files(box.mnt / "a", 30, 20_000)
        box.migrate_and_release()
        box.stop()
        yield box, made
    finally:
        box.stop()


@pytest.fixture
def box(stopped: tuple[Sandbox, dict[str, bytes]], tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = stopped[0]
    catalog = sandbox.root / "state" / "catalog"
    shutil.copytree(catalog, tmp_path / "kept")
    yield sandbox
    sandbox.stop()
    shutil.rmtree(catalog, ignore_errors=True)
    shutil.copytree(tmp_path / "kept", catalog)


def refused(box: Sandbox) -> str:
    """What hsmd says when it does not start."""
    done = subprocess.run(
        [str(BIN / "hsmd"), "--config", str(box.root / "hsmfs.toml")],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("hsmd: catalog.path: "), done.stderr
    assert "hsm rebuild" in done.stderr
    return done.stderr


def data_of(box: Sandbox) -> Path:
    return box.root / "state" / "catalog" / "data.mdb"


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.8])
def test_a_cut_catalog(box: Sandbox, share: float) -> None:
    data = data_of(box).read_bytes()
    data_of(box).write_bytes(data[: int(len(data) * share)])
    said = refused(box)
    assert "found" in said and "restore the newest backup" in said


@pytest.mark.parametrize("damage", ["header", "no LMDB", "pages"])
def test_a_damaged_catalog(box: Sandbox, damage: str) -> None:
    data = bytearray(data_of(box).read_bytes())
    chance = random.Random(1)
    if damage == "header":
        data[: 2 * PAGE] = bytes(2 * PAGE)
    elif damage == "no LMDB":
        data[:] = b"no LMDB" * 5000
    else:
        data[2 * PAGE :] = chance.randbytes(len(data) - 2 * PAGE)
    data_of(box).write_bytes(data)
    refused(box)


def test_a_damaged_record(box: Sandbox) -> None:
    store = LmdbStore(data_of(box).parent, 1 << 38)
    store.transact(lambda writer: writer.put(b"KHSM00001", b"\xc1"))
    store.close()
    assert "found a damaged record" in refused(box)


def test_a_catalog_that_is_gone(
    stopped: tuple[Sandbox, dict[str, bytes]], box: Sandbox, tmp_path: Path
) -> None:
    data_of(box).unlink()
    box.hsm("sandbox", "start", str(box.root), check=False)  # hsmfs serves the namespace
    said = refused(box)
    assert "found no volumes, expected those of the namespace's files" in said
    # without a backup the discs tell what was in it
    box.stop()
    done = box.hsm("rebuild", "--catalog", "--from", "library")
    assert (done["files"], done["not_whole"]) == (len(stopped[1]), 0)
    assert box.hsm("fsck", check=False)["findings"] == []
    box.start()
    assert not differing(stopped[1])
    box.stop()
    # and with one it goes on
    shutil.copy(tmp_path / "kept" / "data.mdb", data_of(box))
    data_of(box).with_name("lock.mdb").unlink(missing_ok=True)
    box.start()
    assert not differing(stopped[1])
