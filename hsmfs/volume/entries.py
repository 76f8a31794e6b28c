"""Entries of a plan in a file: gone through as often as one likes, without memory.

The file: ``HSMPLAN2`` (8 bytes), then frames of a length (u32, little-endian) and so many
bytes of MessagePack. The first frame is what the plan says of the volume; each other one
is a ``FileSource``; a frame of length 0 ends them, so that a file that was cut is known.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, overload

import msgspec

from hsmfs.errors import CallerError
from hsmfs.volume.source import FileSource

MAGIC: Final = b"HSMPLAN2"
ENTRY_BYTES_MAX: Final = 64 * 1024 * 1024
_LENGTH: Final = struct.Struct("<I")
_STEP_BYTES: Final = 256 * 1024
_NEAR_BYTES: Final = 32 * 1024
_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(FileSource)


class EntriesWriter:
    """A plan file from its beginning to its end; ``head`` may not be empty."""

    def __init__(self, out: BinaryIO, head: bytes) -> None:
        assert head
        self._out = out
        out.write(MAGIC + _LENGTH.pack(len(head)) + head)

    def add(self, entry: FileSource) -> None:
        """The next one."""
        data = _encode(entry)
        self._out.write(_LENGTH.pack(len(data)) + data)

    def end(self) -> None:
        """It is whole."""
        self._out.write(_LENGTH.pack(0))


def write_entries(out: BinaryIO, head: bytes, entries: Iterable[FileSource]) -> None:
    """A whole plan file."""
    writer = EntriesWriter(out, head)
    for entry in entries:
        writer.add(entry)
    writer.end()


class StoredEntries(Sequence[FileSource]):
    """The entries of a plan file, which stays open; 8 bytes of memory for each.

    Raises FileNotFoundError, and CallerError where it is no whole plan file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._near = 0, b""
        try:
            self.head, self._offsets = self._index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """No more is read from it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def _index(self) -> tuple[bytes, array[int]]:
        offsets = array("Q")
        frames = self._frames(len(MAGIC))
        if os.pread(self._fd, len(MAGIC), 0) != MAGIC:
            raise CallerError(f"{self._path}: found no plan of version 2")
        head = b""
        for number, (offset, data) in enumerate(frames):
            if number == 0:
                head = bytes(data)
            else:
                offsets.append(offset)
        if not head:
            raise self._cut(len(MAGIC))
        return head, offsets

    def _frames(self, position: int) -> Iterator[tuple[int, memoryview]]:
        """Offset and bytes of each frame up to the closing one."""
        piece, at = memoryview(b""), 0
        while True:
            if len(piece) - at < _LENGTH.size:
                piece, at = self._more(position, piece[at:], _LENGTH.size), 0
            (length,) = _LENGTH.unpack_from(piece, at)
            if length == 0:
                return
            if length > ENTRY_BYTES_MAX:
                raise self._cut(position)
            whole = _LENGTH.size + length
            if len(piece) - at < whole:
                piece, at = self._more(position, piece[at:], whole), 0
            yield position, piece[at + _LENGTH.size : at + whole]
            position += whole
            at += whole

    def _more(self, position: int, rest: memoryview, want: int) -> memoryview:
        """From ``position``, whose first bytes are ``rest``: at least so many."""
        data = bytes(rest)
        while len(data) < want:
            step = os.pread(self._fd, max(_STEP_BYTES, want - len(data)), position + len(data))
            if not step:
                raise self._cut(position)
            data += step
        return memoryview(data)

    def _decoded(self, position: int, data: memoryview) -> FileSource:
        try:
            return _decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._cut(position) from error

    def _cut(self, position: int) -> CallerError:
        return CallerError(f"{self._path}: is cut or damaged at byte {position}")

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[FileSource]:
        position = self._offsets[0] if self._offsets else 0
        piece, at = memoryview(b""), 0
        lengths = _LENGTH.unpack_from
        for _ in range(len(self._offsets)):
            if len(piece) - at < _LENGTH.size:
                piece, at = self._more(position, piece[at:], _LENGTH.size), 0
            whole = _LENGTH.size + lengths(piece, at)[0]
            if len(piece) - at < whole:
                piece, at = self._more(position, piece[at:], whole), 0
            yield self._decoded(position, piece[at + _LENGTH.size : at + whole])
            position += whole
            at += whole

    @overload
    def __getitem__(self, index: int) -> FileSource: ...

    @overload
    def __getitem__(self, index: slice) -> list[FileSource]: ...

    def __getitem__(self, index: int | slice) -> FileSource | list[FileSource]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        start = self._offsets[index]
        at, near = self._near_from(start, _LENGTH.size)
        (length,) = _LENGTH.unpack_from(near, at)
        whole = _LENGTH.size + length
        if at + whole > len(near):
            at, near = self._near_from(start, whole)
        return self._decoded(start, memoryview(near)[at + _LENGTH.size : at + whole])

    def _near_from(self, start: int, size: int) -> tuple[int, bytes]:
        """Bytes around what was read last, and where in them; neighbours are asked for
        one after the other. (One assignment: several threads may ask.)"""
        first, near = self._near
        at = start - first
        if at >= 0 and at + size <= len(near):
            return at, near
        near = os.pread(self._fd, max(_NEAR_BYTES, size), start)
        if len(near) < size:
            raise self._cut(start)
        self._near = start, near
        return 0, near

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
