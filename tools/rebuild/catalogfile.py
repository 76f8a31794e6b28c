"""The new catalog, written in bulk: extents as they come, records at the end."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from hsmfs.daemon.catalog import (
    SCHEMA_VERSION,
    extent_items,
    extent_of,
    record_item,
)
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    ExtentRecord,
    VolumeRecord,
    VolumeState,
)
from hsmfs.store.interface import Item
from hsmfs.tools.rebuild.bulkfile import BulkFile
from hsmfs.tools.rebuild.images import FoundVolume
from hsmfs.tools.rebuild.shelf import Shelf
from hsmfs.types import FileVersion
from hsmfs.volume.source import VolumeHeader

LABELS_SKIPPED: Final = 1000
"""Numbers of volumes that nobody told of are not given again."""
MISSING_NOTE: Final = "known by later volumes' manifests; hsm rebuild was given none of its discs"
_NUMBER: Final = re.compile(r"-(\d{6,})$")


class CatalogFile:
    """An LMDB environment that nobody else has open."""

    def __init__(self, path: Path, map_bytes: int) -> None:
        self._file = BulkFile(path, map_bytes)
        self.totals: dict[str, list[int]] = {}
        """Files and bytes of each volume."""

    def extent(self, label: str, file: FileVersion, extent: ExtentRecord) -> None:
        """Where a version lies on a volume."""
        self._file.put(*extent_items(label, file, extent))
        totals = self.totals.setdefault(label, [0, 0])
        totals[0] += 1
        totals[1] += extent.size

    def flush(self) -> None:
        """What was put can be read."""
        self._file.flush()

    def extents(self) -> ExtentReader:
        """For questions by inode, in ascending order."""
        return ExtentReader(self._file)

    def all_extents(self) -> Iterator[tuple[FileVersion, str, ExtentRecord]]:
        """Version, label and extent of all, by inode."""
        return map(extent_of, self._file.scan(b"E", b"F"))

    def drop(self, label: str, file: FileVersion, extent: ExtentRecord) -> None:
        """An extent that must not be taken for a copy."""
        self._file.delete(*(key for key, _ in extent_items(label, file, extent)))

    def records(
        self,
        found: Iterable[FoundVolume],
        missing: Iterable[VolumeHeader],
        library: str,
        shelf: Shelf,
    ) -> None:
        """Volumes, discs and magazines, and where their numbers go on."""
        items: list[Item] = [(b"Mschema", b"%d" % SCHEMA_VERSION)]
        highest, known = 0, set[str]()
        for volume in found:
            highest = max(highest, _number(volume.label))
            record = self._volume(volume.header, volume.sectors, volume.barcodes)
            record.note = volume.note or record.note
            items.append(record_item(record))
            for barcode in volume.barcodes:
                known.add(barcode)
                items.append(record_item(shelf.place(_disc(barcode, volume, library))))
        for header in missing:
            highest = max(highest, _number(header.label))
            items.append(record_item(self._volume(header, 0, [])))
        items += [record_item(record) for record in shelf.magazines]
        items += [record_item(record) for record in shelf.others(known, library)]
        items.append((b"Mnext_volume", b"%d" % (highest + 1 + LABELS_SKIPPED)))
        self._file.put(*items)

    def _volume(self, header: VolumeHeader, sectors: int, barcodes: list[str]) -> VolumeRecord:
        files, size = self.totals.get(header.label, [0, 0])
        return VolumeRecord(
            label=header.label,
            pool=header.pool,
            state=VolumeState.COMPLETE if barcodes else VolumeState.SHORT,
            copies=header.copies,
            created_ns=header.created_ns,
            files=files,
            bytes=size,
            total_sectors=sectors,
            parity=header.parity,
            note="" if sectors else MISSING_NOTE,
        )

    def close(self) -> None:
        """All is on disk."""
        self._file.close()


class ExtentReader:
    """One pass over the extents, beside a pass over the inodes."""

    def __init__(self, file: BulkFile) -> None:
        self._extents = map(extent_of, file.scan(b"E", b"F"))
        self._next = next(self._extents, None)

    def of(self, ino: int) -> list[tuple[int, str, ExtentRecord]]:
        """Version, label and extent of all that volumes have of an inode, oldest first;
        no smaller inode may be asked for afterwards."""
        found = []
        while self._next is not None and self._next[0].ino <= ino:
            file, label, extent = self._next
            if file.ino == ino:
                found.append((file.data_version, label, extent))
            self._next = next(self._extents, None)
        return found


def _disc(barcode: str, volume: FoundVolume, library: str) -> DiscRecord:
    """Verified counts: its manifest was read, and each byte is proved again by its
    hash when it is recalled. When it was verified last is not known: scrub has it first."""
    return DiscRecord(
        barcode=barcode,
        magazine="",
        position=0,
        library=library,
        state=DiscState.DAMAGED if barcode in volume.damaged else DiscState.VERIFIED,
        volume=volume.label,
        used_sectors=volume.sectors,
        note="taken in by hsm rebuild",
    )


def _number(label: str) -> int:
    found = _NUMBER.search(label)
    return int(found[1]) if found else 0
