"""Cache files and layouts for the measurements of discs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, overload

from hsmfs.cache.paths import cache_path, open_claimed
from hsmfs.volume.entries import StoredEntries, write_entries
from hsmfs.volume.layout import FileSource, Layout, VolumeHeader, plan_volume

CAPACITY_SECTORS: Final = 1 << 30
BLOB_BYTES: Final = 32 * 1024 * 1024
FOLDER_FILES: Final = 200
FIRST_INO: Final = 2
WHEN_NS: Final = 1_700_000_000_000_000_000
HEADER: Final = VolumeHeader(label="BENCH0001", site="bench", pool="bench", created_ns=WHEN_NS)


@dataclass(frozen=True, slots=True)
class DiscSizes:
    """How much is written; files are of SMALL and BIG bytes."""

    small_files: int
    small_bytes: int
    big_files: int
    big_bytes: int
    many_files: int
    """For memory and processor of each; of MANY_BYTES, from few cache files."""
    rounds: int

    @property
    def bytes(self) -> int:
        return self.small_files * self.small_bytes + self.big_files * self.big_bytes


COPIES_SHARE: Final = 4
"""Of the files, one in so many is burned to emulated drives, which write each copy to disk."""
MANY_BYTES: Final = 2000
MANY_CACHED: Final = 100
"""Cache files behind the many: their bytes do not matter, opening and reading them does."""
FULL: Final = DiscSizes(10_000, 300_000, 200, 10_000_000, 1_000_000, 3)
QUICK: Final = DiscSizes(1000, 300_000, 20, 10_000_000, 50_000, 3)
TINY: Final = DiscSizes(30, 30_000, 2, 1_000_000, 300, 1)
"""For tests."""


def entry_path(number: int) -> bytes:
    """As a picture archive has them: directories of some hundred files."""
    return b"study %05d/image %07d.dcm" % (number // FOLDER_FILES, number)


def _write(cache: Path, ino: int, data: bytes | memoryview) -> None:
    """A file as a tier of the cache has it."""
    path = Path(cache_path(cache, ino))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


class Corpus:
    """Cache files in a directory, and entries for them."""

    def __init__(self, place: Path, sizes: DiscSizes, share: int = 1) -> None:
        self._place = place
        self._full = sizes
        self.cache = place / "cache"
        self.small_files = sizes.small_files // share
        self.big_files = sizes.big_files // share
        self.bytes = self.small_files * sizes.small_bytes + self.big_files * sizes.big_bytes

    def share(self, share: int) -> Corpus:
        """One part of so many of the same files."""
        return Corpus(self._place, self._full, share)

    def make(self) -> None:
        """Write the files; they stay in the page cache, as after an import."""
        self.cache.mkdir(parents=True)
        blob = memoryview(random.Random(1).randbytes(BLOB_BYTES))
        for entry in self._entries():
            start = entry.ino * 7919 % (BLOB_BYTES - entry.size)
            _write(self.cache, entry.ino, blob[start : start + entry.size])

    def _entries(self) -> list[FileSource]:
        sizes = self._full
        small = [(FIRST_INO + n, sizes.small_bytes) for n in range(self.small_files)]
        first = FIRST_INO + sizes.small_files
        big = [(first + n, sizes.big_bytes) for n in range(self.big_files)]
        return [
            FileSource(path=entry_path(ino), ino=ino, size=size, mtime_ns=WHEN_NS + ino)
            for ino, size in [*small, *big]
        ]

    def layout(self) -> Layout:
        """Of a volume with all of them."""
        return plan_volume(HEADER, self._entries(), CAPACITY_SECTORS)

    def opened(self, entry: FileSource) -> int:
        """A descriptor."""
        return open_claimed(self.cache, entry.ino, entry.data_version)


class _Many(Sequence[FileSource]):
    """Entries that are made when they are asked for, for the plan file."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> FileSource: ...

    @overload
    def __getitem__(self, index: slice) -> list[FileSource]: ...

    def __getitem__(self, index: int | slice) -> FileSource | list[FileSource]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        if not 0 <= index < self._count:
            raise IndexError(index)
        when_ns = WHEN_NS + index * 1_000_000_007
        return FileSource(
            path=entry_path(index),
            ino=FIRST_INO + index,
            size=MANY_BYTES,
            mtime_ns=when_ns,
            atime_ns=when_ns + 5,
            ctime_ns=when_ns + 7_000_000_000,
            uid=1000,
        )


class ManyFiles:
    """A plan of very many small files that share some cache files."""

    def __init__(self, place: Path, count: int) -> None:
        self.place = place
        self.count = count

    def make(self) -> None:
        """Cache files and plan file."""
        self.place.mkdir(parents=True)
        for number in range(MANY_CACHED):
            _write(self.place, number, random.Random(number).randbytes(MANY_BYTES))
        with (self.place / "plan").open("wb") as out:
            write_entries(out, b"bench", _Many(self.count))

    def layout(self) -> Layout:
        """Planned from the plan file."""
        return plan_volume(HEADER, StoredEntries(self.place / "plan"), CAPACITY_SECTORS)

    def opened(self, entry: FileSource) -> int:
        """A descriptor."""
        return open_claimed(self.place, entry.ino % MANY_CACHED, entry.data_version)
