"""Rebuild: which of the discs' sayings of one inode gives its attributes."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from support.volumes import burn, changes
from unit.test_rebuild_damage import ONE, ROOT, TWO, rebuilt

from hsmfs.daemon.namespaceset import SetLine
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import InodeRecord
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.volume.source import FileSource


def burned(image: Path, **times: int) -> None:
    """A volume with a file that a set told of before, when it was empty."""
    facts = {"mode": 0o100640, "uid": 9, "gid": 8, "xattrs": {b"user.a": b"burned"}} | times
    later = FileSource(path=b"x", ino=20, data_version=1, size=100, **facts)  # type: ignore[arg-type]
    burn(image, TWO, [later], changes(10, 12), created_ns=2)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"mtime_ns": 50, "ctime_ns": 50, "atime_ns": 40}, (0o100640, 9, 40, 50, 50, b"burned")),
        ({"mtime_ns": 20, "ctime_ns": 30, "atime_ns": 45}, (0o104755, 7, 45, 20, 30, b"set")),
        ({"mtime_ns": 20, "ctime_ns": 30, "atime_ns": 1}, (0o104755, 7, 10, 20, 30, b"set")),
        ({"mtime_ns": 19, "ctime_ns": 29, "atime_ns": 99}, (0o104755, 7, 10, 20, 30, b"set")),
    ],
    ids=["written after the set", "read after it", "neither", "older than the set"],
)
def test_what_no_set_tells_comes_from_the_manifest_if_it_is_newer(
    tmp_path: Path, times: dict[str, int], expected: tuple[Any, ...]
) -> None:
    """Writes and reads are in no set; each of the sets' changes moves the ctime."""
    line = SetLine(
        ino=20, names=[[1, "x"]], mode=0o104755, uid=7, gid=7, data_version=1, atime_ns=10,
        mtime_ns=20, ctime_ns=30, btime_ns=5, xattrs={"user.a": b64encode(b"set").decode()},
    )  # fmt: skip
    burn(tmp_path / "A.img", ONE, [], changes(0, 10, ROOT, line), created_ns=1)
    burned(tmp_path / "B.img", **times)
    found, _, _ = rebuilt(tmp_path, [tmp_path / "A.img", tmp_path / "B.img"])
    assert found == {b"x": 20}
    record, xattrs = record_of(tmp_path / "system", 20)
    mode, uid, atime_ns, mtime_ns, ctime_ns, value = expected
    assert (record.mode, record.uid, record.size) == (mode, uid, 100)
    assert (record.atime_ns, record.mtime_ns, record.ctime_ns) == (atime_ns, mtime_ns, ctime_ns)
    assert (record.btime_ns, xattrs) == (5, {b"user.a": value})


def record_of(root: Path, ino: int) -> tuple[InodeRecord, dict[bytes, bytes]]:
    """An inode of a rebuilt namespace, and its extended attributes."""
    store = LmdbStore(root / "state" / "namespace", read_only=True)
    try:
        with store.snapshot() as reader:
            view = NamespaceView(reader)
            record = view.inode(ino)
            assert record is not None
            return record, view.xattrs(ino)
    finally:
        store.close()
