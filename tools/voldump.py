"""Show what is on a volume, from an image file or a disc in a drive."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.manifestread import ManifestEntry
from hsmfs.volume.reader import VolumeReader, WalkEntry


def sector_reader(fd: int) -> Callable[[int, int], bytes]:
    """Sectors of an open image or device; short at its end, MediumError for bad ones."""

    def read(sector: int, sectors: int) -> bytes:
        parts, offset, left = [], sector * SECTOR_BYTES, sectors * SECTOR_BYTES
        try:
            while left and (part := os.pread(fd, left, offset)):
                parts.append(part)
                offset, left = offset + len(part), left - len(part)
        except OSError as error:
            raise MediumError(f"sector {offset // SECTOR_BYTES}: {error.strerror}") from error
        return b"".join(parts)

    return read


def dump(image: Path | str) -> dict[str, Any]:
    """Header and manifest as plain values; what only the tree tells of is unproved.

    Raises OSError where the image cannot be read and MediumError where it is
    no volume.
    """
    fd = os.open(image, os.O_RDONLY)
    try:
        total_sectors = os.lseek(fd, 0, os.SEEK_END) // SECTOR_BYTES
        reader = VolumeReader(sector_reader(fd), total_sectors)
        header, why = reader.header_or_rest()
        files, damage = _entries(reader)
    finally:
        os.close(fd)
    return {
        "label": reader.label,
        "site": header.site,
        "pool": header.pool,
        "created_ns": header.created_ns,
        "copies": header.copies,
        "sectors": total_sectors,
        "damage": [*([str(why)] if why is not None else []), *damage],
        "void_files": sum(1 for file in files if file.get("void")),
        "files": files,
    }


def _entries(reader: VolumeReader) -> tuple[list[dict[str, Any]], list[str]]:
    """Described entries, and the damage that was met."""
    files: list[dict[str, Any]] = []
    damage: list[str] = []
    listed: set[str] = set()
    for entry in reader.manifest_or_rest():
        if isinstance(entry, MediumError):
            damage.append(str(entry))
        else:
            listed.add(entry.disc_path)
            files.append(_described(entry))
    for one in reader.unlisted(listed) if damage else ():
        if isinstance(one, MediumError):
            damage.append(str(one))
        else:
            files.append(_unproved(one))
    return files, damage


def _unproved(entry: WalkEntry) -> dict[str, Any]:
    kind = "dir" if entry.is_directory else "file"
    described = {"kind": kind, "path": entry.path, "size": entry.size, "sector": entry.sector}
    return described | {"unproved": True}


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
