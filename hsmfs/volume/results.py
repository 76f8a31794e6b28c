"""Hashes of a volume's files while it is written, in a scratch file instead of memory.

The scratch file has no name and is gone with the object. Layout, for each file of
more than 0 bytes in data order: XXH3 of 128 bits (16 bytes), SHA-256 (32), and XXH3 of
64 bits (8, big endian) of each chunk of 4 MiB; zeros where the file is void.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, overload

from hsmfs.errors import TransientError
from hsmfs.volume.hashes import OF_NOTHING, Proof
from hsmfs.volume.layout import DataFile, Layout
from hsmfs.volume.manifest import FileResult, chunks_of, void_result

_HASHES: Final = struct.Struct(">16s32s")
BUFFER_BYTES: Final = 256 * 1024
"""So much is kept in memory before a scratch file is made or added to."""


class Results(Sequence[FileResult]):
    """One result of each planned file with data, in data order."""

    def __init__(self, layout: Layout, scratch: Path | None = None) -> None:
        self._layout = layout
        self._scratch = scratch
        self._void = bytearray()
        self._buffer = bytearray()
        self._file: IO[bytes] | None = None
        self._spilled_bytes = 0

    def add(self, size: int, proof: Proof | None) -> None:
        """The next file's hashes; None where it is void."""
        self._void.append(proof is None)
        if not size:
            return
        if proof is None:
            self._buffer += bytes(_HASHES.size + 8 * chunks_of(size))
        else:
            self._buffer += _HASHES.pack(proof.xxh3_128, proof.sha256)
            chunks = proof.chunk_xxh3
            self._buffer += struct.pack(f">{len(chunks)}Q", *chunks)
        if len(self._buffer) >= BUFFER_BYTES:
            self._spill()

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0, dir=self._scratch)  # noqa: SIM115
            while self._buffer:
                done = os.pwrite(self._file.fileno(), self._buffer, self._spilled_bytes)
                self._spilled_bytes += done
                del self._buffer[:done]
        except OSError as error:
            raise TransientError(
                f"volume {self._layout.header.label}: hashes cannot be kept in "
                f"{self._scratch or tempfile.gettempdir()}: {error.strerror}; free space there"
            ) from error

    def __len__(self) -> int:
        return len(self._void)

    def __iter__(self) -> Iterator[FileResult]:
        for file, result in self.pairs():
            assert result.size == file.entry.size
            yield result

    def pairs(self) -> Iterator[tuple[DataFile, FileResult]]:
        """Each file with its result."""
        reader = _Reader(self._file, self._spilled_bytes, self._buffer)
        for void, file in zip(self._void, self._layout.data_files(), strict=False):
            size = file.entry.size
            proof = OF_NOTHING
            if size:
                chunks = chunks_of(size)
                xxh3, sha256 = _HASHES.unpack(reader.take(_HASHES.size))
                marks = struct.unpack(f">{chunks}Q", reader.take(8 * chunks))
                proof = Proof(xxh3, sha256, list(marks))
            if void:
                yield file, void_result(file.entry, file.offset_bytes)
            else:
                yield file, proof.result(file.entry, file.offset_bytes)

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


class _Reader:
    """The scratch file from its start, then what is still in memory."""

    def __init__(self, file: IO[bytes] | None, spilled_bytes: int, tail: bytearray) -> None:
        self._file = file
        self._left = spilled_bytes
        self._position = 0
        self._tail = tail
        self._piece = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        while self._at + size > len(self._piece):
            self._piece = self._piece[self._at :] + self._next()
            self._at = 0
        self._at += size
        return self._piece[self._at - size : self._at]

    def _next(self) -> bytes:
        if self._file is not None and self._position < self._left:
            want = min(BUFFER_BYTES, self._left - self._position)
            piece = os.pread(self._file.fileno(), want, self._position)
            self._position += len(piece)
        else:
            piece, self._tail = bytes(self._tail), bytearray()
        assert piece, "results end before the files do"
        return piece
