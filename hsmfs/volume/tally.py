"""The exact size of a volume while entries are added to it.

Packer and planner count by this one class, so that what the one says fits is
what the other lays out. Paths are kept as hashes and directories as numbers:
some 20 bytes an entry.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

from hsmfs.errors import CallerError
from hsmfs.volume.geometry import DIRECTORY_BYTES_MAX, FILE_BYTES_MAX, Geometry, sectors_of
from hsmfs.volume.manifest import FRAME_BYTES, MANIFEST_NAME, header_line, line_bytes
from hsmfs.volume.names import disc_name, encode_cs0
from hsmfs.volume.pathtable import VALUE_MAX, PathTable
from hsmfs.volume.readme import README_NAME, readme
from hsmfs.volume.source import OWN_DIRECTORY, PARTS, UDF_REVISIONS, FileSource, VolumeHeader

FID_BYTES: Final = 38
"""A file identifier descriptor without its name."""
PARENT_FID_BYTES: Final = 40
FILE_SET_BLOCKS: Final = 2
ROOT: Final = 0
"""Number of the directory at the top."""
OWN: Final = 1
"""Number of ``.hsm``."""
OWN_KEY: Final = OWN_DIRECTORY + b"/"
_KIND_BITS: Final = 3
_KINDS: Final = ("implied", "dir", "file", "link", "symlink", "own")
"""What a path is; its place here is the low bits of its value in the table."""
_CODES: Final = {kind: code for code, kind in enumerate(_KINDS)}
_IMPLIED, _DIR, _FILE, _LINK = (_CODES[kind] for kind in ("implied", "dir", "file", "link"))
_ENTRY_KINDS: Final = frozenset({"file", "dir", "symlink", "own"})
ENTRIES_MAX: Final = VALUE_MAX >> _KIND_BITS
_NO_NAMES: Final = frozenset({b"", b".", b".."})


def fid_bytes(name: str) -> int:
    """Size of a directory's record of a name, padded to 4."""
    return (FID_BYTES + len(encode_cs0(name)) + 3) & ~3


def checked_parts(path: bytes) -> list[bytes]:
    """The components; CallerError where it is no plain relative path."""
    parts = path.split(b"/") if path else []
    if any(part in _NO_NAMES or b"\0" in part for part in parts):
        raise CallerError(f"path {path!r}: expected a relative path of plain components")
    return parts


