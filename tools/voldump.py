"""Show what is on a volume, from an image file or a disc in a drive."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.manifestread import ManifestEntry
from hsmfs.volume.reader import VolumeReader


def sector_reader(fd: int) -> Callable[[int, int], bytes]:
    """Sectors of an open image or device; short at its end."""

    def read(sector: int, sectors: int) -> bytes:
        parts, offset, left = [], sector * SECTOR_BYTES, sectors * SECTOR_BYTES
        while left and (part := os.pread(fd, left, offset)):
            parts.append(part)
            offset, left = offset + len(part), left - len(part)
        return b"".join(parts)

    return read


def dump(image: Path | str) -> dict[str, Any]:
    """Header and manifest as plain values.

    Raises OSError where the image cannot be read and MediumError where it is
    no volume.
    """
    fd = os.open(image, os.O_RDONLY)
    try:
        total_sectors = os.lseek(fd, 0, os.SEEK_END) // SECTOR_BYTES
        reader = VolumeReader(sector_reader(fd), total_sectors)
        header = reader.header
        files = [_described(entry) for entry in reader.manifest()]
    finally:
        os.close(fd)
    return {
        "label": reader.label,
        "site": header.site,
        "pool": header.pool,
        "created_ns": header.created_ns,
        "copies": header.copies,
        "sectors": total_sectors,
        "void_files": sum(1 for file in files if file.get("void")),
        "files": files,
    }


def _described(entry: ManifestEntry) -> dict[str, Any]:
    source, result = entry.source, entry.result
    described: dict[str, Any] = {
        "kind": "link" if source.link_of is not None else source.kind,
        "path": os.fsdecode(source.path),
        "ino": source.ino,
        "size": source.size,
    }
    if entry.disc_path != described["path"]:
        described["disc_path"] = entry.disc_path
    if source.part is not None:
        described["part"] = source.part.number
    if source.part is not None and source.link_of is None:
        described["parts"], described["part_start"] = source.part.parts, source.part.start
        described["total_size"] = source.part.total
    if source.link_of is not None:
        described["link_of"] = os.fsdecode(source.link_of)
    if source.kind == "symlink":
        described["target"] = os.fsdecode(source.target)
    if result is not None:
        described["data_version"] = result.data_version
        described["sector"] = result.offset_bytes // SECTOR_BYTES
        described["xxh3"] = result.xxh3_128
        described["sha256"] = result.sha256
        described["void"] = result.void
    return described
