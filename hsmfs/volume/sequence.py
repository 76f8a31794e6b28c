"""Volume structures: recognition, anchors, descriptor sequences, integrity.

Each descriptor is one sector; the offsets are in ECMA-167 part 3 section 10
(parts 4 and UDF 2.50 section 2.2 for what is inside).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import xxhash

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.descriptor import (
    CHARSPEC,
    IMPLEMENTATION,
    TagId,
    domain,
    extent_ad,
    long_ad,
    regid,
    sealed,
    timestamp,
    udf_regid,
)
from hsmfs.volume.geometry import (
    ALIGN_SECTORS,
    INTEGRITY_SECTOR,
    MAIN_SEQUENCE_SECTOR,
    PARTITION_SECTOR,
    SEQUENCE_SECTORS,
    Geometry,
)
from hsmfs.volume.names import dstring

METADATA_MAP: Final = b"*UDF Metadata Partition"
_NO_BITMAP: Final = 0xFFFFFFFF
_DUPLICATE_METADATA: Final = 1
_READ_ONLY: Final = 1
_CLOSED: Final = 1


@dataclass(frozen=True, slots=True)
class VolumeIdentity:
    """What the volume descriptors say of the volume."""

    label: str
    site: str
    created_ns: int
    files: int
    directories: int
    next_unique_id: int
    revision: int
    """Of UDF, as in 0x0250."""


def padded(data: bytes) -> bytes:
    """Zeros up to whole sectors."""
    return data + bytes(-len(data) % SECTOR_BYTES)


def recognition() -> bytes:
    """Three sectors that say "UDF 2 or later" (ECMA-167 2/9)."""
    return b"".join(padded(b"\0" + name + b"\1") for name in (b"BEA01", b"NSR03", b"TEA01"))


def anchor(sector: int, geometry: Geometry) -> bytes:
    """Where the two descriptor sequences are."""
    length = SEQUENCE_SECTORS * SECTOR_BYTES
    body = extent_ad(length, MAIN_SEQUENCE_SECTOR) + extent_ad(length, geometry.reserve_sector)
    return padded(sealed(TagId.ANCHOR, sector, body + bytes(480)))


def sequence(first_sector: int, identity: VolumeIdentity, geometry: Geometry) -> bytes:
    """Main or reserve volume descriptor sequence, SEQUENCE_SECTORS long."""
    bodies = [
        (TagId.PRIMARY, _primary(identity)),
        (TagId.IMPLEMENTATION_USE, _implementation_use(identity)),
        (TagId.PARTITION, _partition(geometry)),
        (TagId.LOGICAL, _logical(identity, geometry)),
        (TagId.UNALLOCATED, struct.pack("<II", 4, 0)),
        (TagId.TERMINATING, bytes(496)),
    ]
    sectors = (
        padded(sealed(ident, first_sector + position, body))
        for position, (ident, body) in enumerate(bodies)
    )
    return b"".join(sectors).ljust(SEQUENCE_SECTORS * SECTOR_BYTES, b"\0")


def _primary(identity: VolumeIdentity) -> bytes:
    seed = f"{identity.site}\0{identity.label}\0{identity.created_ns}".encode()
    unique = f"{xxhash.xxh3_64_hexdigest(seed)}{identity.label}"
    return b"".join(
        (
            struct.pack("<II", 0, 0),
            dstring(identity.label, 32),
            struct.pack("<HHHHII", 1, 1, 2, 2, 1, 1),
            dstring(unique, 128),
            CHARSPEC * 2,
            extent_ad(0, 0) * 2,
            regid(b"*hsmfs volume"),
            timestamp(identity.created_ns),
            IMPLEMENTATION,
            bytes(64 + 4 + 2 + 22),
        )
    )


def _implementation_use(identity: VolumeIdentity) -> bytes:
    about = dstring(f"site {identity.site}", 36) + dstring("", 36) * 2
    start = struct.pack("<I", 1) + udf_regid(b"*UDF LV Info", identity.revision)
    return start + CHARSPEC + dstring(identity.label, 128) + about + IMPLEMENTATION + bytes(128)


def _partition(geometry: Geometry) -> bytes:
    where = struct.pack("<III", _READ_ONLY, PARTITION_SECTOR, geometry.partition_sectors)
    start = struct.pack("<IHH", 2, 1, 0) + regid(b"+NSR03", b"")
    return start + bytes(128) + where + IMPLEMENTATION + bytes(128 + 156)


def _logical(identity: VolumeIdentity, geometry: Geometry) -> bytes:
    maps, count = struct.pack("<BBHH", 1, 6, 1, 0), 1
    if geometry.metadata_partition:
        maps, count = maps + _metadata_map(identity.revision, geometry), 2
    return b"".join(
        (
            struct.pack("<I", 3),
            CHARSPEC,
            dstring(identity.label, 128),
            struct.pack("<I", SECTOR_BYTES),
            domain(identity.revision),
            long_ad(2 * SECTOR_BYTES, geometry.first_block, geometry.metadata_reference),
            struct.pack("<II", len(maps), count),
            IMPLEMENTATION,
            bytes(128),
            extent_ad(2 * SECTOR_BYTES, INTEGRITY_SECTOR),
            maps,
        )
    )


def _metadata_map(revision: int, geometry: Geometry) -> bytes:
    """Type 2 partition map (UDF 2.50 section 2.2.10)."""
    places = struct.pack(
        "<HHIIIIHB5x",
        1,
        0,
        geometry.metadata_entry_block,
        geometry.mirror_entry_block,
        _NO_BITMAP,
        ALIGN_SECTORS,
        ALIGN_SECTORS,
        _DUPLICATE_METADATA,
    )
    return struct.pack("<BBH", 2, 64, 0) + udf_regid(METADATA_MAP, revision) + places


def integrity(identity: VolumeIdentity, geometry: Geometry) -> bytes:
    """A closed volume without free space, and a terminator: two sectors."""
    revision = identity.revision
    counts = struct.pack(
        "<IIHHH", identity.files, identity.directories, revision, revision, revision
    )
    sizes = [geometry.partition_sectors]
    if geometry.metadata_partition:
        sizes.append(geometry.metadata_blocks)
    body = b"".join(
        (
            timestamp(identity.created_ns),
            struct.pack("<I", _CLOSED),
            extent_ad(0, 0),
            struct.pack("<Q24x", identity.next_unique_id),
            struct.pack("<II", len(sizes), len(IMPLEMENTATION) + len(counts)),
            bytes(4 * len(sizes)),  # free blocks
            struct.pack(f"<{len(sizes)}I", *sizes),
            IMPLEMENTATION,
            counts,
        )
    )
    end = sealed(TagId.TERMINATING, INTEGRITY_SECTOR + 1, bytes(496))
    return padded(sealed(TagId.INTEGRITY, INTEGRITY_SECTOR, body)) + padded(end)
