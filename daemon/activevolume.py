"""A volume on its way from a plan to enough verified discs."""

from __future__ import annotations

import os
import shutil
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import trio

from hsmfs.daemon.catalogrecords import DiscState, VolumeRecord
from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES, FileVersion
from hsmfs.volume.entries import MAGIC, StoredEntries, write_entries
from hsmfs.volume.layout import FileSource, Layout, VolumeHeader, plan_volume
from hsmfs.volume.source import PARTS

PLAN_VERSION: Final = 2
"""1 was one MessagePack object; 2 is read entry by entry (hsmfs.volume.entries)."""
_OWN_SUFFIX: Final = ".own"


class StoredPlan(msgspec.Struct, kw_only=True):
    """The plan file: all that is needed to write the same bytes again."""

    version: int = PLAN_VERSION
    header: VolumeHeader
    capacity_sectors: int
    entries: Sequence[FileSource]


class _PlanHead(msgspec.Struct, kw_only=True):
    """What a plan file of version 2 says before the entries."""

    version: int = PLAN_VERSION
    header: VolumeHeader
    capacity_sectors: int


class _PlanOfVersion1(msgspec.Struct, kw_only=True):
    """A whole plan file of version 1."""

    header: VolumeHeader
    capacity_sectors: int
    entries: list[FileSource]


@dataclass(slots=True)
class ActiveVolume:
    """Plan and progress; its claims stand until it is finished or given up."""

    record: VolumeRecord
    layout: Layout
    files: PlannedFiles
    since_s: float
    burning: int = 0
    claimed: bool = True
    hold: str = ""
    """Why it cannot be burned now, in words."""
    void: set[FileVersion] = field(default_factory=set)
    own: Path = Path()
    """Directory of the volume's own files."""

    def parts(self) -> set[FileVersion]:
        """Files of which it holds a part."""
        if PARTS not in self.layout.header.features:
            return set()
        entries = (e for e in self.layout.entries if e.part is not None and e.has_data)
        return {FileVersion(entry.ino, entry.data_version) for entry in entries}

    @property
    def bytes(self) -> int:
        return self.layout.total_sectors * SECTOR_BYTES


class PlannedFiles(Mapping[FileVersion, FileSource]):
    """The regular files among a plan's entries, each once, in their order.

    Inode, version and number are packed: 20 bytes a file, and the entry is read again
    when it is asked for.
    """

    def __init__(self, entries: Sequence[FileSource]) -> None:
        inodes, versions, numbers = array("Q"), array("Q"), array("I")
        self.bytes = 0
        """Of all files."""
        for number, entry in enumerate(entries):
            if entry.kind == "file" and entry.link_of is None:
                inodes.append(entry.ino)
                versions.append(entry.data_version)
                numbers.append(number)
                self.bytes += entry.size
        self._entries = entries
        self._inodes = np.frombuffer(inodes, np.uint64)
        self._versions = np.frombuffer(versions, np.uint64)
        self._numbers = np.frombuffer(numbers, np.uint32)
        self._by_inode = np.argsort(self._inodes, kind="stable").astype(np.uint32)

    def __len__(self) -> int:
        return len(self._inodes)

    def __iter__(self) -> Iterator[FileVersion]:
        for ino, version in zip(self._inodes, self._versions, strict=True):
            yield FileVersion(int(ino), int(version))

    def __getitem__(self, file: FileVersion) -> FileSource:
        place = self._place(file)
        if place is None:
            raise KeyError(file)
        return self._entries[int(self._numbers[place])]

    def __contains__(self, file: object) -> bool:
        return isinstance(file, FileVersion) and self._place(file) is not None

    def _place(self, file: FileVersion) -> int | None:
        ino = np.uint64(file.ino)
        at = int(np.searchsorted(self._inodes, ino, sorter=self._by_inode))
        while at < len(self._inodes):
            place = int(self._by_inode[at])
            if self._inodes[place] != ino:
                return None
            if self._versions[place] == file.data_version:
                return place
            at += 1
        return None


class PlanStore:
    """Plan files, one per unfinished volume, in a directory of the catalog."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, label: str) -> Path:
        return self._root / f"{label}.plan"

    def draft(self, label: str) -> Path:
        """File for the entries of a volume while it is filled."""
        return self._root / f"{label}.draft"

    def own(self, label: str) -> Path:
        """Directory of the bytes of the volume's own files (``kind="own"``)."""
        return self._root / f"{label}{_OWN_SUFFIX}"

    async def save(self, label: str, plan: StoredPlan) -> None:
        """Durable when it returns, with the own files that were put there."""
        await trio.to_thread.run_sync(self._save, label, plan)

    def _save(self, label: str, plan: StoredPlan) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        for entry in plan.entries:
            if entry.kind == "own":
                _sync(self.own(label) / os.fsdecode(entry.path), self._root)
        path = self._path(label)
        temporary = path.with_suffix(".new")
        head = _PlanHead(header=plan.header, capacity_sectors=plan.capacity_sectors)
        with temporary.open("wb") as file:
            write_entries(file, msgspec.msgpack.encode(head), plan.entries)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _fsync(self._root)

    def load(self, label: str) -> StoredPlan | None:
        """None where there is no plan file; its entries stay on disk.

        CallerError where it is damaged, then or when the entries are read.
        """
        path = self._path(label)
        try:
            return self._loaded(path)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise CallerError(f"{path}: is damaged: {error}") from error

    def _loaded(self, path: Path) -> StoredPlan:
        with path.open("rb") as file:
            is_first = file.read(len(MAGIC)) != MAGIC
        if is_first:
            old = msgspec.msgpack.decode(path.read_bytes(), type=_PlanOfVersion1)
            return StoredPlan(
                header=old.header, capacity_sectors=old.capacity_sectors, entries=old.entries
            )
        entries = StoredEntries(path)
        head = msgspec.msgpack.decode(entries.head, type=_PlanHead)
        return StoredPlan(
            header=head.header, capacity_sectors=head.capacity_sectors, entries=entries
        )

    def drop(self, label: str) -> None:
        self._path(label).unlink(missing_ok=True)
        self.draft(label).unlink(missing_ok=True)
        shutil.rmtree(self.own(label), ignore_errors=True)

    def drop_others(self, labels: set[str]) -> None:
        """Remove plans of volumes that are finished."""
        if self._root.is_dir():
            for path in self._root.iterdir():
                if path.stem in labels and path.suffix in (".plan", _OWN_SUFFIX):
                    continue
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _sync(path: Path, root: Path) -> None:
    """A file and the directories above it, up to ``root``."""
    while path != root:
        _fsync(path)
        path = path.parent


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def activate(record: VolumeRecord, plan: StoredPlan, since_s: float, own: Path) -> ActiveVolume:
    """The same layout again, from the same plan; ``own`` is ``PlanStore.own``."""
    layout = plan_volume(plan.header, plan.entries, plan.capacity_sectors)
    return ActiveVolume(record, layout, PlannedFiles(plan.entries), since_s, own=own)


COUNTED: Final = frozenset({DiscState.BURNED, DiscState.VERIFIED})
"""Disc states that need no further burn of the volume."""
