"""Import of an image file: burned as it is to discs of ours, verified, then shown as a tree.

The volume is one of others in what it holds, and one of ours in how it is cared
for: its image has a hash, and as many copies as asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
import xxhash

from hsmfs.daemon.care import Care
from hsmfs.daemon.catalogrecords import ForeignInfo, VolumeRecord, VolumeState
from hsmfs.daemon.core import Core
from hsmfs.daemon.importer import Importer, label_of
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.stagejob import Stage
from hsmfs.daemon.treejob import TreeFile
from hsmfs.errors import CallerError, MediumError, TransientError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.foreign.detect import open_foreign
from hsmfs.volume.geometry import ALIGN_SECTORS

COPY_BYTES: Final = 4 * 1024 * 1024
COPIES_MAX: Final = 10
MARK_CHARS: Final = 8


@dataclass(slots=True)
class ImageImporter:
    """Does one image for each job."""

    core: Core
    importer: Importer
    care: Care

    def check(self, image: Path, directory: bytes, copies: int) -> None:
        """CallerError where this cannot be done."""
        if not image.is_file():
            raise CallerError(f"{image}: found no file, expected an image or a barcode")
        if not directory:
            raise CallerError("--to: found the root of the mount, expected a directory in it")
        if not 1 <= copies <= COPIES_MAX:
            raise CallerError(f"--copies: found {copies}, expected 1 to {COPIES_MAX}")

    async def run(
        self, job: Job, image: Path, directory: bytes, copies: int, *, hashed: bool
    ) -> None:
        """Read the tree, burn, verify, make the tree."""
        await self.importer.check_directory(directory)
        file = TreeFile(self.importer.root / f"image-{job.id}.reading", str(image))
        try:
            job.note = f"{image} is being read"
            await self._read(image, file)
            self.importer.refuse_twin(str(image), file.tree)
            record = self._record(file, directory, copies)
            if record.label in self.core.catalog.volumes or record.label in self.importer.busy:
                raise CallerError(f"{image}: there is a volume {record.label} already")
            self.importer.busy.add(record.label)
            try:
                await self._burn(job, image, file, record)
            except BaseException:
                self.importer.busy.discard(record.label)
                raise
        except OSError as error:
            raise TransientError(f"{error.filename or image}: {error.strerror}") from error
        finally:
            await trio.to_thread.run_sync(lambda: file.path.unlink(missing_ok=True))
        await self.importer.finish(job, record, file.tree, hashed=hashed)

    async def _read(self, image: Path, file: TreeFile) -> None:
        with image.open("rb") as source:
            total = os.fstat(source.fileno()).st_size // SECTOR_BYTES

            def read(sector: int, sectors: int) -> bytes:
                return os.pread(source.fileno(), sectors * SECTOR_BYTES, sector * SECTOR_BYTES)

            try:
                volume = await trio.to_thread.run_sync(open_foreign, read, total)
                await file.fill(volume, total, trio.to_thread.run_sync)
            except MediumError as error:
                raise CallerError(f"{image}: {error}") from error

    def _record(self, file: TreeFile, directory: bytes, copies: int) -> VolumeRecord:
        tree = file.tree
        clusters = -(-tree.total_sectors // ALIGN_SECTORS)
        return VolumeRecord(
            label=label_of(tree.volume_id, tree.fingerprint[:MARK_CHARS]),
            pool="",
            state=VolumeState.COMPLETE,
            copies=copies,
            created_ns=tree.created_ns,
            files=tree.files,
            bytes=tree.bytes,
            total_sectors=clusters * ALIGN_SECTORS,
            foreign=ForeignInfo(
                format=tree.format,
                volume_id=tree.volume_id,
                fingerprint=tree.fingerprint,
                directory=directory,
                barcode="",
            ),
        )

    async def _burn(self, job: Job, image: Path, file: TreeFile, record: VolumeRecord) -> None:
        """Returns when the discs are verified; CallerError where they cannot be had."""
        label, foreign = record.label, record.foreign
        assert foreign is not None
        self._check_room(image, record)
        foreign.stage = foreign.stage.BURNING
        stage = Stage(record, self.care.stage_root / f"{label}.img")
        await trio.to_thread.run_sync(stage.begin)
        record.image_xxh3 = await self._copied(image, stage.path, record.total_sectors)
        stage.missing, stage.ready = [], True
        await trio.to_thread.run_sync(file.path.rename, self.importer.spool(label))
        self.core.catalog.volumes[label] = record
        self.care.stages[label] = stage
        burning = self.core.jobs.new("burn")
        burning.note = f"of image {image}"
        burning.add(1, record.total_sectors * SECTOR_BYTES)
        self.care.waiting[label].append(burning)
        await self.core.catalog.save(record)
        job.note = f"volume {label}: waits for {record.copies} discs to be burned and verified"
        self.core.wake()
        await burning.wait()
        await self.importer.go_on(record, foreign)

    def _check_room(self, image: Path, record: VolumeRecord) -> None:
        """CallerError where every blank disc is known to be too small."""
        blanks = self.core.librarian.blanks(set(), set())
        sizes = [disc.room_sectors for disc in blanks]
        if sizes and all(0 < size < record.total_sectors for size in sizes):
            raise CallerError(
                f"{image}: needs {record.total_sectors} sectors, the largest blank disc has "
                f"{max(sizes)}; bring larger ones in"
            )

    async def _copied(self, image: Path, target: Path, sectors: int) -> str:
        """Hash of the copy, which ends with zeros up to whole clusters."""
        digest, left = xxhash.xxh3_128(), sectors * SECTOR_BYTES
        with image.open("rb") as source, target.open("wb") as out:
            while left > 0:
                size = min(COPY_BYTES, left)
                piece = await trio.to_thread.run_sync(source.read, size) or bytes(size)
                digest.update(piece)
                await trio.to_thread.run_sync(out.write, piece)
                left -= len(piece)
            await trio.to_thread.run_sync(out.flush)
            await trio.to_thread.run_sync(os.fsync, out.fileno())
        return digest.hexdigest()
