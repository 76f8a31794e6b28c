"""What a key-value store must do; LMDB first, others may stand behind it.

Keys and values are bytes; keys are ordered by their bytes and are 1 to
``KEY_BYTES_MAX`` long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeVar

KEY_BYTES_MAX: Final = 511
"""LMDB's limit as built (MDB_MAXKEYSIZE)."""

T = TypeVar("T")
Item = tuple[bytes, bytes]
Batch = dict[bytes, bytes | None]
"""Keys and values, None for a deletion."""


class StoreStat(NamedTuple):
    """Size of a store."""

    entries: int
    bytes: int


class Reader(Protocol):
    """A consistent view."""

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys."""

    def scan(
        self, start: bytes, stop: bytes, reverse: bool = False, limit: int | None = None
    ) -> Iterator[Item]:
        """Items with ``start <= key < stop``, ascending or descending."""

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """Up to so many keys from ``start`` on: fast, for passes over millions."""

    def values(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """Up to so many values from ``start`` on, likewise."""

    def first_keys(self, starts: Sequence[bytes]) -> list[bytes]:
        """For each the first key that is not smaller; empty where there is none."""


class Writer(Reader, Protocol):
    """A transaction: it sees its own changes."""

    def put(self, key: bytes, value: bytes) -> None:
        """Store or replace."""

    def delete(self, key: bytes) -> bool:
        """Remove; False if there was nothing."""


class KVStore(Protocol):
    """One environment: many readers, one writer."""

    def snapshot(self) -> AbstractContextManager[Reader]:
        """A view as of now, usable in the thread that opened it."""

    def transact(self, fn: Callable[[Writer], T]) -> T:
        """Run ``fn`` atomically; durable when it returns, undone if it raises."""

    def apply(self, batch: Batch) -> None:
        """Put and delete all of a batch, atomically; durable when it returns."""

    def backup(self, path: Path) -> None:
        """A consistent copy into a new directory or file, while in use."""

    def stat(self) -> StoreStat:
        """How much is stored."""

    def close(self) -> None:
        """Release all resources; calls after it fail."""


def apply_to(writer: Writer, batch: Batch) -> None:
    """Put and delete all of a batch, in the order of its keys."""
    put, delete = writer.put, writer.delete
    for key in sorted(batch):
        value = batch[key]
        if value is None:
            delete(key)
        else:
            put(key, value)
