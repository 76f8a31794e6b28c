"""A file in many pieces is read as if it were in one."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.runs import HOLE, is_hashed, known_hash, learn, read_range
from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES

SECTORS = 40
DISC = random.Random(1).randbytes(SECTORS * SECTOR_BYTES)


def read(sector: int, sectors: int) -> bytes:
    assert 0 <= sector < sector + sectors <= SECTORS
    return DISC[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]


def extent(size: int, runs: list[tuple[int, int]], offset: int = 0) -> ExtentRecord:
    return ExtentRecord(
        offset=offset, size=size, xxh3_128="", sha256="", chunks=[], path="p", runs=runs
    )


PIECES = st.lists(st.tuples(st.integers(-1, len(DISC) - 1), st.integers(1, 5000)), max_size=8)


@given(PIECES, st.data())
def test_any_range_of_any_runs(pieces: list[tuple[int, int]], data: st.DataObject) -> None:
    runs = [(at, min(length, len(DISC) - at) if at != HOLE else length) for at, length in pieces]
    whole = b"".join(bytes(length) if at == HOLE else DISC[at : at + length] for at, length in runs)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    if not runs:
        return
    assert read_range(read, extent(len(whole), runs), start, stop) == whole[start:stop]


@given(st.integers(0, len(DISC)), st.data())
def test_one_run_at_any_byte(offset: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(DISC) - offset))
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    if start == stop:
        return
    found = read_range(read, extent(size, [], offset), start, stop)
    assert found == DISC[offset + start : offset + stop]


def test_hashes_are_learnt_once() -> None:
    one = extent(2 * CHUNK_BYTES + 1, [])
    assert [known_hash(one, chunk) for chunk in range(3)] == [None] * 3
    assert learn(one, 1, 77)
    assert not learn(one, 1, 78)
    assert [known_hash(one, chunk) for chunk in range(3)] == [None, 77, None]
    assert not is_hashed(one)
    assert learn(one, 0, 1)
    assert learn(one, 2, 2)
    assert is_hashed(one)
    assert is_hashed(extent(0, []))
