"""``hsm volume mend``: a damaged image made whole by the recovery data that is in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from hsmfs.errors import CallerError, HsmError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.recovery import BLOCK_BYTES, mend_image

PIECE_BYTES: Final = 1 << 20


def mend(image: Path, into: Path) -> dict[str, Any]:
    """Copy an image or a disc, what cannot be read as zeros, and repair the copy.

    CallerError where it has no recovery data, or ``into`` is there already.
    """
    try:
        unreadable = _copy(image, into)
    except OSError as error:
        raise HsmError(f"{error.filename or image}: {error.strerror}") from error
    mended = mend_image(into)
    if mended is None:
        into.unlink()
        raise CallerError(
            f"{image}: found no recovery data in it; it was burned without (care."
            "disc_recovery_percent), or its recovery file is damaged"
        )
    return {
        "image": str(image),
        "into": str(into),
        "unreadable_sectors": unreadable,
        "repaired_blocks": len(mended.repaired),
        "repaired": mended.repaired,
        "lost": mended.lost,
        "block_sectors": BLOCK_BYTES // SECTOR_BYTES,
        "covered_sectors": mended.sectors,
    }


def _copy(image: Path, into: Path) -> int:
    """Sectors that could not be read."""
    bad = 0
    source = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        os.close(source)
        raise CallerError(f"{into}: is there already; name a new file") from None
    try:
        size = os.lseek(source, 0, os.SEEK_END) // SECTOR_BYTES * SECTOR_BYTES
        os.ftruncate(target, size)
        for at in range(0, size, PIECE_BYTES):
            bad += _piece(source, target, at, min(PIECE_BYTES, size - at))
    finally:
        os.close(source)
        os.close(target)
    return bad


def _piece(source: int, target: int, at: int, size: int) -> int:
    try:
        os.pwrite(target, os.pread(source, size, at), at)
    except OSError:
        if size <= SECTOR_BYTES:
            return 1
        half = max(SECTOR_BYTES, size // 2 // SECTOR_BYTES * SECTOR_BYTES)
        first = _piece(source, target, at, half)
        return first + _piece(source, target, at + half, size - half)
    return 0
