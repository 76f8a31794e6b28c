"""Volumes as image files: where bytes go into a file, not to a drive."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.directfile import CACHED_BYTES, write_all
from hsmfs.volume.frame import Frame, Parts
from hsmfs.volume.layout import DataFile, Layout
from hsmfs.volume.results import Results
from hsmfs.volume.source import FileSource

MANIFEST_STEP_BYTES: Final = 256 * 1024
_NOT_HERE: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""The kernel does not copy between these two files."""


def write_known(
    fd: int,
    layout: Layout,
    results: Results,
    open_source: Callable[[FileSource], int],
    scratch: Path | None = None,
) -> None:
    """A volume whose hashes are known, once more, into an empty file.

    The same bytes as the stream that gave the ``results``, as long as the sources are what
    they were: that is not proved here, since nothing is hashed; read the image back.
    The data does not pass through this process where the kernel copies it.
    ``open_source`` gives a descriptor, which is closed here. CallerError where a source is
    shorter than it was.
    """
    os.ftruncate(fd, layout.total_sectors * SECTOR_BYTES)
    frame = Frame(layout, scratch)
    _write_parts(fd, frame.front())
    for file, void in zip(layout.data_files(), results.voids(), strict=True):
        if file.entry.size and not void:
            source = open_source(file.entry)
            try:
                _copy(source, fd, file)
            finally:
                os.close(source)
    position = layout.manifest.sector * SECTOR_BYTES
    for piece in _joined(results.manifest()):
        write_all(fd, piece, position)
        position += len(piece)
    _write_parts(fd, frame.back())


def _write_parts(fd: int, parts: Parts) -> None:
    for sector, data in parts:
        write_all(fd, data, sector * SECTOR_BYTES)


def _joined(lines: Iterator[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []
    size = 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size >= MANIFEST_STEP_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    yield b"".join(parts)


def _copy(source: int, fd: int, file: DataFile) -> None:
    done, size = 0, file.entry.size
    while done < size:
        step = _copied(source, fd, done, file.offset_bytes + done, size - done)
        if not step:
            raise CallerError(
                f"{os.fsdecode(file.entry.path)}: found {done} bytes, expected {size}; it changed "
                "since it was hashed: write the volume as a new one"
            )
        done += step


def _copied(source: int, fd: int, start: int, to: int, size: int) -> int:
    """Some bytes, by the kernel if it can."""
    try:
        return os.copy_file_range(source, fd, size, start, to)
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
    data = os.pread(source, min(size, CACHED_BYTES), start)
    write_all(fd, data, to)
    return len(data)
