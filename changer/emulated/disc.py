"""One emulated disc: an image file and the rules of write-once media.

The image holds exactly the recorded sectors. A disc is *blank* without an
image (or with an empty one), *incomplete* while it is written, *complete*
once the marker that CLOSE leaves is there (in the folder ``closed`` beside
``discs``, so that ``discs`` holds images and nothing else).

A disc with spare areas has its user sectors in a file of the folder ``formatted``, which never
changes. No other state is kept: the next writable sector is the
image's size. So after a kill the disc may hold more than was acknowledged,
but what it says of itself and what it holds are always the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hsmfs.changer.emulated.state import fsync_directory
from hsmfs.types import SECTOR_BYTES

CLOSED_FOLDER: Final = "closed"
FORMATTED_FOLDER: Final = "formatted"
WRITE_BYTES: Final = 128 * 1024
"""Of one write into the image: larger ones cost Linux several times the processor."""


def image_path(discs: Path, barcode: str) -> Path:
    """The image of a disc; it exists once something was written."""
    return discs / f"{barcode}.img"


def marker_path(discs: Path, barcode: str) -> Path:
    """The file whose existence says that a disc is closed."""
    return discs.parent / CLOSED_FOLDER / barcode


def format_path(discs: Path, barcode: str) -> Path:
    """The file that says how many sectors a disc with spare areas has for users."""
    return discs.parent / FORMATTED_FOLDER / barcode


class DiscFile:
    """Access to a disc that is in a drive; files are opened when first needed."""

    def __init__(self, folder: Path, barcode: str, capacity_sectors: int) -> None:
        self.barcode = barcode
        self._format = format_path(folder, barcode)
        told = self._format.read_text() if self._format.exists() else ""
        self.formatted = bool(told)
        """Whether it has spare areas."""
        self.capacity_sectors = int(told) if told else capacity_sectors
        self._image = image_path(folder, barcode)
        self._marker = marker_path(folder, barcode)
        self._fd = -1
        self.closed = self._marker.exists()
        self.written_sectors = self._recorded()
        self._synced_sectors = self.written_sectors

    def _recorded(self) -> int:
        """Whole sectors in the image; a cut one was never acknowledged."""
        try:
            size = self._image.stat().st_size
        except FileNotFoundError:
            return 0
        if size % SECTOR_BYTES and not self.closed:
            os.truncate(self._image, size - size % SECTOR_BYTES)
        return size // SECTOR_BYTES

    def _file(self) -> int:
        if self._fd < 0:
            access = os.O_RDONLY if self.closed else os.O_RDWR | os.O_CREAT
            self._fd = os.open(self._image, access | os.O_CLOEXEC, 0o644)
        return self._fd

    @property
    def status(self) -> int:
        """Disc status of READ DISC INFORMATION: 0 empty, 1 incomplete, 2 complete."""
        if self.closed:
            return 2
        return 1 if self.written_sectors else 0

    def write(self, lba: int, data: bytes | memoryview) -> None:
        """Append at the next writable sector (checked by the drive)."""
        assert lba == self.written_sectors and not self.closed
        fd, offset, view = self._file(), lba * SECTOR_BYTES, memoryview(data)
        try:
            while view:
                count = os.pwrite(fd, view[:WRITE_BYTES], offset)
                view, offset = view[count:], offset + count
        finally:
            # After an error too: what is recorded stays recorded.
            self.written_sectors = offset // SECTOR_BYTES

    def read(self, lba: int, sectors: int) -> bytes:
        """Recorded sectors."""
        if not sectors:
            return b""
        return os.pread(self._file(), sectors * SECTOR_BYTES, lba * SECTOR_BYTES)

    def sync(self) -> None:
        """On the platter, as far as an image goes."""
        if self._fd >= 0:
            os.fsync(self._fd)
            fsync_directory(self._image.parent)
        self._synced_sectors = self.written_sectors

    def lose_buffer(self, sectors: int) -> None:
        """Power went: so much of what was not flushed yet was never recorded."""
        if self.closed or self._fd < 0:
            return
        left = max(self._synced_sectors, self.written_sectors - sectors)
        os.ftruncate(self._fd, left * SECTOR_BYTES)
        self.written_sectors = left

    def format(self, sectors: int) -> None:
        """Leave the rest for spares; durable and atomic."""
        self._format.parent.mkdir(exist_ok=True)
        temporary = self._format.with_name(f"{self.barcode}.new")
        with temporary.open("w") as out:
            out.write(f"{sectors}\n")
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(self._format)
        fsync_directory(self._format.parent)
        self.formatted, self.capacity_sectors = True, sectors

    def close_session(self) -> None:
        """From now on nothing can be written."""
        self.sync()
        fd = os.open(self._marker, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        os.close(fd)
        fsync_directory(self._marker.parent)
        self.closed = True

    def release(self) -> None:
        """The disc leaves the drive."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
