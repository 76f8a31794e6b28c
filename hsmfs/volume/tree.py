"""Directories, names and file entries of a planned volume, as packed numbers.

An entry is known by its number in the plan, a directory by the number that the tally
gave it. Nothing here holds a path or an entry: these are read from the plan again
when they are needed, so that a million files take some 30 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

import numpy as np

from hsmfs.errors import CallerError
from hsmfs.volume.geometry import sectors_of
from hsmfs.volume.names import disc_name
from hsmfs.volume.source import OWN_DIRECTORY, FileSource, VolumeHeader
from hsmfs.volume.tally import FILE_SET_BLOCKS, OWN, ROOT, Tally

FIRST_UNIQUE_ID: Final = 16
"""Lower ones are reserved; the root has 0 (UDF 2.50 section 3.2.1)."""
IS_DIRECTORY: Final = 1 << 31
"""Marks a directory's number among what names refer to; others are entries' numbers."""
README: Final = IS_DIRECTORY - 2
MANIFEST: Final = IS_DIRECTORY - 1
"""Two files that have no entry in the plan."""
NO_ENTRY: Final = -1
SECTORS_MAX: Final = 0xFFFFFFFF


class Tree:
    """What the planner found; lists by number of directory, entry, or name."""

    def __init__(self) -> None:
        # Of directories. ``via`` is an entry at or below it, whose path has its name.
        self.parent = array("I")
        self.entry = array("q")
        self.via = array("q")
        self.depth = array("I")
        self.directory_id = array("I")
        self.directory_links = array("I")
        self.directory_block = array("I")
        # Of entries; for a link, ``node`` is the file that it is a name of.
        self.unique_id = array("I")
        self.node = array("I")
        self.links = array("I")
        self.block = array("I")
        self.sector = array("I")
        # Of names, in the order in which they came.
        self.name_in = array("I")
        self.name_of = array("I")
        self._starts: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None
        self._order: np.ndarray[tuple[int], np.dtype[np.uint32]] | None = None

    def close(self) -> None:
        """No names come any more: bring them together by directory."""
        places = np.frombuffer(self.name_in, np.uint32)
        refs = np.frombuffer(self.name_of, np.uint32)
        counts = np.bincount(places, minlength=len(self.parent))
        self._starts = np.concatenate(([0], np.cumsum(counts)))
        self._order = refs[np.argsort(places, kind="stable")]
        self.name_in, self.name_of = array("I"), array("I")

    def names(self, directory: int) -> array[int]:
        """What a directory's names refer to, in their order."""
        assert self._starts is not None and self._order is not None
        part = self._order[self._starts[directory] : self._starts[directory + 1]]
        return array("I", part.tobytes())

    def directories(self) -> Iterator[int]:
        """Depth first from the root, the order of the metadata."""
        stack = [ROOT]
        while stack:
            directory = stack.pop()
            yield directory
            below = [ref & ~IS_DIRECTORY for ref in self.names(directory) if ref & IS_DIRECTORY]
            stack += reversed(below)

    def is_first(self, ref: int) -> bool:
        """A file's first name, not a directory and not a link."""
        return ref < IS_DIRECTORY and (ref >= README or self.node[ref] == ref)

    def place(self, content_bytes: array[int], first_block: int) -> int:
        """Give each file entry its block of the metadata; returns the blocks used."""
        block = first_block + FILE_SET_BLOCKS
        self.directory_block = array("I", bytes(4 * len(self.parent)))
        for directory in self.directories():
            self.directory_block[directory] = block
            block += 1 + sectors_of(content_bytes[directory])
            for ref in self.names(directory):
                if ref >= README:
                    block += ref < IS_DIRECTORY
                elif self.node[ref] == ref:
                    self.block[ref] = block
                    block += 1
        return block - first_block

    def own_block(self, ref: int, content_bytes: array[int]) -> int:
        """Block of README or manifest: names of ``.hsm`` like others."""
        block = self.directory_block[OWN] + 1 + sectors_of(content_bytes[OWN])
        for other in self.names(OWN):
            if other == ref:
                break
            block += self.is_first(other)
        return block


class Planner(Tally):
    """A tally that keeps what is counted as a tree; additions are for good."""

    def __init__(self, header: VolumeHeader) -> None:
        self.tree = Tree()
        self.next_unique_id = FIRST_UNIQUE_ID
        self._adding: FileSource | None = None
        super().__init__(header)
        self.readme_id = self._own_name(README)

    def _take_id(self) -> int:
        self.next_unique_id += 1
        return self.next_unique_id - 1

    def _own_name(self, ref: int) -> int:
        self._name(OWN, ref)
        return self._take_id()

    def close(self) -> int:
        """All entries came; returns the manifest's unique id."""
        unique_id = self._own_name(MANIFEST)
        self.tree.close()
        return unique_id

    def _name(self, directory: int, ref: int) -> None:
        self.tree.name_in.append(directory)
        self.tree.name_of.append(ref)

    def add(self, entry: FileSource) -> None:
        """Count and keep one entry; CallerError where it cannot be on a volume."""
        self._adding = entry
        tree, before = self.tree, len(self.tree.node)
        super().add(entry)
        if len(tree.node) == before:
            self._append(0, self.entries - 1, 0)

    def _append(self, unique_id: int, node: int, sector: int) -> None:
        tree = self.tree
        tree.unique_id.append(unique_id)
        tree.node.append(node)
        tree.links.append(1)
        tree.block.append(0)
        tree.sector.append(sector)

    def _named(self, entry: FileSource, parent: int) -> None:
        node = self.entries
        self._name(parent, node)
        if self._data_sectors > SECTORS_MAX:
            raise CallerError(f"entry {entry.path!r}: more than {SECTORS_MAX} sectors of data")
        if entry.link_key is not None:
            found = self._file_number(entry.link_key)
            assert found is not None
            node = found
            self.tree.links[node] += 1
        self._append(self._take_id(), node, self._data_sectors)

    def _has_entry(self, number: int) -> None:
        self.tree.entry[number] = self.entries

    def _open_directory(self, key: bytes, parent: int) -> int:
        tree = self.tree
        number = super()._open_directory(key, parent)
        tree.parent.append(parent)
        tree.entry.append(NO_ENTRY)
        tree.via.append(self.entries)
        tree.depth.append(key.count(b"/"))
        tree.directory_links.append(1)
        tree.directory_id.append(0 if number == ROOT else self._take_id())
        if number != ROOT:
            tree.directory_links[parent] += 1
            self._name(parent, number | IS_DIRECTORY)
        return number


def directory_name(depth: int, via: FileSource, *, at_root: bool) -> str:
    """A directory's name on the disc, from the path of an entry at or below it."""
    return disc_name(via.key.split(b"/")[depth], at_root=at_root)


OWN_NAME: Final = OWN_DIRECTORY.decode()
