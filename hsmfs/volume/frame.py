"""What a volume has besides its files' data, each part with its sector, ascending."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.fileentry import metadata_file_entry
from hsmfs.volume.geometry import (
    ANCHOR_SECTOR,
    END_ANCHOR_SECTORS,
    INTEGRITY_SECTOR,
    MAIN_SEQUENCE_SECTOR,
    METADATA_SECTOR,
    PARTITION_SECTOR,
    RECOGNITION_SECTOR,
)
from hsmfs.volume.layout import Layout
from hsmfs.volume.metadata import MetadataContent
from hsmfs.volume.readme import readme
from hsmfs.volume.sequence import anchor, integrity, recognition, sequence

Parts = Iterator[tuple[int, bytes]]
"""Sectors and what begins there; zeros in between."""


class Frame:
    """Everything before and behind the data of one volume."""

    def __init__(self, layout: Layout, scratch: Path | None = None) -> None:
        self._layout = layout
        self._metadata = MetadataContent(layout, scratch)

    def front(self) -> Parts:
        """Descriptors, metadata, and the README, which is the first of the data."""
        layout = self._layout
        identity, geometry = layout.identity, layout.geometry
        yield RECOGNITION_SECTOR, recognition()
        yield MAIN_SEQUENCE_SECTOR, sequence(MAIN_SEQUENCE_SECTOR, identity, geometry)
        yield INTEGRITY_SECTOR, integrity(identity, geometry)
        yield ANCHOR_SECTOR, anchor(ANCHOR_SECTOR, geometry)
        if geometry.metadata_partition:
            yield PARTITION_SECTOR, self._metadata_entry(mirror=False)
        yield from _from_sector(METADATA_SECTOR, self._metadata.main())
        yield layout.readme.sector, readme(layout.header)

    def back(self) -> Parts:
        """What follows the manifest: mirror, reserve sequence, the two anchors at the end."""
        identity, geometry = self._layout.identity, self._layout.geometry
        if geometry.metadata_partition:
            yield from _from_sector(geometry.mirror_sector, self._metadata.mirror())
            yield geometry.mirror_entry_sector, self._metadata_entry(mirror=True)
        reserve, total = geometry.reserve_sector, geometry.total_sectors
        yield reserve, sequence(reserve, identity, geometry)
        for sector in (total - END_ANCHOR_SECTORS, total - 1):
            yield sector, anchor(sector, geometry)

    def _metadata_entry(self, *, mirror: bool) -> bytes:
        layout = self._layout
        return metadata_file_entry(layout.geometry, layout.header.created_ns, mirror=mirror)


def _from_sector(sector: int, pieces: Iterator[bytes]) -> Parts:
    """Pieces of whole sectors, one directly behind the other."""
    for piece in pieces:
        yield sector, piece
        sector += len(piece) // SECTOR_BYTES
