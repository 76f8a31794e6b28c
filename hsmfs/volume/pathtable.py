"""A table from paths to numbers that takes 16 bytes a slot instead of some 200 a path.

Open addressing with linear probing. Of a path only 96 bits of its XXH3 are kept:
that two of a million paths have the same is less likely than 1 in 10^17, and would be
told as a path that is there twice; it never makes wrong bytes.
"""

from __future__ import annotations

from array import array
from typing import Final

import xxhash

VALUE_MAX: Final = 0xFFFFFFFE
_VALUE_BITS: Final = 32
_LOW: Final = (1 << 64) - 1
_HIGH: Final = _LOW ^ 0xFFFFFFFF
_SLOTS_FIRST: Final = 1 << 10


class PathTable:
    """Values of at most VALUE_MAX by path.

    Two arrays of 64 bits a slot: the hash's low 64 bits, and 32 further bits of it above
    the value plus one (0: the slot is free).
    """

    def __init__(self) -> None:
        self._mask = _SLOTS_FIRST - 1
        self._keys = array("Q", bytes(8 * _SLOTS_FIRST))
        self._marks = array("Q", bytes(8 * _SLOTS_FIRST))
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def _slot(self, key: int, upper: int) -> int:
        """Where it is, or the free slot where it would be."""
        keys, marks, mask = self._keys, self._marks, self._mask
        slot = key & mask
        while mark := marks[slot]:
            if keys[slot] == key and mark & _HIGH == upper:
                break
            slot = (slot + 1) & mask
        return slot

    def get(self, path: bytes) -> int | None:
        """Its value, None where there is none."""
        digest = xxhash.xxh3_128_intdigest(path)
        mark = self._marks[self._slot(digest & _LOW, digest >> 64 & _HIGH)]
        return (mark & 0xFFFFFFFF) - 1 if mark else None

    def put(self, path: bytes, value: int) -> None:
        """Set it, whether it was there or not."""
        digest = xxhash.xxh3_128_intdigest(path)
        key, upper = digest & _LOW, digest >> 64 & _HIGH
        slot = self._slot(key, upper)
        if not self._marks[slot]:
            if self._used * 3 >= self._mask * 2:
                self._grow()
                slot = self._slot(key, upper)
            self._used += 1
        self._keys[slot] = key
        self._marks[slot] = upper | value + 1

    def _grow(self) -> None:
        keys, marks = self._keys, self._marks
        slots = len(keys) * 2
        self._mask = slots - 1
        self._keys = array("Q", bytes(8)) * slots
        self._marks = array("Q", bytes(8)) * slots
        for key, mark in zip(keys, marks, strict=True):
            if mark:
                slot = self._slot(key, mark & _HIGH)
                self._keys[slot] = key
                self._marks[slot] = mark

    def restore(self, path: bytes, value: int | None) -> None:
        """As it was: with that value, or not there."""
        if value is not None:
            self.put(path, value)
            return
        digest = xxhash.xxh3_128_intdigest(path)
        slot = self._slot(digest & _LOW, digest >> 64 & _HIGH)
        if self._marks[slot]:
            self._used -= 1
            self._free(slot)

    def _free(self, slot: int) -> None:
        """Empty a slot, and move up what was put behind it."""
        keys, marks, mask = self._keys, self._marks, self._mask
        ahead = slot
        while True:
            marks[slot] = 0
            while True:
                ahead = (ahead + 1) & mask
                if not marks[ahead]:
                    return
                home = keys[ahead] & mask
                if (ahead - home) & mask >= (ahead - slot) & mask:
                    break
            keys[slot], marks[slot] = keys[ahead], marks[ahead]
            slot = ahead
