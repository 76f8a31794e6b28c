"""Imports of discs that others wrote: a tree of stubs, read from its one disc.

First the whole tree is read into a file (``treejob``); a cut before that is
whole leaves nothing. Then the volume's record says *importing*, and from that
file the stubs are made in hsmfs and their places put into the catalog, batch by
batch; each batch may be done again, so a cut import goes on at the next
connection. What cannot be finished is taken back: *forgetting*, the same as
when a person forgets an import.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio

from hsmfs.daemon.catalog import drop_extents, put_extents, put_history, put_record
from hsmfs.daemon.catalogrecords import (
    DISC_TRANSITIONS,
    DiscRecord,
    DiscState,
    ExtentRecord,
    ForeignInfo,
    HistoryRecord,
    ImportStage,
    VolumeRecord,
    VolumeState,
)
from hsmfs.daemon.core import Core
from hsmfs.daemon.hashjob import HashJob
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.runs import HOLE
from hsmfs.daemon.scheduler import VerifyDemand
from hsmfs.daemon.treejob import SpoolEntry, Tree, TreeFile, TreeJob, batches
from hsmfs.errors import CallerError, FsError, HsmError, TransientError
from hsmfs.namespace.view import NamespaceView
from hsmfs.rpc.messages import IMPORT_BATCH_MAX, ImportEntry
from hsmfs.types import FileVersion

log = structlog.get_logger(__name__)
DROP_BATCH: Final = 5_000
LOOK_S: Final = 1.0
VOLUME_ID_CHARS_MAX: Final = 32


@dataclass(slots=True)
class Importer:
    """Owner of foreign volumes."""

    core: Core
    root: Path
    """Directory of spool files."""
    has_readers: Callable[[str], bool] = lambda label: False
    """Whether somebody waits for data of a volume."""
    on_forget: Callable[[str], None] = lambda label: None
    """Told of a volume that is no more."""
    wanted: dict[str, TreeJob | HashJob] = field(default_factory=dict)
    """What a drive should do, by barcode."""
    busy: set[str] = field(default_factory=set)
    """Labels, and barcodes of discs without one yet, that are worked on."""

    async def serve(self) -> None:
        """Go on with what was cut, until cancelled."""
        await trio.to_thread.run_sync(self.clean)
        while True:
            if self.core.link.connected:
                await self.resume()
            await trio.sleep(LOOK_S)

    def clean(self) -> None:
        """Files of trees that were not read to their end."""
        volumes = self.core.catalog.volumes.values()
        kept = {
            f"{one.label}.spool"
            for one in volumes
            if one.foreign is not None and one.foreign.stage != ImportStage.DONE
        }
        for path in self.root.iterdir() if self.root.is_dir() else ():
            if path.name not in kept:
                path.unlink()

    # -- drives ------------------------------------------------------------------------

    def demands(self) -> list[VerifyDemand]:
        """Discs that a drive should read now."""
        now_s = self.core.clock.monotonic_s()
        present, discs = self.core.librarian.present, self.core.catalog.discs
        return [
            VerifyDemand(barcode, "", now_s)
            for barcode in self.wanted
            if barcode not in self.core.reserved and present(discs[barcode])
        ]

    def start(self, barcode: str) -> TreeJob | HashJob:
        """The job for a drive."""
        self.core.reserved.add(barcode)
        return self.wanted.pop(barcode)

    async def _in_drive(self, work: TreeJob | HashJob) -> None:
        """Have a drive do it; raises what it ended with."""
        barcode = work.disc.barcode
        if barcode in self.wanted:
            raise CallerError(f"disc {barcode}: other work on it waits for a drive already")
        self.wanted[barcode] = work
        self.core.wake()
        try:
            await work.ended.wait()
        finally:
            self.wanted.pop(barcode, None)
        if work.error is not None:
            raise work.error

    # -- import ------------------------------------------------------------------------

    def check(self, barcode: str, directory: bytes) -> DiscRecord:
        """CallerError where this disc cannot be imported."""
        disc = self.core.catalog.discs.get(barcode)
        if disc is None:
            raise CallerError(f"disc {barcode!r} is not known; see hsm disc ls")
        if disc.state == DiscState.IMPORTED:
            raise CallerError(
                f"disc {barcode} is imported already, as volume {disc.volume}; "
                "hsm disc forget-import takes that back"
            )
        if disc.state not in (DiscState.BLANK, DiscState.FOREIGN):
            raise CallerError(
                f"disc {barcode} is {disc.state} (volume {disc.volume}), expected a disc of others"
            )
        if not self.core.librarian.present(disc):
            raise CallerError(f"disc {barcode} is not in the library; bring it in first")
        if barcode in self.busy:
            raise CallerError(f"disc {barcode} is being imported already")
        if not directory:
            raise CallerError("--to: found the root of the mount, expected a directory in it")
        return disc

    async def check_directory(self, directory: bytes) -> None:
        """CallerError where a tree cannot be made there, as far as is known before."""
        if self.core.link.connected:
            await self.core.link.sync()
        why = await self.core.namespace.read(lambda view: _obstacle(view, directory))
        if why:
            raise CallerError(f"--to: {os.fsdecode(directory)}{why}")

    async def run(self, job: Job, barcode: str, directory: bytes, *, hashed: bool) -> None:
        """Read the tree, make it, and read all data if ``hashed``."""
        disc = self.check(barcode, directory)
        await self.check_directory(directory)
        self.busy.add(barcode)
        file = TreeFile(self.root / f"{barcode}.reading", f"disc {barcode}")
        try:
            reading = TreeJob(self.core, disc, file)
            job.note = f"disc {barcode} is being read"
            await self._in_drive(reading)
            record = await self._record(disc, reading, directory)
        except OSError as error:
            raise TransientError(f"{error.filename}: {error.strerror}; make room there") from error
        finally:
            self.busy.discard(barcode)
            await trio.to_thread.run_sync(lambda: file.path.unlink(missing_ok=True))
        await self.finish(job, record, file.tree, hashed=hashed)

    async def finish(self, job: Job, record: VolumeRecord, tree: Tree, *, hashed: bool) -> None:
        """From the spool file to the tree; the job ends."""
        job.add(tree.files, tree.bytes)
        self._tell(job, tree)
        await self._make(job, record)
        if hashed:
            await self.hash(job, record.label)
        job.note = (
            f"volume {record.label} ({record.foreign.format if record.foreign else ''}): "
            f"{record.files} files"
        )
        job.end()

    def _tell(self, job: Job, tree: Tree) -> None:
        for why in tree.problems:
            job.complain(why)
        if tree.problem_count > len(tree.problems):
            job.complain(f"{tree.problem_count} names were not taken over")

    async def _record(self, disc: DiscRecord, reading: TreeJob, directory: bytes) -> VolumeRecord:
        """The volume's record with the intent to import it; durable when it returns.

        It is known from the moment on that no twin of it was found.
        """
        tree = reading.file.tree
        self.refuse_twin(f"disc {disc.barcode}", tree)
        label = label_of(tree.volume_id, disc.barcode)
        record = VolumeRecord(
            label=label,
            pool="",
            state=VolumeState.FOREIGN,
            copies=1,
            created_ns=tree.created_ns,
            files=tree.files,
            bytes=tree.bytes,
            total_sectors=tree.total_sectors,
            foreign=ForeignInfo(
                format=tree.format,
                volume_id=tree.volume_id,
                fingerprint=tree.fingerprint,
                directory=directory,
                barcode=disc.barcode,
            ),
        )
        self.core.catalog.volumes[label] = record
        self.busy.add(label)
        try:
            await trio.to_thread.run_sync(reading.file.path.rename, self.spool(label))
        except BaseException:
            self.busy.discard(label)
            del self.core.catalog.volumes[label]
            raise
        disc.become(DiscState.FOREIGN)
        disc.become(DiscState.IMPORTED)
        disc.volume, disc.used_sectors, disc.note = label, tree.total_sectors, ""
        entry = HistoryRecord(
            what="import", drive=reading.drive, volume=label, seconds=reading.seconds,
            errors=tree.problem_count, text=f"{tree.format}: {tree.entries} names",
        )  # fmt: skip
        change = put_history(disc.barcode, self.core.clock.now_ns(), entry)
        await self.core.catalog.transact(put_record(record), put_record(disc), change)
        log.info("foreign disc", disc=disc.barcode, volume=label, format=tree.format)
        return record

    def refuse_twin(self, what: str, tree: Tree) -> None:
        """CallerError where this volume is imported already."""
        for known in self.core.catalog.volumes.values():
            if known.foreign is not None and known.foreign.fingerprint == tree.fingerprint:
                discs = ", ".join(disc.barcode for disc in self.core.catalog.discs_of(known.label))
                raise CallerError(
                    f"{what}: found the same volume {tree.volume_id!r} that disc {discs} holds, "
                    f"which is imported as {known.label}"
                )

    def spool(self, label: str) -> Path:
        return self.root / f"{label}.spool"

    async def _make(self, job: Job, record: VolumeRecord) -> None:
        """Stubs in hsmfs and their places in the catalog; taken back where it cannot be."""
        try:
            await self._make_all(job, record)
        except TransientError as error:
            raise TransientError(f"{error}; the import goes on when hsmfs is there") from None
        except (FsError, CallerError, OSError) as error:
            await self._take_back(record, str(error))
            raise CallerError(f"volume {record.label} is not imported: {error}") from error
        finally:
            self.busy.discard(record.label)

    async def _make_all(self, job: Job, record: VolumeRecord) -> None:
        foreign, label = record.foreign, record.label
        assert foreign is not None
        link = self.core.link
        spool = self.spool(label)
        done = await link.import_begin(label, foreign.directory)
        if done and record.files and not self.core.catalog.contents(label, limit=1):
            done = await link.import_begin(label, foreign.directory, True)  # a catalog was lost
        if not done:
            await self._batches(job, label, spool)
            await link.import_end(label)
        foreign.become(ImportStage.DONE)
        await self.core.catalog.save(record)
        await trio.to_thread.run_sync(lambda: spool.unlink(missing_ok=True))

    async def _batches(self, job: Job, label: str, spool: Path) -> None:
        """All entries; where each file lies is durable before the next batch."""
        following = batches(spool, IMPORT_BATCH_MAX)
        while batch := await trio.to_thread.run_sync(following):
            results = await self.core.link.import_add(label, [_import_entry(one) for one in batch])
            extents: list[tuple[FileVersion, ExtentRecord]] = []
            for one, result in zip(batch, results, strict=True):
                if result.refused:
                    job.complain(result.refused)
                elif _is_file(one):
                    extents.append((result.file, _extent(one)))
                    job.files_done += 1
                    job.bytes_done += one.size
            if extents:
                await self.core.catalog.transact(put_extents(label, extents))

    # -- forget ------------------------------------------------------------------------

    def record(self, name: str) -> VolumeRecord:
        """A foreign volume by label or barcode; CallerError."""
        disc = self.core.catalog.discs.get(name)
        record = self.core.catalog.volumes.get(disc.volume if disc is not None else name)
        if record is None or record.foreign is None:
            raise CallerError(f"{name!r} is no imported disc or volume; see hsm disc ls")
        return record

    async def forget(self, job: Job, label: str) -> None:
        """Take the tree and all that is known of the volume away; the disc stays as it is."""
        record = self.record(label)
        if label in self.busy:
            raise CallerError(f"volume {label} is being imported or forgotten; wait for that")
        job.add(1, 0)
        self.busy.add(label)
        try:
            await self._take_back(record, "by hand")
        finally:
            self.busy.discard(label)
        job.note = f"the import of volume {label} is forgotten"
        job.done(0)

    async def _take_back(self, record: VolumeRecord, why: str) -> None:
        foreign, label, catalog = record.foreign, record.label, self.core.catalog
        assert foreign is not None
        if foreign.stage != ImportStage.FORGETTING:
            foreign.become(ImportStage.FORGETTING)
            foreign.why = why
            await catalog.save(record)
        while await self.core.link.import_forget(label):
            pass
        contents = await trio.to_thread.run_sync(catalog.contents, label)
        for start in range(0, len(contents), DROP_BATCH):
            await catalog.transact(drop_extents(label, contents[start : start + DROP_BATCH]))
        for disc in catalog.discs_of(label):
            if DiscState.FOREIGN in DISC_TRANSITIONS[disc.state]:
                disc.become(DiscState.FOREIGN)
            disc.volume = ""
            entry = HistoryRecord(what="forget", volume=label, text=foreign.why)
            change = put_history(disc.barcode, self.core.clock.now_ns(), entry)
            await catalog.transact(put_record(disc), change)
        await catalog.forget_volume(label)
        self.on_forget(label)
        await trio.to_thread.run_sync(lambda: self.spool(label).unlink(missing_ok=True))
        log.info("import forgotten", volume=label, why=foreign.why)

    # -- after a restart -----------------------------------------------------------------

    async def resume(self) -> None:
        """Go on with what was cut, of this or an earlier run."""
        for record in list(self.core.catalog.volumes.values()):
            foreign = record.foreign
            if foreign is None or foreign.stage == ImportStage.DONE or record.label in self.busy:
                continue
            if foreign.stage == ImportStage.BURNING and self._is_unproved(record):
                continue
            self.busy.add(record.label)
            try:
                await self._resume(record, foreign)
            finally:
                self.busy.discard(record.label)

    async def _resume(self, record: VolumeRecord, foreign: ForeignInfo) -> None:
        job = self.core.jobs.new("import")
        job.note = f"volume {record.label}: taken up again after a restart"
        job.add(record.files, record.bytes)
        try:
            if foreign.stage == ImportStage.FORGETTING:
                await self._take_back(record, foreign.why)
            else:
                await self.go_on(record, foreign)
                await self._make(job, record)
        except HsmError as error:
            log.warning("import is not finished", volume=record.label, error=str(error))
            job.complain(str(error))
        job.end()

    def _is_unproved(self, record: VolumeRecord) -> bool:
        """A disc is burned of it, and not verified yet: that comes first."""
        states = {disc.state for disc in self.core.catalog.discs_of(record.label)}
        return DiscState.BURNED in states and DiscState.VERIFIED not in states

    async def go_on(self, record: VolumeRecord, foreign: ForeignInfo) -> None:
        """After a burn: to the import, or back where no disc came of it."""
        if foreign.stage == ImportStage.BURNING:
            if not self.core.catalog.verified_discs(record.label):
                await self._take_back(record, "no disc was burned of it; import the image again")
                raise CallerError(f"volume {record.label}: {foreign.why}")
            foreign.become(ImportStage.IMPORTING)
            await self.core.catalog.save(record)

    # -- hashes -----------------------------------------------------------------------------

    async def hash(self, job: Job, label: str) -> None:
        """Read all data: what was hashed before is proved, the rest hashed now."""
        record = self.record(label)
        foreign = record.foreign
        assert foreign is not None
        if foreign.stage != ImportStage.DONE:
            raise CallerError(f"volume {label}: its import is {foreign.stage}; wait for its end")
        discs = self.core.catalog.verified_discs(label)
        disc = next((disc for disc in discs if self.core.librarian.present(disc)), None)
        if disc is None:
            names = ", ".join(disc.barcode for disc in discs) or "none"
            raise CallerError(f"its disc ({names}) is not in the library; bring it in first")
        job.note = f"all of disc {disc.barcode} is being read"
        work = HashJob(self.core, disc, record)
        work.give_way = self._gives_way
        await self._in_drive(work)
        for path in work.damaged:
            job.fail(path)
        if work.damaged_count > len(work.damaged):
            job.complain(f"{work.damaged_count} files are damaged")
        job.note = f"volume {label}: {work.hashed} files hashed, {work.proved} proved"

    def _gives_way(self, work: HashJob, told: bool) -> bool:
        """Readers come first; the work waits for a drive again."""
        wanted = told or self.has_readers(work.volume.label)
        if wanted:
            self.wanted[work.disc.barcode] = work
        return wanted

    async def verify(self, job: Job, label: str) -> None:
        """By hand: ``hash`` as a job of its own."""
        job.add(1, 0)
        await self.hash(job, label)
        job.done(0)


def label_of(volume_id: str, barcode: str) -> str:
    """One label for each disc; without a hyphen, which our own labels have."""
    name = re.sub(r"[^\w.]+", "_", volume_id)[:VOLUME_ID_CHARS_MAX].strip("_.")
    return f"{name or 'DISC'}_{barcode.replace('-', '_')}"


def _obstacle(view: NamespaceView, directory: bytes) -> str:
    """Why a directory cannot be the root of an import; empty if it can."""
    above = view.lookup_path(directory.rpartition(b"/")[0])
    if above is None:
        return ": found no directory above it; make that first"
    ino = view.lookup_path(directory)
    record = view.inode(ino) if ino is not None else None
    if ino is None or record is None:
        return ""
    if not stat.S_ISDIR(record.mode):
        return " is not a directory"
    return " is not empty" if any(True for _ in view.children(ino)) else ""


def _is_file(entry: SpoolEntry) -> bool:
    return stat.S_ISREG(entry.mode)


def _import_entry(entry: SpoolEntry) -> ImportEntry:
    return ImportEntry(
        path=entry.path,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        atime_ns=entry.atime_ns,
        mtime_ns=entry.mtime_ns,
        ctime_ns=entry.ctime_ns,
        target=entry.target,
    )


def _extent(entry: SpoolEntry) -> ExtentRecord:
    real = [at for at, _ in entry.runs if at != HOLE]
    single = len(entry.runs) == 1 and bool(real)
    return ExtentRecord(
        offset=real[0] if real else 0,
        size=entry.size,
        xxh3_128="",
        sha256="",
        chunks=[],
        path=entry.path.decode("utf-8", "backslashreplace"),
        runs=[] if single else entry.runs,
    )
