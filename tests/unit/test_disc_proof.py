"""Proof of a disc's files, whole and by sample, over extents that are read in pages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import trio
import xxhash

from hsmfs.daemon import catalog as catalogs
from hsmfs.daemon.catalog import Catalog, put_extents
from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.discproof import all_files, sample
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES, FileVersion

SIZES = [0, 10, CHUNK_BYTES, CHUNK_BYTES + 1, 5000, 3 * CHUNK_BYTES - 7]


def extents(*, good: bool = True) -> list[ExtentRecord]:
    """Back to front in the numbers of their files; of zeros, or with hashes that fit nothing."""
    found, offset = [], 0
    for number, size in enumerate(SIZES):
        parts = [min(CHUNK_BYTES, size - start) for start in range(0, size, CHUNK_BYTES)]
        chunks = [xxhash.xxh3_64_intdigest(bytes(part)) if good else 1 for part in parts]
        found.append(
            ExtentRecord(
                offset=offset, size=size, xxh3_128="", sha256="", chunks=chunks, path=f"f{number}"
            )
        )
        offset += -(-size // SECTOR_BYTES) * SECTOR_BYTES
    return found


def nothing() -> None:
    """No reason to stop."""


def zeros(sector: int, sectors: int) -> bytes:
    return bytes(sectors * SECTOR_BYTES)


@pytest.mark.parametrize("percent", [0.001, 30, 60, 100])
def test_a_sample_is_of_different_chunks_by_their_share(percent: float) -> None:
    found, read = extents(), Counter[int]()

    def counted(sector: int, sectors: int) -> bytes:
        read[sector] += 1
        return zeros(sector, sectors)

    damage = sample(found, percent, seed=3).go_on(counted, nothing)
    total = sum(len(one.chunks) for one in found)
    assert len(read) == sum(read.values()) == max(1, round(total * percent / 100))
    assert list(read) == sorted(read)
    assert (damage.files, damage.total) == ([], 0)
    assert percent < 100 or damage.bytes == sum(SIZES)


def test_damaged_files_are_told_once_each() -> None:
    found = extents(good=False)
    damage = all_files(found).go_on(zeros, nothing)
    assert damage == sample(found, 100, seed=3).go_on(zeros, nothing)
    assert damage == (["f1", "f2", "f3", "f4", "f5"], 5, sum(SIZES))


def test_extents_come_page_by_page_in_disc_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs, "EXTENTS_READ", 2)
    store = LmdbStore(tmp_path, 1 << 30)
    catalog = Catalog(store)
    all_of_it = [(FileVersion(100 - n, 1), one) for n, one in enumerate(extents()) if one.size]
    trio.run(catalog.transact, put_extents("A-1", all_of_it), put_extents("A-2", all_of_it[:1]))
    found = catalog.volume_extents("A-1")
    for _ in range(2):
        assert list(found) == [one for _, one in all_of_it]
    assert list(found.files()) == catalog.volume_files("A-1") == all_of_it
    assert (len(found), len(catalog.volume_extents("A-2"))) == (5, 1)
    assert list(catalog.volume_extents("A")) == []
    store.close()
