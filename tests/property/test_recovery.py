"""Recovery data of a disc: any lost run of its length is made anew; nothing wrong is written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.recovery import (
    BLOCK_BYTES,
    BLOCK_SECTORS,
    Accumulator,
    Mended,
    Shape,
    find,
    mend_image,
    room_left,
    shape_of,
    shape_with,
    without,
)

EXAMPLES = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def made(folder: Path, sectors: int, percent: float, seed: int, piece: int) -> tuple[Path, Shape]:
    """An image with its recovery file, and a few sectors behind it."""
    chance = random.Random(seed)
    data = chance.randbytes(sectors * SECTOR_BYTES)
    shape = shape_of(sectors, percent)
    summed = Accumulator(folder / "recovery.bin", shape)
    for start in range(0, len(data), piece):
        summed.add(data[start : start + piece])
    summed.add(b"what comes after is not covered")
    summed.finish()
    image = folder / "image"
    image.write_bytes(data + (folder / "recovery.bin").read_bytes() + bytes(3 * SECTOR_BYTES))
    return image, shape


def spoil(image: Path, start: int, size: int, how: int) -> None:
    with image.open("r+b") as file:
        file.seek(start)
        before = file.read(size)
        file.seek(start)
        file.write(bytes(byte ^ 0xA5 for byte in before) if how else bytes(len(before)))


@EXAMPLES
@given(
    st.integers(1, 1500),
    st.floats(0.5, 30),
    st.integers(0, 9),
    st.sampled_from([2048, 65_536, 100_000, 1 << 20]),
    st.floats(0, 1),
    st.integers(0, 1),
)
def test_any_run_as_long_as_the_parity_is_repaired(
    tmp_path: Path, sectors: int, percent: float, seed: int, piece: int, place: float, how: int
) -> None:
    image, shape = made(tmp_path, sectors, percent, seed, piece)
    before = image.read_bytes()
    first = int(place * max(0, shape.blocks - shape.stripes))
    start = first * BLOCK_BYTES
    spoil(image, start, min(shape.stripes * BLOCK_BYTES, sectors * SECTOR_BYTES - start), how)
    mended = mend_image(image)
    assert mended is not None and mended.lost == []
    assert image.read_bytes() == before
    assert mend_image(image) == Mended([], [], sectors)


@EXAMPLES
@given(
    st.lists(st.tuples(st.integers(0, 1_400), st.integers(1, 90)), max_size=6), st.integers(0, 5)
)
def test_scattered_damage_is_repaired_or_named_and_nothing_wrong_is_written(
    tmp_path: Path, damage: list[tuple[int, int]], seed: int
) -> None:
    image, shape = made(tmp_path, 1000, 10.0, seed, 1 << 20)
    before = image.read_bytes()
    for sector, count in damage:  # of data, parity, and sometimes the table
        spoil(image, sector * SECTOR_BYTES, count * SECTOR_BYTES, 1)
    found = find(lambda at, size: image.read_bytes()[at : at + size], len(before))
    if found is None:
        assert mend_image(image) is None
        return
    try:
        mended = mend_image(image)
    except Exception as error:
        assert "table of sums is damaged" in str(error)
        return
    assert mended is not None
    lost = set(mended.lost)
    after = image.read_bytes()
    for block in range(shape.blocks):
        start, stop = block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, 1000 * SECTOR_BYTES)
        assert (after[start:stop] == before[start:stop]) == (block * BLOCK_SECTORS not in lost)


def test_what_is_still_missing_is_what_no_block_covers() -> None:
    mended = Mended(repaired=[0, 32], lost=[64], sectors=100)
    assert list(without([(0, 64)], mended)) == []
    assert list(without([(10, 70), (90, 130)], mended)) == [(64, 70), (90, 96), (100, 130)]


@pytest.mark.parametrize("percent", [0.1, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("capacity", [500, 10_000, 12_219_392])
def test_what_is_left_for_data_and_its_recovery_file_fit(capacity: int, percent: float) -> None:
    left = room_left(capacity, percent)
    used = left + shape_of(left, percent).file_bytes / SECTOR_BYTES
    assert used <= capacity
    shape = shape_of(left, percent)
    assert shape_with(left, shape.file_bytes) == shape
    assert used > capacity * 0.8 - 3 * BLOCK_SECTORS
