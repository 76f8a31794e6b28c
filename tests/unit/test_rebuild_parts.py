"""Rebuild of a file in parts: a part whose own line is damaged is found by the UDF tree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.volumes import SITE, changes, stopped_system
from support.volumes import burn as burn_other
from unit.test_recover_parts import AGAIN, NAME, TOTAL, burn, burned, damaged, line_of, part

from hsmfs.config import Config
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.namespaceset import SetLine
from hsmfs.fsck.findings import Summary
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.fsckcommand import findings
from hsmfs.tools.rebuild.run import rebuild
from hsmfs.tools.rebuild.tree import Outcome
from hsmfs.types import FileVersion, Residency

FILE = FileVersion(9, 4)
SET = [
    SetLine(ino=1, mode=0o40755),
    SetLine(ino=5, names=[[1, "影像"]], mode=0o40755),
    SetLine(
        ino=FILE.ino,
        names=[[5, "big.dcm"], [1, "again"]],
        mode=0o100644,
        size=TOTAL,
        data_version=FILE.data_version,
        mtime_ns=7,
    ),
]


def rebuilt(root: Path, images: Sequence[Path]) -> tuple[Config, Outcome, list[str]]:
    """What came of it, and of which files it was told that nothing proves them."""
    config = stopped_system(root / "system")
    told: list[str] = []

    def tell(what: str, path: str, why: str) -> None:
        if what == "unproved":
            told.append(f"{path}: {why}")

    _, _, _, outcome = rebuild(config, images, tell)
    return config, outcome, told


def is_there(config: Config) -> None:
    """One file of all parts, under both names; every part on its volume."""
    assert [one for one in findings(config, False, None, Summary())] == []
    namespace = LmdbStore(Path(config.namespace.path), config.namespace.map_bytes, read_only=True)
    try:
        with namespace.snapshot() as reader:
            view = NamespaceView(reader)
            record = view.inode(FILE.ino)
            names = {path for path, one in view.walk(1, b"") if one.ino == FILE.ino}
            volumes = view.volumes(FILE.ino)
    finally:
        namespace.close()
    assert record is not None
    assert (record.state, record.size, record.copies) == (Residency.MIGRATED, TOTAL, 1)
    assert (names, volumes) == ({NAME, AGAIN}, ["V1", "V2", "V3"])
    assert record.data_version == FILE.data_version
    store = LmdbStore(Path(config.catalog.path), config.catalog.map_bytes, read_only=True)
    try:
        parts = sorted((one.start, one.size, one.total) for _, one in Catalog(store).extents(FILE))
    finally:
        store.close()
    size = parts[1][0]
    assert parts == [(0, size, TOTAL), (size, size, TOTAL), (2 * size, TOTAL - 2 * size, TOTAL)]


@pytest.mark.parametrize("with_set", [True, False], ids=["all changes known", "no set"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_part_of_a_damaged_line(tmp_path: Path, number: int, with_set: bool) -> None:
    images = burned(tmp_path, site=SITE)
    damaged(images[number - 1], line_of(NAME))
    if with_set:
        images.append(tmp_path / "S.img")
        burn_other(images[-1], f"{SITE}-000009", [], changes(0, 10, *SET), created_ns=99)
    config, outcome, told = rebuilt(tmp_path, images)
    assert (outcome.unproved, len(outcome.waiting), outcome.lost) == (1, 0, 0)
    (why,) = told
    assert why.endswith(f"taken by the UDF tree of volume V{number}")
    is_there(config)


def test_with_a_whole_copy_of_its_disc_nothing_is_unproved(tmp_path: Path) -> None:
    images = burned(tmp_path, site=SITE)
    second = tmp_path / "second.img"
    second.write_bytes(images[1].read_bytes())
    damaged(images[1], line_of(NAME))
    config, outcome, told = rebuilt(tmp_path, [*images, second])
    assert (outcome.unproved, told) == (0, [])
    facts: Any = [one for one in findings(config, False, None, Summary())]
    assert facts == []


def test_a_disc_with_another_label_has_no_part_of_it(tmp_path: Path) -> None:
    """It has the name and the size, but is not the volume that the parts tell of."""
    images = burned(tmp_path, site=SITE)
    images[1] = damaged(burn(tmp_path / "X.img", "X2", part(2), 2, SITE), line_of(NAME))
    _, outcome, _ = rebuilt(tmp_path, images)
    assert dict(outcome.waiting) == {"V2": 1}
    assert outcome.files == 1, "a file of its own, as nothing tells what it is"
