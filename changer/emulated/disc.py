"""One emulated disc: an image file and the rules of write-once media.

The image holds exactly the recorded sectors. A disc is *blank* without an
image (or with an empty one), *incomplete* while it is written, *complete*
once the marker that CLOSE leaves is there (in the folder ``closed`` beside
``discs``, so that ``discs`` holds images and nothing else).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from hsmfs.changer.emulated.state import fsync_directory
from hsmfs.types import SECTOR_BYTES

CLOSED_FOLDER: Final = "closed"


def marker_path(discs: Path, barcode: str) -> Path:
    """The file whose existence says that a disc is closed."""
    return discs.parent / CLOSED_FOLDER / barcode


class DiscFile:
    """Access to a disc that is in a drive."""

    def __init__(self, folder: Path, barcode: str, capacity_sectors: int) -> None:
        self.barcode = barcode
        self.capacity_sectors = capacity_sectors
        self._image = folder / f"{barcode}.img"
        self._marker = marker_path(folder, barcode)
        self._fd = os.open(self._image, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        # A sector that was cut by a crash was never acknowledged.
        size = os.fstat(self._fd).st_size
        if size % SECTOR_BYTES and not self.closed:
            os.ftruncate(self._fd, size - size % SECTOR_BYTES)
        self.written_sectors = os.fstat(self._fd).st_size // SECTOR_BYTES

    @property
    def closed(self) -> bool:
        return self._marker.exists()

    @property
    def status(self) -> int:
        """Disc status of READ DISC INFORMATION: 0 empty, 1 incomplete, 2 complete."""
        if self.closed:
            return 2
        return 1 if self.written_sectors else 0

    def write(self, lba: int, data: bytes | memoryview) -> None:
        """Append at the next writable sector (checked by the drive)."""
        assert lba == self.written_sectors
        offset = lba * SECTOR_BYTES
        view = memoryview(data)
        while view:
            count = os.pwrite(self._fd, view, offset)
            view, offset = view[count:], offset + count
        self.written_sectors += len(data) // SECTOR_BYTES

    def read(self, lba: int, sectors: int) -> bytes:
        """Recorded sectors."""
        return os.pread(self._fd, sectors * SECTOR_BYTES, lba * SECTOR_BYTES)

    def sync(self) -> None:
        """On the platter, as far as an image goes."""
        os.fdatasync(self._fd)

    def close_session(self) -> None:
        """From now on nothing can be written."""
        os.fsync(self._fd)
        fd = os.open(self._marker, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644)
        os.fsync(fd)
        os.close(fd)
        fsync_directory(self._marker.parent)

    def release(self) -> None:
        """The disc leaves the drive."""
        os.close(self._fd)
        if not self.written_sectors and not self.closed:
            self._image.unlink(missing_ok=True)