class Tally:
    """Running totals; every addition can be taken back."""

    def __init__(self, header: VolumeHeader) -> None:
        if header.udf not in UDF_REVISIONS:
            raise CallerError(
                f"volume {header.label}: found UDF {header.udf!r}, "
                f"expected one of {', '.join(UDF_REVISIONS)}"
            )
        self._takes_parts = PARTS in header.features
        self.metadata_partition = header.udf == "2.50"
        self.entries = 0
        self.files = 2
        self.directories = 0
        self.content_bytes = array("Q")
        """Of each directory by its number."""
        self._table = PathTable()
        self._undo: list[tuple[Callable[..., object], Any]] | None = None
        self._metadata_blocks = FILE_SET_BLOCKS + 2
        self._data_sectors = sectors_of(len(readme(header)))
        self._manifest_bytes = len(header_line(header, 0)) + FRAME_BYTES
        self._parent_key: bytes | None = None
        self._parent_number = ROOT
        self._open_directory(b"", ROOT)
        self._open_directory(OWN_KEY, ROOT)
        self._grow(ROOT, fid_bytes(OWN_DIRECTORY.decode()))
        for name in (README_NAME, MANIFEST_NAME):
            self._grow(OWN, fid_bytes(name))
            self._table.put(OWN_KEY + b"/" + name.encode(), _CODES["own"])

    @property
    def manifest_bytes(self) -> int:
        return self._manifest_bytes

    def geometry(self) -> Geometry:
        """Where everything lies with the entries so far."""
        return Geometry(
            metadata_used_blocks=self._metadata_blocks,
            data_sectors=self._data_sectors + sectors_of(self._manifest_bytes),
            metadata_partition=self.metadata_partition,
        )

    def add_all(self, entries: Sequence[FileSource], capacity_sectors: int) -> bool:
        """All of them, or (False or CallerError) nothing is changed."""
        before = self._totals()
        self._undo = []
        fits = False
        try:
            for entry in entries:
                self.add(entry)
            fits = self.geometry().fits(capacity_sectors)
        finally:
            undo, self._undo = self._undo, None
            if not fits:
                self._parent_key = None
                while undo:
                    step, argument = undo.pop()
                    step(*argument)
                self._restore(*before)
        return fits

    def _totals(self) -> tuple[int, ...]:
        return (
            self.entries,
            self.files,
            self.directories,
            self._metadata_blocks,
            self._data_sectors,
            self._manifest_bytes,
        )

    def _restore(self, *totals: int) -> None:
        (
            self.entries,
            self.files,
            self.directories,
            self._metadata_blocks,
            self._data_sectors,
            self._manifest_bytes,
        ) = totals

    def add(self, entry: FileSource) -> None:
        """Count one entry; CallerError where it cannot be on a volume."""
        key = entry.key
        known = self._table.get(key)
        self._check(entry, known)
        if key:
            parent_key, _, name = key.rpartition(b"/")
            if name in _NO_NAMES or b"\0" in name:
                checked_parts(entry.path)
                raise CallerError(f"path {entry.path!r}: expected a name")
            parent = self._parent(entry, parent_key)
            if entry.kind == "dir":
                self._add_directory(key, name, parent, known)
            else:
                self._add_leaf(entry, key, name, parent)
        elif entry.kind == "dir":
            self._add_directory(key, b"", ROOT, known)
        else:
            raise CallerError("entry b'': expected a directory at the top")
        self.entries += 1
        self._manifest_bytes += line_bytes(entry)

    def _check(self, entry: FileSource, known: int | None) -> None:
        if entry.kind not in _ENTRY_KINDS or entry.size < 0:
            raise CallerError(f"entry {entry.path!r}: found {entry.kind!r} of {entry.size} bytes")
        if entry.size > FILE_BYTES_MAX or self.entries >= ENTRIES_MAX:
            raise CallerError(
                f"entry {entry.path!r}: {entry.size} bytes, expected at most {FILE_BYTES_MAX}, "
                f"and at most {ENTRIES_MAX} entries"
            )
        if entry.part is not None and not self._takes_parts:
            raise CallerError(f"entry {entry.path!r}: a part, on a volume without that feature")
        if known is not None:
            kind = _kind(known)
            if (kind, entry.kind) != (_IMPLIED, "dir"):
                raise CallerError(
                    f"entry {entry.path!r}: is on the volume already ({_KINDS[kind]})"
                )
        if entry.link_of is not None and (
            entry.kind != "file" or self._file_number(entry.link_key or b"") is None
        ):
            raise CallerError(
                f"entry {entry.path!r}: link to {entry.link_of!r}, expected an earlier file"
            )

    def _file_number(self, path: bytes) -> int | None:
        """Which entry has that path, where it is a file."""
        value = self._table.get(path)
        return value >> _KIND_BITS if value is not None and _kind(value) == _FILE else None

    def _parent(self, entry: FileSource, key: bytes) -> int:
        """The directory above, which is made with defaults where it has no entry."""
        if key == self._parent_key:
            return self._parent_number
        checked_parts(entry.path)
        missing = []
        above = key
        while (value := self._table.get(above)) is None:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        if _kind(value) not in (_IMPLIED, _DIR):
            raise CallerError(f"entry {entry.path!r}: {above!r} is a {_KINDS[_kind(value)]}")
        number = value >> _KIND_BITS
        for path in reversed(missing):
            number = self._new_directory(path, path.rpartition(b"/")[2], number)
        self._parent_key, self._parent_number = key, number
        return number

    def _add_directory(self, key: bytes, name: bytes, parent: int, known: int | None) -> None:
        number = (
            known >> _KIND_BITS if known is not None else self._new_directory(key, name, parent)
        )
        self._set(key, number << _KIND_BITS | _DIR)
        self._has_entry(number)

    def _has_entry(self, number: int) -> None:
        """The entry that is added is this directory's."""

    def _add_leaf(self, entry: FileSource, key: bytes, name: bytes, parent: int) -> None:
        code = _LINK if entry.link_of is not None else _CODES[entry.kind]
        self._set(key, self.entries << _KIND_BITS | code)
        if entry.kind == "symlink":
            return
        self._grow(parent, fid_bytes(disc_name(name, at_root=parent == ROOT)))
        self._named(entry, parent)
        if entry.has_data:
            self.files += 1
            self._metadata_blocks += 1
            self._data_sectors += sectors_of(entry.size)

    def _named(self, entry: FileSource, parent: int) -> None:
        """The entry that is added has a name in that directory; before it is counted."""

    def _set(self, key: bytes, value: int) -> None:
        if self._undo is not None:
            self._undo.append((self._table.restore, (key, self._table.get(key))))
        self._table.put(key, value)

    def _new_directory(self, key: bytes, name: bytes, parent: int) -> int:
        self._grow(parent, fid_bytes(disc_name(name, at_root=parent == ROOT)))
        return self._open_directory(key, parent)

    def _open_directory(self, key: bytes, parent: int) -> int:
        number = len(self.content_bytes)
        self._set(key, number << _KIND_BITS | _IMPLIED)
        self.content_bytes.append(PARENT_FID_BYTES)
        self._metadata_blocks += 2
        self.directories += 1
        if self._undo is not None:
            self._undo.append((self.content_bytes.pop, ()))
        return number

    def _grow(self, directory: int, size: int) -> None:
        before = self.content_bytes[directory]
        if before + size > DIRECTORY_BYTES_MAX:
            raise CallerError(
                f"a directory of more than {DIRECTORY_BYTES_MAX} bytes of names; put the files "
                "into several directories"
            )
        self.content_bytes[directory] = before + size
        self._metadata_blocks += sectors_of(before + size) - sectors_of(before)
        if self._undo is not None:
            self._undo.append((self.content_bytes.__setitem__, (directory, before)))


def _kind(value: int) -> int:
    return value & (1 << _KIND_BITS) - 1
