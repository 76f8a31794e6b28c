"""The namespace by columns: many inodes at once, as arrays.

Everything is read in chunks of at most ``CHUNK`` items, so that a pass over
any number of files needs little memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hsmfs.namespace import schema
from hsmfs.namespace.tables import COUNTERS_KEY, Counters
from hsmfs.records import DTYPE, RECORD_BYTES
from hsmfs.store.interface import Reader

Inodes = NDArray[np.uint64]
Records = NDArray[Any]
"""Structured, of ``records.DTYPE``."""

CHUNK: Final = 1 << 15
INDEX_DTYPE: Final = np.dtype(
    [("table", "S1"), ("state", "u1"), ("pool", ">u2"), ("bucket", ">u2"), ("ino", ">u8")]
)
assert INDEX_DTYPE.itemsize == 1 + schema.INDEX.size
POOLS: Final = 1 << 16
NO_RECORD: Final = bytes(RECORD_BYTES)


class BulkView:
    """Questions to one snapshot whose answers are arrays."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def counters(self) -> Counters:
        """Files and bytes by state, as of the last commit."""
        value = self._reader.get(COUNTERS_KEY)
        return msgspec.msgpack.decode(value, type=Counters) if value else Counters()

    def records(self, inodes: Inodes) -> Records:
        """The records of these inodes, in their order; of those that are gone all is zero."""
        raw = inodes.astype(">u8").tobytes()
        keys = [b"I" + raw[at : at + 8] for at in range(0, len(raw), 8)]
        found = self._reader.get_many(keys)
        return _records([value or NO_RECORD for value in found])

    def all_records(self, start: int = 0) -> Iterator[Records]:
        """All inodes from a number on, ascending, by chunks."""
        while True:
            values = self._reader.values(schema.inode_key(start), b"J", CHUNK)
            if not values:
                return
            found = _records(values)
            yield found
            start = int(found["ino"][-1]) + 1

    def pools_in(self, state: int) -> list[int]:
        """Numbers of the pools that have files in a state."""
        pools, pool = [], 0
        while pool < POOLS:
            keys = self._reader.keys(_index_start(state, pool), bytes([0x43, state + 1]), 1)
            if not keys:
                break
            pool = int.from_bytes(keys[0][2:4], "big")
            pools.append(pool)
            pool += 1
        return pools

    def index(self, state: int, pool: int, after: bytes = b"") -> Iterator[Records]:
        """The policy index of a pool, coldest first, by chunks."""
        start = after + b"\0" if after else _index_start(state, pool)
        stop = _index_start(state, pool + 1) if pool + 1 < POOLS else bytes([0x43, state + 1])
        while True:
            keys = self._reader.keys(start, stop, CHUNK)
            if not keys:
                return
            yield np.frombuffer(b"".join(keys), dtype=INDEX_DTYPE)
            start = keys[-1] + b"\0"

    def index_from(self, state: int, after: bytes, limit: int) -> list[bytes]:
        """Up to so many keys of the index in a state, after one of them."""
        start = after + b"\0" if after else _index_start(state, 0)
        return self._reader.keys(start, bytes([0x43, state + 1]), limit)

    def links(self, inodes: Inodes) -> tuple[list[bytes], Inodes]:
        """For each inode the key of its first name (``L ino parent name``), and its parent; 0
        where it has no name any more."""
        raw = inodes.astype(">u8").tobytes()
        links = self._reader.first_keys([b"L" + raw[at : at + 8] for at in range(0, len(raw), 8)])
        pairs = b"".join([link[1:17] for link in links])
        if len(pairs) != 16 * len(links):  # the last one met another table
            pairs = b"".join([link[1:17].ljust(16, b"\0") for link in links])
        numbers = np.frombuffer(pairs, dtype=">u8").reshape(-1, 2)
        parents = np.where(numbers[:, 0] == inodes, numbers[:, 1], 0).astype(np.uint64)
        return links, parents

    def xattrs(self, inodes: Inodes, name: bytes) -> list[bytes]:
        """The values of an attribute, empty where there is none."""
        keys = [schema.xattr_key(ino, name) for ino in inodes.tolist()]
        return [value or b"" for value in self._reader.get_many(keys)]


def _index_start(state: int, pool: int) -> bytes:
    return b"C" + bytes([state]) + pool.to_bytes(2, "big")


def _records(values: list[bytes]) -> Records:
    return np.frombuffer(b"".join(values), dtype=DTYPE)


def index_inodes(keys: list[bytes]) -> Inodes:
    """The inodes of keys of the index."""
    found = np.frombuffer(b"".join(keys), dtype=INDEX_DTYPE)["ino"]
    return found.astype(np.uint64)
