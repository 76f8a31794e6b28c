"""A volume on its way from a plan to enough verified discs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import trio

from hsmfs.daemon.catalogrecords import DiscState, VolumeRecord
from hsmfs.types import SECTOR_BYTES, FileVersion
from hsmfs.volume.layout import FileSource, Layout, VolumeHeader, plan_volume

PLAN_VERSION: Final = 1
_OWN_SUFFIX: Final = ".own"


class StoredPlan(msgspec.Struct, kw_only=True):
    """The plan file: all that is needed to write the same bytes again."""

    version: int = PLAN_VERSION
    header: VolumeHeader
    capacity_sectors: int
    entries: list[FileSource]


@dataclass(slots=True)
class ActiveVolume:
    """Plan and progress; its claims stand until it is finished or given up."""

    record: VolumeRecord
    layout: Layout
    files: dict[FileVersion, FileSource]
    since_s: float
    burning: int = 0
    claimed: bool = True
    hold: str = ""
    """Why it cannot be burned now, in words."""
    void: set[FileVersion] = field(default_factory=set)
    own: Path = Path()
    """Directory of the volume's own files."""

    @property
    def bytes(self) -> int:
        return self.layout.total_sectors * SECTOR_BYTES


def versions_of(entries: Sequence[FileSource]) -> dict[FileVersion, FileSource]:
    """The regular files among the entries, each once."""
    return {
        FileVersion(entry.ino, entry.data_version): entry
        for entry in entries
        if entry.kind == "file" and entry.link_of is None
    }


class PlanStore:
    """Plan files, one per unfinished volume, in a directory of the catalog."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _path(self, label: str) -> Path:
        return self._root / f"{label}.plan"

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
        with temporary.open("wb") as file:
            file.write(msgspec.msgpack.encode(plan))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _fsync(self._root)

    def load(self, label: str) -> StoredPlan | None:
        """None where there is no plan file."""
        try:
            return msgspec.msgpack.decode(self._path(label).read_bytes(), type=StoredPlan)
        except FileNotFoundError:
            return None

    def drop(self, label: str) -> None:
        self._path(label).unlink(missing_ok=True)
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
    return ActiveVolume(record, layout, versions_of(plan.entries), since_s, own=own)


COUNTED: Final = frozenset({DiscState.BURNED, DiscState.VERIFIED})
"""Disc states that need no further burn of the volume."""
