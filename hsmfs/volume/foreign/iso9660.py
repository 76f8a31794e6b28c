"""ISO 9660 (ECMA-119) with Rock Ridge or Joliet.

Numbers are in both byte orders; the little-endian one is used, as other
systems do. Of the trees that a disc may have, the one that says most is read:
Rock Ridge, else Joliet, else the enhanced descriptor, else the primary one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import xxhash

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.foreign.dates import long_date_ns, short_date_ns
from hsmfs.volume.foreign.entry import (
    DEPTH_MAX,
    DIRECTORY_MODE,
    FILE_MODE,
    Facts,
    ForeignEntry,
    Found,
    Names,
    Problem,
    Run,
    cut_to,
    namer,
    plain,
)
from hsmfs.volume.foreign.rockridge import SystemUse, parse_system_use, skip_of
from hsmfs.volume.foreign.sectors import Sectors

FIRST_DESCRIPTOR: Final = 16
DESCRIPTORS_MAX: Final = 64
_PRIMARY, _SUPPLEMENTARY, _TERMINATOR = 1, 2, 255
_JOLIET_ESCAPES: Final = (b"%/@", b"%/C", b"%/E")
_DIRECTORY, _ASSOCIATED, _MULTI_EXTENT = 2, 4, 0x80
_RECORD: Final = struct.Struct("<BBI4xI4x7sBBBH2xB")
RECORD_BYTES: Final = 33
BLOCK_BYTES: Final = (512, 1024, 2048)
PARTS_MAX: Final = 4096
"""Extents of one file: of 4 GiB each."""


@dataclass(frozen=True, slots=True)
class _Record:
    """One directory record (ECMA-119 9.1)."""

    where: str
    block: int
    size: int
    date: bytes
    flags: int
    interleaved: bool
    attribute_blocks: int
    name: bytes
    use: bytes
    """System use field."""

    @property
    def is_directory(self) -> bool:
        return bool(self.flags & _DIRECTORY)


@dataclass(frozen=True, slots=True)
class _Folder:
    """A directory that waits to be read."""

    path: bytes
    block: int
    size: int
    depth: int


class Iso9660:
    """One volume; raises MediumError where the disc has none."""

    def __init__(self, sectors: Sectors, session_sector: int = 0) -> None:
        self._sectors = sectors
        self._first = session_sector
        primary, joliet, enhanced = self._descriptors()
        self._block_bytes = int.from_bytes(primary[128:130], "little")
        if self._block_bytes not in BLOCK_BYTES:
            raise MediumError(
                f"sector {self._first + FIRST_DESCRIPTOR}: primary volume descriptor: blocks of "
                f"{self._block_bytes} bytes, expected one of {BLOCK_BYTES}"
            )
        self._skip = self._rock_ridge_skip(primary)
        self.has_rock_ridge = self._skip is not None
        self._joliet = self._skip is None and joliet is not None
        self._enhanced = self._skip is None and joliet is None and enhanced is not None
        tree = joliet if self._joliet else enhanced if self._enhanced else primary
        assert tree is not None
        self._root = _record(tree[156:190], "root directory record")
        self.format = "ISO 9660" + self._extension()
        self.label = _label(joliet, primary)
        self.created_ns = long_date_ns(primary[813:830])
        self.fingerprint = self._fingerprint(primary, tree)
        self._seen: set[int] = set()

    def _extension(self) -> str:
        if self._skip is not None:
            return " with Rock Ridge"
        return " with Joliet" if self._joliet else ", enhanced" if self._enhanced else ""

    def _descriptors(self) -> tuple[bytes, bytes | None, bytes | None]:
        """Primary, Joliet and enhanced descriptor (ECMA-119 8.1)."""
        primary = joliet = enhanced = None
        first = self._first + FIRST_DESCRIPTOR
        for number in range(first, first + DESCRIPTORS_MAX):
            if number >= self._sectors.total:
                break
            data = self._sectors.sector(number, f"sector {number}: volume descriptor")
            if data[1:6] != b"CD001" or data[0] == _TERMINATOR:
                break
            if data[0] == _PRIMARY and primary is None:
                primary = data
            elif data[0] == _SUPPLEMENTARY and data[6] == 2:
                enhanced = enhanced or data
            elif data[0] == _SUPPLEMENTARY and data[88:91] in _JOLIET_ESCAPES:
                joliet = joliet or data
        if primary is None:
            raise MediumError(f"sector {first}: no primary volume descriptor of ISO 9660")
        return primary, joliet, enhanced

    def _rock_ridge_skip(self, primary: bytes) -> int | None:
        """Bytes to skip in system use fields; None without Rock Ridge."""
        root = _record(primary[156:190], "root directory record")
        data = self._sectors.at(root.block * self._block_bytes, SECTOR_BYTES, "root directory")
        try:
            dot = _record(data[: data[0]], "root directory: its own record")
        except MediumError:
            return None
        skip = skip_of(dot.use)
        if skip is None:
            return None
        use = parse_system_use(dot.use, 0, self._area, "root directory: its own record")
        return skip if use.is_rock_ridge else None

    def _area(self, block: int, offset: int, size: int, where: str) -> bytes:
        """A continuation area."""
        self._sectors.spend_link(where)
        return self._sectors.at(block * self._block_bytes + offset, size, where)

    def _fingerprint(self, primary: bytes, tree: bytes) -> str:
        where = f"block {self._root.block}: root directory"
        size = min(self._root.size, SECTOR_BYTES)
        root = self._sectors.at(self._root.block * self._block_bytes, size, where)
        return str(xxhash.xxh3_128_hexdigest(primary + tree + root))

    # -- the tree ----------------------------------------------------------------------

    def walk(self) -> Iterator[Found]:
        """All names, depth first."""
        self._seen = {self._root.block}
        stack = [_Folder(b"", self._root.block, self._root.size, 0)]
        while stack:
            folder = stack.pop()
            below: list[_Folder] = []
            try:
                yield from self._folder(folder, below)
            except MediumError as error:
                if not folder.path:
                    raise
                yield Problem(folder.path, str(error))
            stack += reversed(below)

    def _folder(self, folder: _Folder, below: list[_Folder]) -> Iterator[Found]:
        name_of = namer()
        parts: list[_Record] = []
        for record in self._records(folder):
            if parts and record.name != parts[0].name:
                yield Problem(
                    _join(folder.path, plain(parts[0].name)),
                    f"{parts[0].where}: file of several extents without its last",
                )
                parts = []
            parts.append(record)
            if record.flags & _MULTI_EXTENT and not record.is_directory:
                if len(parts) > PARTS_MAX:
                    raise MediumError(f"{record.where}: file of more than {PARTS_MAX} extents")
                continue
            whole, parts = parts, []
            found = self._entry(folder, whole, name_of, below)
            if found is not None:
                yield found

    def _records(self, folder: _Folder) -> Iterator[_Record]:
        """Those of a directory but its own and its parent's; records end at sectors."""
        where = f"block {folder.block}: directory"
        self._sectors.spend_directory(folder.size, where)
        start = folder.block * self._block_bytes
        self._sectors.check(((start, folder.size),), where)
        for at in range(0, folder.size, SECTOR_BYTES):
            data = self._sectors.at(start + at, min(SECTOR_BYTES, folder.size - at), where)
            position = 0
            while position < len(data) and data[position]:
                here = f"{where} + {at + position}: record"
                record = _record(data[position : position + data[position]], here)
                position += data[position]
                if record.name not in (b"\0", b"\1") and not record.flags & _ASSOCIATED:
                    yield record

    def _entry(
        self, folder: _Folder, parts: list[_Record], name_of: Names, below: list[_Folder]
    ) -> Found | None:
        record = parts[0]
        name: str | bytes = self._plain_name(record)
        try:
            use = self._system_use(record)
            if use is not None and use.is_relocated:
                return None
            if use is not None and use.name:
                name = use.name
            path = _join(folder.path, name_of(name))
            if use is not None and use.child_block is not None:
                return self._relocated(folder, path, use.child_block, below)
            if record.is_directory:
                if use is not None and not folder.path and self._holds_relocated(record, path):
                    return None
                return self._directory(folder, path, record.block, record.size, below, record, use)
            return self._file(path, parts, use)
        except MediumError as error:
            return Problem(_join(folder.path, plain(name)), str(error))

    def _plain_name(self, record: _Record) -> str | bytes:
        """As other systems show it: without version, lower case where there is only upper."""
        if self._joliet:
            text = record.name.decode("utf-16-be", "replace").replace("\ufffd", "_")
            return text.rpartition(";")[0] if text.endswith(";1") else text
        name = record.name
        if self._enhanced:
            return name
        stem, semicolon, version = name.rpartition(b";")
        if semicolon and version.isdigit():
            name = stem
        return (name[:-1] if name.endswith(b".") and len(name) > 1 else name).lower()

    def _system_use(self, record: _Record) -> SystemUse | None:
        if self._skip is None:
            return None
        return parse_system_use(record.use, self._skip, self._area, record.where)

    def _relocated(
        self, folder: _Folder, path: bytes, block: int, below: list[_Folder]
    ) -> ForeignEntry:
        """A directory that lies elsewhere since ISO 9660 has only eight levels."""
        where = f"block {block}: relocated directory"
        data = self._sectors.at(block * self._block_bytes, SECTOR_BYTES, where)
        dot = _record(data[: data[0]], where)
        return self._directory(folder, path, dot.block, dot.size, below, dot, self._system_use(dot))

    def _holds_relocated(self, record: _Record, path: bytes) -> bool:
        """Whether it is the place of relocated directories, and of nothing else."""
        if path.lower().strip(b".") != b"rr_moved":
            return False
        inside = list(self._records(_Folder(path, record.block, record.size, 0)))
        uses = [self._system_use(one) for one in inside]
        return all(use is not None and use.is_relocated for use in uses)

    def _directory(
        self,
        folder: _Folder,
        path: bytes,
        block: int,
        size: int,
        below: list[_Folder],
        record: _Record,
        use: SystemUse | None,
    ) -> ForeignEntry:
        if block in self._seen:
            raise MediumError(f"{record.where}: directory at block {block} is there twice: a loop")
        if folder.depth >= DEPTH_MAX:
            raise MediumError(f"{record.where}: more than {DEPTH_MAX} directories in one another")
        self._seen.add(block)
        below.append(_Folder(path, block, size, folder.depth + 1))
        return ForeignEntry(path, "dir", _facts(record, use, DIRECTORY_MODE))

    def _file(self, path: bytes, parts: list[_Record], use: SystemUse | None) -> Found:
        record = parts[0]
        facts = _facts(record, use, FILE_MODE)
        if use is not None and use.target is not None:
            return ForeignEntry(path, "symlink", facts, target=use.target)
        if use is not None and use.obstacle:
            return Problem(path, f"{record.where}: {use.obstacle}")
        if any(part.interleaved for part in parts):
            return Problem(path, f"{record.where}: interleaved file; only plain ones are read")
        size = sum(part.size for part in parts)
        runs: list[Run] = [
            ((part.block + part.attribute_blocks) * self._block_bytes, part.size) for part in parts
        ]
        found = self._sectors.check(cut_to(runs, size, record.where), record.where)
        return ForeignEntry(path, "file", facts, size, found)


