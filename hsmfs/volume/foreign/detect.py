"""Which format a disc has, and its tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.volume.foreign.entry import ForeignEntry, ForeignVolume, Found, Problem
from hsmfs.volume.foreign.iso9660 import Iso9660
from hsmfs.volume.foreign.sectors import Read, Sectors
from hsmfs.volume.foreign.udf import Udf

LARGE_BYTES: Final = 1 << 32
"""From here on a size needs more than the field of ISO 9660 has."""
LARGE_FILES_MAX: Final = 100_000


class Bridge:
    """A disc with Rock Ridge and UDF over the same data.

    Only Rock Ridge has owners, modes and symlinks; only UDF has the true size of a file
    over 4 GiB (genisoimage -allow-limited-size writes the size modulo 4 GiB to ISO 9660).
    """

    def __init__(self, iso: ForeignVolume, udf: ForeignVolume) -> None:
        self._iso = iso
        self._udf = udf
        self.format = f"{iso.format}, {udf.format}"
        self.label = iso.label
        self.created_ns = iso.created_ns
        self.fingerprint = iso.fingerprint

    def walk(self) -> Iterator[Found]:
        """The tree of Rock Ridge, with large files as UDF has them."""
        large = self._large()
        starts: dict[int | None, bytes] = {entry.runs[0][0]: path for path, entry in large.items()}
        seen: set[bytes] = set()
        for found in self._iso.walk():
            if isinstance(found, Problem) or found.kind != "file":
                yield found
                continue
            start = found.runs[0][0] if found.runs else None
            path = found.path if found.path in large else starts.get(start, b"")
            whole = large.get(path)
            if whole is None:
                yield found
                continue
            yield replace(found, size=whole.size, runs=whole.runs)
            seen.add(path)
        for path in large.keys() - seen:
            yield Problem(path, "the UDF of this disc has it, its Rock Ridge has not")

    def _large(self) -> dict[bytes, ForeignEntry]:
        large: dict[bytes, ForeignEntry] = {}
        for found in self._udf.walk():
            if isinstance(found, ForeignEntry) and found.size >= LARGE_BYTES and found.runs:
                large[found.path] = found
            if len(large) > LARGE_FILES_MAX:
                raise MediumError(f"more than {LARGE_FILES_MAX} files of over 4 GiB")
        return large


def open_foreign(read: Read, total_sectors: int, session_sector: int = 0) -> ForeignVolume:
    """The volume on a disc; MediumError where there is none that can be read.

    Of a disc that has several trees that one is read which says most: Rock Ridge, else UDF,
    else Joliet, else plain ISO 9660.
    """
    sectors = Sectors(read, total_sectors)
    errors: list[str] = []
    iso: Iso9660 | None = None
    udf: Udf | None = None
    for first in dict.fromkeys((session_sector, 0)):
        try:
            iso = iso or Iso9660(sectors, first)
        except MediumError as error:
            errors.append(f"ISO 9660: {error}")
    try:
        udf = Udf(sectors, session_sector)
    except MediumError as error:
        errors.append(f"UDF: {error}")
    if iso is not None and iso.has_rock_ridge:
        return Bridge(iso, udf) if udf is not None else iso
    found = udf or iso
    if found is None:
        raise MediumError(
            "no file system that is known: the disc is blank, damaged or of another sort "
            f"({'; '.join(errors)})"
        )
    return found
