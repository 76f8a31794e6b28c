"""A small UDF volume as packet writers leave it on write-once discs: a virtual partition.

Descriptors are scattered over the disc, and only the table at its end says where they are.
"""

from __future__ import annotations

import random
import struct

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.descriptor import (
    CHARSPEC,
    IMPLEMENTATION,
    TagId,
    extent_ad,
    long_ad,
    regid,
    sealed,
    timestamp,
)
from hsmfs.volume.names import dstring, encode_cs0

MAIN, ANCHOR, START = 32, 256, 288
PHYSICAL, VIRTUAL = 0, 1
EMBEDDED_MAX = 1000
LONG, EMBEDDED = 1, 3
DIRECTORY, FILE, VAT = 4, 5, 248
WHEN_NS = 1_000_000_000_000_000_000
_ENTRY = struct.Struct("<20sIIIHBBIQQ12s12s12sI16s32sQII")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR_BYTES)


class VatDisc:
    """Blocks of the partition in the order in which they were written."""

    def __init__(self, revision: int, seed: int = 1) -> None:
        self.revision = revision
        self.chance = random.Random(seed)
        self.blocks: list[bytes] = []
        self.table: dict[int, int] = {}

    def image(self, files: dict[str, bytes]) -> bytes:
        """Files in the root directory and one level below."""
        folders = sorted({path.partition("/")[0] for path in files if "/" in path})
        numbers = {name: 2 + at for at, name in enumerate(["", *folders, *files])}
        where = {name: numbers[name] for name in numbers}
        self.put(0, self.file_set(where[""]))
        for path, data in files.items():
            self.junk()
            self.file(where[path], data)
        for folder in ["", *folders]:
            names = [
                (path.rpartition("/")[2], where[path], path in folders)
                for path in [*files, *folders]
                if path.rpartition("/")[0] == folder and path
            ]
            self.junk()
            self.directory(where[folder], names)
        return self.closed()

    # -- parts ------------------------------------------------------------------------

    def junk(self) -> None:
        """Old versions of descriptors, which the table names no more."""
        for _ in range(self.chance.randint(0, 3)):
            self.blocks.append(self.chance.randbytes(SECTOR_BYTES))

    def put(self, virtual: int, descriptor: bytes) -> None:
        self.table[virtual] = len(self.blocks)
        self.blocks.append(padded(descriptor))

    def append(self, data: bytes) -> int:
        first = len(self.blocks)
        data = padded(data)
        self.blocks += [data[at : at + SECTOR_BYTES] for at in range(0, len(data), SECTOR_BYTES)]
        return first

    def entry(self, location: int, file_type: int, kind: int, size: int, body: bytes) -> bytes:
        icb = struct.pack("<IHHHBB6sH", 0, 4, 0, 1, 0, file_type, bytes(6), kind)
        fields = _ENTRY.pack(
            icb, 0xFFFFFFFF, 0xFFFFFFFF, 0x14A5, 1, 0, 0, 0, size, 0,
            *[timestamp(WHEN_NS)] * 3, 1, bytes(16), IMPLEMENTATION, 0, 0, len(body),
        )  # fmt: skip
        return sealed(TagId.FILE_ENTRY, location, fields + body)

    def file(self, virtual: int, data: bytes) -> None:
        if len(data) <= EMBEDDED_MAX:
            self.put(virtual, self.entry(virtual, FILE, EMBEDDED, len(data), data))
            return
        half = len(data) // 2 // SECTOR_BYTES * SECTOR_BYTES
        first = self.append(data[:half])
        self.junk()
        second = self.append(data[half:])
        ads = long_ad(half, first, PHYSICAL) if half else b""
        ads += long_ad(len(data) - half, second, PHYSICAL)
        self.put(virtual, self.entry(virtual, FILE, LONG, len(data), ads))

    def directory(self, virtual: int, names: list[tuple[str, int, bool]]) -> None:
        parts = [self.name("", 2, 2 | 8)]
        parts += [self.name(name, icb, 2 * is_folder) for name, icb, is_folder in names]
        data = b"".join(parts)
        if len(data) <= EMBEDDED_MAX:
            self.put(virtual, self.entry(virtual, DIRECTORY, EMBEDDED, len(data), data))
            return
        ads = long_ad(len(data), self.append(data), PHYSICAL)
        self.put(virtual, self.entry(virtual, DIRECTORY, LONG, len(data), ads))

    def name(self, name: str, icb: int, flags: int) -> bytes:
        coded = encode_cs0(name) if name else b""
        body = struct.pack("<HBB", 1, flags, len(coded)) + long_ad(SECTOR_BYTES, icb, VIRTUAL)
        body += struct.pack("<H", 0) + coded
        return sealed(TagId.FILE_IDENTIFIER, 0, body + bytes(-len(body) % 4))

    def file_set(self, root: int) -> bytes:
        body = bytes(400 - 16) + long_ad(SECTOR_BYTES, root, VIRTUAL) + bytes(96)
        return sealed(TagId.FILE_SET, 0, body)

    # -- the volume -----------------------------------------------------------------------

    def closed(self) -> bytes:
        size = max(self.table) + 1
        table = b"".join(struct.pack("<I", self.table.get(at, 0xFFFFFFFF)) for at in range(size))
        if self.revision >= 0x0200:
            revisions = [self.revision] * 3
            head = (152, 0, dstring("V", 128), 0xFFFFFFFF, 1, 1, *revisions, 0)
            content = struct.pack("<HH128sIIIHHHH", *head) + table
            kind = VAT
        else:
            content = table + regid(b"*UDF Virtual Alloc Tbl") + b"\xff" * 4
            kind = 0
        where, body = EMBEDDED, content
        if len(content) > EMBEDDED_MAX:
            where, body = LONG, long_ad(len(content), self.append(content), PHYSICAL)
        location = len(self.blocks)
        self.blocks.append(padded(self.entry(location, kind, where, len(content), body)))
        return self.front() + b"".join(self.blocks)

    def front(self) -> bytes:
        sectors = [bytes(SECTOR_BYTES)] * START
        for at, name in enumerate((b"BEA01", b"NSR02", b"TEA01")):
            sectors[16 + at] = padded(b"\0" + name + b"\1")
        place = struct.pack("<II", START, len(self.blocks))
        partition = struct.pack("<IHH", 2, 1, 0) + bytes(164) + place + bytes(316)
        bodies = [
            (TagId.PRIMARY, bytes(360) + timestamp(WHEN_NS) + bytes(108)),
            (TagId.PARTITION, partition),
            (TagId.LOGICAL, self.logical()),
            (TagId.TERMINATING, bytes(496)),
        ]  # fmt: skip
        for at, (ident, body) in enumerate(bodies):
            sectors[MAIN + at] = padded(sealed(ident, MAIN + at, body))
        extents = extent_ad(16 * SECTOR_BYTES, MAIN) + extent_ad(0, 0)
        sectors[ANCHOR] = padded(sealed(TagId.ANCHOR, ANCHOR, extents + bytes(480)))
        return b"".join(sectors)

    def logical(self) -> bytes:
        suffix = struct.pack("<HBB4x", self.revision, 0, 0)
        maps = struct.pack("<BBHH", 1, 6, 1, 0)
        maps += struct.pack(
            "<BBH32sHH24x", 2, 64, 0, regid(b"*UDF Virtual Partition", suffix), 1, 0
        )
        head = struct.pack("<I", 3) + CHARSPEC + dstring("packets", 128)
        head += struct.pack("<I", SECTOR_BYTES) + regid(b"*OSTA UDF Compliant", suffix)
        head += long_ad(SECTOR_BYTES, 0, VIRTUAL) + struct.pack("<II", len(maps), 2)
        return head + bytes(440 - 16 - len(head)) + maps