def _record(data: bytes, where: str) -> _Record:
    if len(data) < RECORD_BYTES + 1 or data[0] != len(data):
        raise MediumError(f"{where}: found {len(data)} bytes, expected a directory record")
    _, attribute, block, size, date, flags, unit, gap, _, name_bytes = _RECORD.unpack_from(data)
    stop = RECORD_BYTES + name_bytes
    if not name_bytes or stop > len(data):
        raise MediumError(f"{where}: name of {name_bytes} bytes in a record of {len(data)}")
    use = data[stop + (1 - name_bytes % 2) :]
    name = data[RECORD_BYTES:stop]
    return _Record(where, block, size, date, flags, bool(unit or gap), attribute, name, use)


def _facts(record: _Record, use: SystemUse | None, mode: int) -> Facts:
    date_ns = short_date_ns(record.date)
    if use is None:
        return Facts(mode, 0, 0, date_ns, date_ns, date_ns)
    mtime_ns = use.mtime_ns if use.mtime_ns is not None else date_ns
    return Facts(
        mode=use.mode & 0o7777 if use.mode is not None else mode,
        uid=use.uid,
        gid=use.gid,
        mtime_ns=mtime_ns,
        atime_ns=use.atime_ns if use.atime_ns is not None else mtime_ns,
        ctime_ns=use.ctime_ns if use.ctime_ns is not None else mtime_ns,
    )


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder else name


def _label(joliet: bytes | None, primary: bytes) -> str:
    """The volume identifier, the longer one."""
    if joliet is not None:
        text = joliet[40:72].decode("utf-16-be", "replace").strip(" \0")
        if text:
            return text
    return primary[40:72].decode("ascii", "replace").strip(" \0")
