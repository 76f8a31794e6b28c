"""Hashes of a volume's files while it is written, in a scratch file instead of memory.

The scratch file has no name and is gone with the object. Layout, for each file of
more than 0 bytes in data order: XXH3 of 128 bits (16 bytes), SHA-256 (32), and XXH3 of
64 bits (8, big endian) of each chunk of 4 MiB; zeros where the file is void.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import overload

import xxhash

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.hashes import OF_NOTHING, Proof
from hsmfs.volume.layout import Layout
from hsmfs.volume.manifest import (
    FileResult,
    chunks_of,
    end_line,
    entry_line,
    header_line,
    void_result,
)
from hsmfs.volume.scratch import Scratch
from hsmfs.volume.source import FileSource


@lru_cache(maxsize=64)
def _record(chunks: int) -> struct.Struct:
    """Of a file of so many chunks."""
    return struct.Struct(f">16s32s{chunks}Q")


class Results(Sequence[FileResult]):
    """One result of each planned file with data, in data order."""

    def __init__(self, layout: Layout, scratch: Path | None = None) -> None:
        self._layout = layout
        self._void = bytearray()
        self._hashes = Scratch(f"volume {layout.header.label}: hashes", scratch)

    def add(self, size: int, proof: Proof | None) -> None:
        """The next file's hashes; None where it is void."""
        self._void.append(proof is None)
        if not size:
            return
        if proof is None:
            self._hashes.append(bytes(_record(chunks_of(size)).size))
            return
        self._hashes.append(_record(len(proof.chunk_xxh3)).pack(*proof[:2], *proof.chunk_xxh3))

    def __len__(self) -> int:
        return len(self._void)

    def __iter__(self) -> Iterator[FileResult]:
        for _, result in self.with_entries():
            if result is not None:
                yield result

    def voids(self) -> Iterator[bool]:
        """Of each file with data, whether it is void."""
        return map(bool, self._void)

    def void_entries(self) -> Iterator[FileSource]:
        """Entries whose data is not to be used; at once where there are none."""
        if any(self._void):
            for entry, result in self.with_entries():
                if result is not None and result.void:
                    yield entry

    def with_entries(self) -> Iterator[tuple[FileSource, FileResult | None]]:
        """All entries in their order, with the results of those that have data."""
        take = self._hashes.reader().take
        voids = iter(self._void)
        for entry, sector in self._layout.placed():
            if sector is None:
                yield entry, None
                continue
            offset, proof = sector * SECTOR_BYTES, OF_NOTHING
            if entry.size:
                record = _record(chunks_of(entry.size))
                xxh3, sha256, *marks = record.unpack(take(record.size))
                proof = Proof(xxh3, sha256, marks)
            void = next(voids)
            yield entry, void_result(entry, offset) if void else proof.result(entry, offset)

    def manifest(self) -> Iterator[bytes]:
        """The manifest's lines, when all files were added."""
        layout = self._layout
        entries = len(layout.entries)
        proof = xxhash.xxh3_128()
        line = header_line(layout.header, entries)
        proof.update(line)
        yield line
        for entry, result in self.with_entries():
            sector = result.offset_bytes // SECTOR_BYTES if result is not None else 0
            line = entry_line(entry, sector, result)
            proof.update(line)
            yield line
        yield end_line(entries, proof.hexdigest())

    @overload
    def __getitem__(self, index: int) -> FileResult: ...

    @overload
    def __getitem__(self, index: slice) -> list[FileResult]: ...

    def __getitem__(self, index: int | slice) -> FileResult | list[FileResult]:
        """Goes through all results before it."""
        return list(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
