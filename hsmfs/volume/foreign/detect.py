"""Which format a disc has, and its tree."""

from __future__ import annotations

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.foreign.entry import ForeignVolume
from hsmfs.volume.foreign.iso9660 import Iso9660
from hsmfs.volume.foreign.sectors import Read, Sectors
from hsmfs.volume.foreign.udf import Udf

SPACE_TEXT = "the disc is blank, damaged, or of a file system that is not known"


def open_foreign(read: Read, total_sectors: int, session_sector: int = 0) -> ForeignVolume:
    """The volume on a disc; MediumError where there is none that can be read.

    On a disc that has both, UDF is read, but ISO 9660 where that has Rock Ridge: only this
    has owners, modes and symlinks, which bridge discs leave out of their UDF.
    """
    sectors = Sectors(read, total_sectors)
    errors: list[str] = []
    iso: ForeignVolume | None = None
    udf: ForeignVolume | None = None
    try:
        iso = Iso9660(sectors, session_sector)
    except MediumError as error:
        errors.append(f"ISO 9660: {error}")
    if iso is not None and "Rock Ridge" in iso.format:
        return iso
    try:
        udf = Udf(sectors, session_sector)
    except MediumError as error:
        errors.append(f"UDF: {error}")
    found = udf or iso
    if found is None:
        raise MediumError(f"{SPACE_TEXT} ({'; '.join(errors)})")
    return found


def image_sectors(size: int) -> int:
    """Whole sectors of an image file."""
    return size // SECTOR_BYTES
