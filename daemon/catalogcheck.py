"""The catalog against itself, and as the namespace's check asks it.

Contents (Y) are made anew from extents (E). An extent itself has hashes that
only its disc has too: what is lost there is told, and stays told.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from hsmfs.daemon.catalog import COUNTED, SCHEMA_VERSION
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    ExtentRecord,
    MagazineRecord,
    TaskRecord,
    VolumeRecord,
)
from hsmfs.daemon.coverage import copies_of, size_of
from hsmfs.errors import CallerError
from hsmfs.fsck.findings import Finding, Kind, KnownCopies
from hsmfs.fsck.workspace import Workspace

_FILE: Final = struct.Struct(">QI")
_PLACE: Final = struct.Struct(">QQ")
_VERSION: Final = struct.Struct(">I")
_EXTENT_KEY_BYTES_MIN: Final = 14
_RECORDS: Final[dict[bytes, tuple[type[Any], str]]] = {
    b"V": (VolumeRecord, "volume"),
    b"K": (DiscRecord, "disc"),
    b"G": (MagazineRecord, "magazine"),
    b"T": (TaskRecord, "task"),
}
_decode_extent: Final = msgspec.msgpack.Decoder(ExtentRecord).decode
SIZES_DIFFER: Final = -1


class CatalogCheck:
    """Few records in memory, extents from the store."""

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self.volumes: set[str] = set()
        self.verified: Counter[str] = Counter()
        """Verified discs of each volume that is known."""
        self._discs: dict[str, DiscRecord] = {}
        self.found = 0
        self.repaired = 0
        self._load()

    def _finding(self, kind: Kind, where: str, found: str, expected: str, todo: str) -> Finding:
        self.found += 1
        self.repaired += bool(todo) and self.work.repairing
        return Finding(kind, 0, f"catalog: {where}", found, expected, todo)

    def _load(self) -> None:
        schema = self.work.get(b"Mschema")
        if schema is not None and (not schema.isdigit() or int(schema) > SCHEMA_VERSION):
            raise CallerError(
                f"catalog: found schema {schema!r}, expected at most {SCHEMA_VERSION}; "
                "install the newer hsmfs that wrote it"
            )
        for key, value in self.work.scan(b"V", b"W"):
            if _decoded(VolumeRecord, value) is not None:
                self.volumes.add(key[1:].decode(errors="replace"))
        for key, value in self.work.scan(b"K", b"L"):
            disc = _decoded(DiscRecord, value)
            if disc is not None:
                self._discs[key[1:].decode(errors="replace")] = disc
                if disc.state in COUNTED and disc.volume in self.volumes:
                    self.verified[disc.volume] += 1

    # -- for the namespace ---------------------------------------------------------

    def of(self, ino: int) -> list[KnownCopies]:
        """All versions of a file that are on volumes, oldest first."""
        found: dict[int, list[tuple[str, ExtentRecord]]] = {}
        for key, value in self.work.scan(*_extents_of(ino), chunk=64):
            extent, label = _decoded(ExtentRecord, value), _label(key)
            if extent is not None and label is not None:
                version = _FILE.unpack_from(key, 1)[1]
                found.setdefault(version, []).append((label, extent))
        return [self._known(version, places) for version, places in sorted(found.items())]

    def _known(self, version: int, places: list[tuple[str, ExtentRecord]]) -> KnownCopies:
        sizes = {size_of(extent) for _, extent in places}
        size = sizes.pop() if len(sizes) == 1 else SIZES_DIFFER
        proved = tuple(label for label, _ in places if self.verified[label])
        copies = copies_of((extent, self.verified[label]) for label, extent in places)
        return KnownCopies(version, size, copies, proved)

    # -- the catalog itself -----------------------------------------------------------

    def run(self) -> Iterator[Finding]:
        """All of it; to be read to its end."""
        yield from self._records()
        yield from self._numbers()
        yield from self._disc_volumes()
        yield from self._extents()
        yield from self._contents()
        self.work.commit()

    def _records(self) -> Iterator[Finding]:
        for prefix, (kind, word) in _RECORDS.items():
            stop = bytes([prefix[0] + 1])
            for key, value in self.work.scan(prefix, stop):
                if _decoded(kind, value) is None:
                    where = f"{word} {key[1:].decode(errors='replace')}"
                    found = f"{len(value)} bytes that are no {word} record"
                    expected = "a record in msgpack"
                    yield self._finding(Kind.CATALOG_RECORD, where, found, expected, "")

    def _numbers(self) -> Iterator[Finding]:
        """Labels are never given twice."""
        value = self.work.get(b"Mnext_volume") or b"1"
        following = int(value) if value.isdigit() else 0
        used = max((_number_of(label) for label in self.volumes), default=0)
        if following <= used:
            self.work.put(b"Mnext_volume", b"%d" % (used + 1))
            found, expected = f"next volume {value!r}", f"above {used}"
            yield self._finding(Kind.META, "numbers", found, expected, "set")

    def _disc_volumes(self) -> Iterator[Finding]:
        for barcode, disc in self._discs.items():
            if disc.volume and disc.volume not in self.volumes:
                found, expected = f"volume {disc.volume}", "a volume that the catalog knows"
                yield self._finding(Kind.DISC, f"disc {barcode}", found, expected, "")

    def _extents(self) -> Iterator[Finding]:
        for key, value in self.work.scan(b"E", b"F"):
            extent, label = _decoded(ExtentRecord, value), _label(key)
            if extent is None or label is None:
                found, expected = f"extent {key[1:]!r}, {len(value)} bytes", "an extent record"
                yield self._finding(Kind.EXTENT, "extents", found, expected, "")
                continue
            ino, version = _FILE.unpack_from(key, 1)
            where = f"inode {ino} version {version} on volume {label}"
            if label not in self.volumes:
                expected = "a volume that the catalog knows"
                yield self._finding(Kind.EXTENT, where, f"volume {label}", expected, "")
                continue
            place = _contents_key(label, extent.offset, ino)
            if self.work.get(place) != _VERSION.pack(version):
                self.work.put(place, _VERSION.pack(version))
                found, expected = "not in the volume's contents", "once in them"
                yield self._finding(Kind.CONTENTS, where, found, expected, "written")

    def _contents(self) -> Iterator[Finding]:
        for key, value in self.work.scan(b"Y", b"Z"):
            label, _, place = key[1:].partition(b"\0")
            if len(place) != _PLACE.size or len(value) != _VERSION.size:
                self.work.delete(key)
                found, expected = f"contents {key[1:]!r}", "label, offset, inode: version"
                yield self._finding(Kind.CONTENTS, "contents", found, expected, "removed")
                continue
            offset, ino = _PLACE.unpack(place)
            version = _VERSION.unpack(value)[0]
            extent_key = b"E" + _FILE.pack(ino, version) + label
            stored = self.work.get(extent_key)
            extent = _decoded(ExtentRecord, stored) if stored is not None else None
            where = f"inode {ino} version {version} on volume {label.decode(errors='replace')}"
            if stored is None:
                expected = f"an extent at {offset}"
                yield self._finding(Kind.EXTENT, where, "none", expected, "")
            elif extent is not None and extent.offset != offset:
                self.work.delete(key)
                found, expected = f"contents at {offset}", f"at {extent.offset}, the extent's"
                yield self._finding(Kind.CONTENTS, where, found, expected, "removed")


def _extents_of(ino: int) -> tuple[bytes, bytes]:
    return b"E" + _FILE.pack(ino, 0), b"E" + _FILE.pack(ino + 1, 0)


def _contents_key(label: str, offset: int, ino: int) -> bytes:
    return b"Y" + label.encode() + b"\0" + _PLACE.pack(offset, ino)


def _label(key: bytes) -> str | None:
    if len(key) < _EXTENT_KEY_BYTES_MIN:
        return None
    try:
        return key[13:].decode()
    except UnicodeDecodeError:
        return None


def _number_of(label: str) -> int:
    number = label.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def _decoded(kind: type[Any], value: bytes) -> Any:
    try:
        return (
            _decode_extent(value)
            if kind is ExtentRecord
            else msgspec.msgpack.decode(value, type=kind)
        )
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
