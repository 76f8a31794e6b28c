"""Files that are larger than a disc: in parts, each on a volume of its own or the last's.

A ``SplitRecord`` in the catalog names the volume of each part; the file stays claimed until all
volumes are complete, and counts as copied only then. A record without its volumes is planned
on; one whose file changed is dropped, and so is one of which a part could not be burned.
No part is planned before the whole file is hashed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from msgspec.structs import replace

from hsmfs.daemon.catalog import drop_extents, put_record
from hsmfs.daemon.catalogrecords import SplitRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.coverage import copies_of
from hsmfs.daemon.packing import parents_of, source_of
from hsmfs.daemon.waiting import Waiting
from hsmfs.daemon.wholehash import WholeHasher, sum_of_parts
from hsmfs.errors import HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.rpc.messages import CopiedFile
from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES, FileVersion
from hsmfs.volume.layout import FileSource, VolumeHeader
from hsmfs.volume.packer import Packer
from hsmfs.volume.source import PARTS, Part

log = structlog.get_logger(__name__)
MARGIN_SHARE: Final = 50
"""One part in so many of the largest that fits is left free: later volumes carry more of
their own files, and discs differ a little."""
PARTS_MAX: Final = 9999
SHA256_ZERO: Final = "0" * 64


def file_of(split: SplitRecord) -> FileVersion:
    """Which version is in parts."""
    return FileVersion(split.ino, split.data_version)


def part_of(split: SplitRecord, number: int) -> tuple[Part, int]:
    """A part, and its bytes."""
    start = (number - 1) * split.part_bytes
    labels = split.wanted_labels
    part = Part(number, len(split.labels), start, split.total, labels, split.sha256)
    return part, min(split.part_bytes, split.total - start)


def with_part(names: Iterable[FileSource], part: Part, size: int) -> list[FileSource]:
    """The names of a file as those of one part of it."""
    return [
        replace(name, part=part, size=0 if name.link_of is not None else size) for name in names
    ]


def largest_part(
    header: VolumeHeader, capacity: int, own: Sequence[FileSource], names: Sequence[FileSource]
) -> int:
    """Bytes of the largest part that an empty disc of ``capacity`` sectors takes, in whole
    chunks; 0 where not even one chunk fits. ``names``: parents, then the file's."""
    total = max(name.size for name in names)

    def fits(chunks: int) -> bool:
        packer = Packer(header, capacity)
        parents = [name for name in names if name.kind == "dir"]
        files = [name for name in names if name.kind == "file"]
        # The last part's number and start are the longest in the manifest.
        labels = [header.label] * (-(-total // (chunks * CHUNK_BYTES)))
        longest = Part(PARTS_MAX, PARTS_MAX, total, total, labels, SHA256_ZERO)
        part = with_part(files, longest, chunks * CHUNK_BYTES)
        return packer.add_all([*own, *parents, *part])

    low, high = 0, capacity * SECTOR_BYTES // CHUNK_BYTES + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low * CHUNK_BYTES


@dataclass(slots=True)
class Splitter:
    """Owner of split records; knows who waits for each."""

    core: Core
    waiting: dict[FileVersion, Waiting] = field(default_factory=dict)
    hasher: WholeHasher = field(init=False)

    def __post_init__(self) -> None:
        self.hasher = WholeHasher(self.core, self.abandon)

    def get(self, file: FileVersion) -> SplitRecord | None:
        """The record of a version that is being burned in parts."""
        split = self.core.catalog.splits.get(file.ino)
        return split if split is not None and split.data_version == file.data_version else None

    def files(self) -> list[FileVersion]:
        """All versions that stay claimed."""
        return [file_of(split) for split in self.core.catalog.splits.values()]

    def pools(self) -> list[str]:
        """Those of files of which a part is to be planned."""
        known = self.core.policy.pools
        return [s.pool for s in self._ready() if s.pool in known]

    def _ready(self) -> Iterator[SplitRecord]:
        """Those that are hashed and not planned to their end."""
        splits = self.core.catalog.splits.values()
        return (split for split in splits if split.sha256 and split.next_part)

    def holds(self, pool: str) -> bool:
        """Whether files of a pool wait while a large one is hashed: the last part's volume has
        room for them."""
        splits = self.core.catalog.splits.values()
        return any(s.pool == pool and not s.sha256 for s in splits)

    def next_of(self, pool: str) -> SplitRecord | None:
        """One of which a part is to be planned."""
        return next((split for split in self._ready() if split.pool == pool), None)

    async def begin(
        self,
        waiting: Waiting,
        header: VolumeHeader,
        capacity: int,
        own: Sequence[FileSource],
        names: Sequence[FileSource],
    ) -> str:
        """Decide on the parts of a claimed file; why not, where it cannot be."""
        largest = largest_part(with_feature(header), capacity, own, names)
        size = max(CHUNK_BYTES, largest - largest // MARGIN_SHARE // CHUNK_BYTES * CHUNK_BYTES)
        parts = -(-waiting.item.size // size)
        if not largest or parts > PARTS_MAX:
            return (
                f"{waiting.item.size} bytes do not fit in parts on discs of "
                f"{capacity * SECTOR_BYTES} bytes; use larger discs"
            )
        file = waiting.item.file
        labels = [self.core.catalog.new_volume_label(header.site) for _ in range(parts)]
        split = SplitRecord(
            ino=file.ino,
            data_version=file.data_version,
            pool=header.pool,
            names=[name.path for name in names if name.kind == "file"],
            total=waiting.item.size,
            part_bytes=size,
            labels=[""] * parts,
            wanted_labels=[label for label, _ in labels],
        )
        self.core.catalog.splits[file.ino] = split
        self.waiting[file] = waiting
        await self.core.catalog.transact(put_record(split), labels[-1][1])
        self.hasher.want(file)
        log.info("file is burned in parts", path=os.fsdecode(waiting.item.path), parts=parts)
        return ""

    async def entries(
        self, split: SplitRecord, number: int
    ) -> tuple[list[FileSource], list[FileSource]]:
        """Names of a part, and the directories above; none where the file is gone."""
        part, size = part_of(split, number)

        def query(view: NamespaceView) -> tuple[list[FileSource], list[FileSource]]:
            record = view.inode(split.ino)
            if record is None:
                return [], []
            first, *others = split.names
            names = [source_of(view, first, record)]
            names += [source_of(view, path, record, link_of=first) for path in others]
            return with_part(names, part, size), parents_of(view, split.names)

        return await self.core.namespace.read(query)

    def label_of(self, split: SplitRecord) -> str:
        """What the volume of its next part is to be called; empty where that name was used."""
        label = split.wanted_labels[split.next_part - 1]
        return "" if label in self.core.catalog.volumes else label

    # -- endings -----------------------------------------------------------------------

    def _is_complete(self, label: str) -> bool:
        record = self.core.catalog.volumes.get(label)
        return record is not None and record.state == VolumeState.COMPLETE

    async def settle(self) -> None:
        """Count the files whose volumes are all complete."""
        for split in list(self.core.catalog.splits.values()):
            if all(self._is_complete(label) for label in split.labels):
                await self._count(split)

    async def _count(self, split: SplitRecord) -> None:
        file, catalog = file_of(split), self.core.catalog
        labels = list(dict.fromkeys(split.labels))
        # Of this cut alone: an earlier one may be on its way out, by a reclaim.
        parts = [(label, one) for label, one in catalog.extents(file) if label in labels]
        copies = copies_of((one, len(catalog.verified_discs(label))) for label, one in parts)
        if not copies:
            await self.abandon(file, "a part is not on its volume")
            return
        if split.chunks and sum_of_parts(one for _, one in parts) != split.chunks:
            await self.abandon(file, "its bytes changed in the cache between hash and burn")
            return
        results = await self.core.link.copied([CopiedFile(file, copies, True, split.pool, labels)])
        refused = next((result.refused for result in results if result.refused), "")
        await self._end(split, refused)
        if not refused:
            self.core.metrics.migrated_files.inc()
            self.core.metrics.migrated_bytes.inc(split.total)
        log.info("file in parts counted", ino=split.ino, parts=len(labels), copies=copies)

    async def abandon(self, file: FileVersion, why: str) -> None:
        """It stays as it is; what is on volumes already is of no use alone."""
        split = self.get(file)
        if split is not None:
            self.core.alarms.raise_("split-given-up", f"{os.fsdecode(split.names[0])}: {why}")
            await self._end(split, why)
            await self.forget_places(file, split.labels)

    async def forget_places(self, file: FileVersion, labels: Iterable[str]) -> None:
        """Parts that are of no use alone are not copies."""
        wanted = set(labels)
        for label, extent in self.core.catalog.extents(file):
            if label in wanted and extent.total:
                await self.core.catalog.transact(drop_extents(label, [(file, extent.offset)]))

    async def _end(self, split: SplitRecord, why: str) -> None:
        file = file_of(split)
        self.hasher.forget(file)
        await self.core.catalog.forget_split(split)
        await self.core.catalog.answer("m", [split.ino])
        if self.core.link.connected:
            await self.core.link.unclaim([file])
            await self.core.link.sync()
        waiting = self.waiting.pop(file, None)
        if waiting is not None:
            waiting.fail(why) if why else waiting.finish()

    # -- after a restart -----------------------------------------------------------------

    async def resume(self) -> None:
        """Claim again; plan again what was on volumes that are no more."""
        for split in list(self.core.catalog.splits.values()):
            results = await self.core.link.claim([file_of(split)])
            if results[0].refused:
                # Who asked by hand still wants it: as it is now, from its beginning.
                log.info("parts of an old version are given up", why=results[0].refused)
                self.hasher.forget(file_of(split))
                await self.core.catalog.forget_split(split)
                continue
            kept = [label if self._is_alive(label) else "" for label in split.labels]
            if kept != split.labels:
                split.labels = kept
                await self.core.catalog.save(split)
            self.hasher.want(file_of(split))
        try:
            await self.settle()
        except HsmError as error:
            log.info("parts are counted later", why=str(error))

    def _is_alive(self, label: str) -> bool:
        record = self.core.catalog.volumes.get(label)
        gone = (VolumeState.SHORT, VolumeState.RETIRED)
        return record is not None and record.state not in gone


def with_feature(header: VolumeHeader) -> VolumeHeader:
    """The header of a volume that holds a part."""
    return replace(header, features=[PARTS])
