"""A volume while it is filled: what fits goes to a file at once, and not into memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Final

from hsmfs.daemon.packing import parent_paths
from hsmfs.volume.entries import EntriesWriter, StoredEntries
from hsmfs.volume.layout import FileSource, VolumeHeader
from hsmfs.volume.packer import Packer
from hsmfs.volume.pathtable import PathTable

_HEAD: Final = b"draft"


class Draft:
    """Entries of a volume to be, in the order in which they are added. Its methods block."""

    def __init__(
        self, path: Path, header: VolumeHeader, capacity: int, own: Sequence[FileSource]
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._packer = Packer(header, capacity)
        self._file = path.open("wb")
        self._writer = EntriesWriter(self._file, _HEAD)
        self._directories = PathTable()
        """Those that were added."""
        for entry in own:
            if self._packer.add(entry):
                self._writer.add(entry)
        self.files = 0
        """Besides the volume's own."""
        self.has_part = False

    def add(self, parents: Sequence[FileSource], entries: Sequence[FileSource]) -> set[int]:
        """What fits, in order, with the parents it needs; inodes left over."""
        known = {entry.path: entry for entry in parents}
        left: set[int] = set()
        for _, group in groupby(entries, key=lambda entry: entry.ino):
            # All names of a file go together: on a disc, links are to its own files.
            names = list(group)
            paths = dict.fromkeys(path for name in names for path in parent_paths(name.path))
            needed = [known[p] for p in paths if p in known and self._directories.get(p) is None]
            if not self._packer.add_all([*needed, *names]):
                left.add(names[0].ino)
                continue
            for parent in needed:
                self._directories.put(parent.path, 0)
            for entry in (*needed, *names):
                self._writer.add(entry)
            self.files += 1
            self.has_part = self.has_part or names[0].part is not None
        return left

    def entries(self) -> StoredEntries:
        """All of them; nothing more is added."""
        if not self._file.closed:
            self._writer.end()
            self._file.close()
        return StoredEntries(self._path)

    def drop(self) -> None:
        """The file goes; entries that were asked for can still be read."""
        with suppress(OSError):  # what it still had to write is of no use
            self._file.close()
        self._path.unlink(missing_ok=True)
