"""The exact size of a volume while entries are added to it.

Packer and planner count by this one class, so that what the one says fits is
what the other lays out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hsmfs.errors import CallerError
from hsmfs.volume.geometry import FILE_BYTES_MAX, Geometry, sectors_of
from hsmfs.volume.manifest import FRAME_BYTES, MANIFEST_NAME, header_line, line_bytes
from hsmfs.volume.names import disc_name, encode_cs0
from hsmfs.volume.readme import README_NAME, readme
from hsmfs.volume.source import OWN_DIRECTORY, FileSource, VolumeHeader

FID_BYTES: Final = 38
"""A file identifier descriptor without its name."""
PARENT_FID_BYTES: Final = 40
FILE_SET_BLOCKS: Final = 2
_IMPLIED: Final = "implied"
_KINDS: Final = frozenset({"file", "dir", "symlink", "own"})


def fid_bytes(name: str) -> int:
    """Size of a directory's record of a name, padded to 4."""
    return (FID_BYTES + len(encode_cs0(name)) + 3) & ~3


def checked_parts(path: bytes) -> list[bytes]:
    """The components; CallerError where it is no plain relative path."""
    parts = path.split(b"/") if path else []
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        raise CallerError(f"path {path!r}: expected a relative path of plain components")
    return parts


class Tally:
    """Running totals; every addition can be taken back."""

    def __init__(self, header: VolumeHeader) -> None:
        self.entries = 0
        self.files = 2
        self.directories = 0
        self._kinds: dict[bytes, str] = {}
        self._content_bytes: dict[bytes, int] = {}
        self._undo: list[Callable[[], object]] = []
        self._metadata_blocks = FILE_SET_BLOCKS + 2
        self._data_sectors = sectors_of(len(readme(header)))
        self._manifest_bytes = len(header_line(header, 0)) + FRAME_BYTES
        self._new_directory(b"")
        self._new_directory(OWN_DIRECTORY + b"/")
        self._grow(b"", fid_bytes(OWN_DIRECTORY.decode()))
        for name in (README_NAME, MANIFEST_NAME):
            self._grow(OWN_DIRECTORY + b"/", fid_bytes(name))
            self._kinds[OWN_DIRECTORY + b"//" + name.encode()] = "own"
        self._undo.clear()

    @property
    def manifest_bytes(self) -> int:
        return self._manifest_bytes

    def geometry(self) -> Geometry:
        """Where everything lies with the entries so far."""
        return Geometry(
            metadata_used_blocks=self._metadata_blocks,
            data_sectors=self._data_sectors + sectors_of(self._manifest_bytes),
        )

    def add_all(self, entries: Sequence[FileSource], capacity_sectors: int) -> bool:
        """All of them, or (False or CallerError) nothing is changed."""
        before = (
            self.entries,
            self.files,
            self.directories,
            self._metadata_blocks,
            self._data_sectors,
            self._manifest_bytes,
        )
        fits = False
        try:
            for entry in entries:
                self.add(entry)
            fits = self.geometry().fits(capacity_sectors)
            fits = fits and all(entry.size <= FILE_BYTES_MAX for entry in entries)
        finally:
            if not fits:
                while self._undo:
                    self._undo.pop()()
                (
                    self.entries,
                    self.files,
                    self.directories,
                    self._metadata_blocks,
                    self._data_sectors,
                    self._manifest_bytes,
                ) = before
            self._undo.clear()
        return fits

    def add(self, entry: FileSource) -> None:
        """Count one entry; CallerError where it cannot be on a volume."""
        self._check(entry)
        parts = checked_parts(entry.path)
        self._parents(entry, len(parts))
        if entry.kind == "dir":
            self._add_directory(entry.path)
        else:
            self._add_leaf(entry)
        self.entries += 1
        self._manifest_bytes += line_bytes(entry)

    def _check(self, entry: FileSource) -> None:
        if entry.kind not in _KINDS or entry.size < 0:
            raise CallerError(f"entry {entry.path!r}: found {entry.kind!r} of {entry.size} bytes")
        known = self._kinds.get(entry.key)
        if known is not None and (known, entry.kind) != (_IMPLIED, "dir"):
            raise CallerError(f"entry {entry.path!r}: is on the volume already ({known})")
        if entry.link_of is not None and (
            entry.kind != "file" or self._kinds.get(entry.link_of) != "file"
        ):
            raise CallerError(
                f"entry {entry.path!r}: link to {entry.link_of!r}, expected an earlier file"
            )

    def _parents(self, entry: FileSource, depth: int) -> None:
        """Directories above it, with defaults where they have no entry."""
        missing = []
        parent = entry.key
        for _ in range(depth - 1):
            parent = parent.rpartition(b"/")[0]
            kind = self._kinds.get(parent)
            if kind in ("dir", _IMPLIED):
                break
            if kind is not None:
                raise CallerError(f"entry {entry.path!r}: {parent!r} is a {kind}")
            missing.append(parent)
        for path in reversed(missing):
            self._set_kind(path, _IMPLIED)
            self._new_name(path)
            self._new_directory(path)

    def _add_directory(self, path: bytes) -> None:
        if path and path not in self._kinds:
            self._new_name(path)
            self._new_directory(path)
        self._set_kind(path, "dir")

    def _add_leaf(self, entry: FileSource) -> None:
        if not entry.path:
            raise CallerError("entry b'': expected a directory at the top")
        self._set_kind(entry.key, "link" if entry.link_of is not None else entry.kind)
        if entry.kind == "symlink":
            return
        self._new_name(entry.key)
        if entry.has_data:
            self.files += 1
            self._metadata_blocks += 1
            self._data_sectors += sectors_of(entry.size)

    def _set_kind(self, path: bytes, kind: str) -> None:
        before = self._kinds.get(path)
        self._kinds[path] = kind
        if before is None:
            self._undo.append(lambda: self._kinds.pop(path))
        else:
            self._undo.append(lambda: self._kinds.__setitem__(path, before))

    def _new_name(self, path: bytes) -> None:
        parent, _, name = path.rpartition(b"/")
        self._grow(parent, fid_bytes(disc_name(name, at_root=not parent)))

    def _new_directory(self, path: bytes) -> None:
        self._content_bytes[path] = PARENT_FID_BYTES
        self._metadata_blocks += 2
        self.directories += 1
        self._undo.append(lambda: self._content_bytes.pop(path))

    def _grow(self, directory: bytes, size: int) -> None:
        before = self._content_bytes[directory]
        self._content_bytes[directory] = before + size
        self._metadata_blocks += sectors_of(before + size) - sectors_of(before)
        self._undo.append(lambda: self._content_bytes.__setitem__(directory, before))
