"""The hash of a file that is burned in parts."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest
import xxhash

from hsmfs.cache.paths import cache_path, claim_path
from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.wholehash import Stopped, hash_whole, sum_of_parts
from hsmfs.types import CHUNK_BYTES, FileVersion

FILE = FileVersion(20, 3)
DATA = random.Random(1).randbytes(3 * CHUNK_BYTES + 5)


def cached(root: Path, data: bytes) -> Path:
    path = Path(cache_path(root, FILE.ino))
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def extent(start: int, stop: int) -> ExtentRecord:
    """As a burn records a part."""
    data = DATA[start:stop]
    pieces = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    return ExtentRecord(
        offset=0, size=len(data), xxh3_128="", sha256="", path="", start=start, total=len(DATA),
        chunks=[xxhash.xxh3_64_intdigest(piece) for piece in pieces],
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, len(DATA)])
def test_it_is_that_of_all_bytes(tmp_path: Path, size: int) -> None:
    cached(tmp_path / "b", DATA[:size])
    found = hash_whole([tmp_path / "a", tmp_path / "b"], FILE, size, lambda: True)
    assert found.sha256 == hashlib.sha256(DATA[:size]).hexdigest()


@pytest.mark.parametrize("cut", [CHUNK_BYTES, 2 * CHUNK_BYTES])
def test_parts_as_burned_add_up_to_it(tmp_path: Path, cut: int) -> None:
    cached(tmp_path, DATA)
    found = hash_whole([tmp_path], FILE, len(DATA), lambda: True)
    first, second = extent(0, cut), extent(cut, len(DATA))
    assert sum_of_parts([second, first, second]) == found.chunks
    second.chunks[0] ^= 1
    assert sum_of_parts([first, second]) != found.chunks


def test_what_is_not_the_claimed_file_is_an_error(tmp_path: Path) -> None:
    path = cached(tmp_path, DATA[:100])
    with pytest.raises(OSError, match="found 100 bytes, expected 101"):
        hash_whole([tmp_path], FILE, 101, lambda: True)
    with pytest.raises(OSError, match="no cache file of inode 21"):
        hash_whole([tmp_path], FileVersion(21, 1), 100, lambda: True)
    with pytest.raises(Stopped):
        hash_whole([tmp_path], FILE, 100, lambda: False)
    # changed meanwhile: the claimed bytes have a name of their own
    claim = Path(claim_path(tmp_path, FILE.ino, FILE.data_version))
    claim.parent.mkdir()
    os.rename(path, claim)
    path.write_bytes(b"new" * 50)
    found = hash_whole([tmp_path], FILE, 100, lambda: True)
    assert found.sha256 == hashlib.sha256(DATA[:100]).hexdigest()
