"""How much of each volume is dead: files that were deleted, or changed since.

A volume is counted once when it is complete, and again only when something of
it went: the namespace's journal tells removed names, a new volume's contents
tell which older versions they replace. One volume is counted at a time, so in
the steady state nothing is scanned but what changed. What is known is in the
catalog (``VolumeRecord.dead_ns`` 0: to be counted), so a restart goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import structlog
import trio

from hsmfs.daemon.catalog import Change, put_number, put_record
from hsmfs.daemon.catalogrecords import ExtentRecord, VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import FileVersion

log = structlog.get_logger(__name__)
CHANGES_MAX: Final = 50_000
"""Records of the journal that are followed in one go."""
COUNTED_FILES: Final = 4096
"""Of a volume, looked up at a time."""
SEQUENCE: Final = "dead_journal"
REMOVING: Final = ("unlink",)
"""Changes that may end a file; a rename over another is told as one."""


@dataclass(slots=True)
class DeadShares:
    """Owner of what is known of dead bytes."""

    core: Core
    followed_s: float = field(init=False)
    """When the journal was followed last."""

    def __post_init__(self) -> None:
        self.followed_s = self.core.clock.monotonic_s()

    def share(self, record: VolumeRecord) -> float | None:
        """Dead bytes of a volume as a part of all, 0 to 1; None while not counted."""
        if not record.dead_ns:
            return None
        return min(1.0, record.dead_bytes / record.bytes) if record.bytes else 0.0

    async def look(self) -> None:
        """Follow what was removed, then count one volume."""
        await self._follow()
        for record in list(self.core.catalog.volumes.values()):
            counts = record.state == VolumeState.COMPLETE and record.parity is None
            if counts and not record.dead_ns:
                await self._count(record)
                return

    async def _follow(self) -> None:
        catalog = self.core.catalog
        since = catalog.number(SEQUENCE)
        reaches, until, changes = await self.core.namespace.read(
            lambda view: view.journal(since, CHANGES_MAX)
        )
        self.followed_s = self.core.clock.monotonic_s()
        if until == since:
            return
        if reaches:
            inodes = {ino for op, ino in changes if op in REMOVING}
            holders = await trio.to_thread.run_sync(catalog.holders, inodes)
            stale = {label for copies in holders.values() for _, label in copies}
        else:
            stale = set(catalog.volumes)  # the journal is shorter than what is to be known
        await catalog.transact(put_number(SEQUENCE, until), *self._to_count(stale))

    def _to_count(self, labels: Iterable[str]) -> list[Change]:
        changes = []
        for label in labels:
            record = self.core.catalog.volumes.get(label)
            if record is not None and record.dead_ns:
                record.dead_ns = 0
                changes.append(put_record(record))
        return changes

    async def _count(self, record: VolumeRecord) -> None:
        """Dead bytes now; volumes with older versions of its files are to be counted too."""
        catalog, label = self.core.catalog, record.label
        files = catalog.volume_extents(label).files()
        older, dead_bytes = set[str](), 0
        while sizes := await trio.to_thread.run_sync(_some_sizes, files):
            dead_bytes += await self._dead_bytes(sizes)
            older |= await self._with_older(sizes) - {label}
        record.dead_bytes = dead_bytes
        record.dead_ns = self.core.clock.now_ns()
        await catalog.transact(put_record(record), *self._to_count(older))
        log.debug("dead bytes counted", volume=label, dead=record.dead_bytes, of=record.bytes)

    async def _dead_bytes(self, sizes: dict[FileVersion, int]) -> int:
        inodes = {file.ino for file in sizes}
        live = await self.core.namespace.read(lambda view: _live(view, inodes))
        return sum(size for file, size in sizes.items() if file not in live)

    async def _with_older(self, sizes: dict[FileVersion, int]) -> set[str]:
        """Volumes that hold older versions of these."""
        inodes = {file.ino for file in sizes}
        holders = await trio.to_thread.run_sync(self.core.catalog.holders, inodes)
        return {
            other
            for file in sizes
            for version, other in holders[file.ino]
            if version < file.data_version
        }


def _some_sizes(files: Iterator[tuple[FileVersion, ExtentRecord]]) -> dict[FileVersion, int]:
    """Of the next files of a volume; blocks."""
    return {file: extent.size for file, extent in islice(files, COUNTED_FILES)}


def _live(view: NamespaceView, inodes: Iterable[int]) -> set[FileVersion]:
    records = (view.inode(ino) for ino in inodes)
    return {FileVersion(r.ino, r.data_version) for r in records if r is not None and r.nlink}
