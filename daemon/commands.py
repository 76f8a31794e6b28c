"""What people ask for by hand: paths in, jobs out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from hsmfs.daemon.catalogrecords import DiscState, VolumeState
from hsmfs.daemon.coverage import cover
from hsmfs.daemon.discchoice import is_offsite
from hsmfs.daemon.hsmd import Hsmd
from hsmfs.daemon.imageimport import ImageImporter
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.magazines import Magazines
from hsmfs.daemon.mailslots import Mailslots
from hsmfs.daemon.packing import Found, regular_files
from hsmfs.daemon.picture import INFINITE, Priority
from hsmfs.daemon.policyrun import PolicyRunner
from hsmfs.daemon.reclaim import Reclaimer
from hsmfs.errors import CallerError, HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import Residency

log = structlog.get_logger(__name__)
LOAD_ESTIMATE_S: Final = 15.0
READ_ESTIMATE_BYTES_S: Final = 36_000_000


class Commands:
    """Starts jobs; each runs in a nursery and tells its end by itself."""

    def __init__(self, hsmd: Hsmd, policy_runner: PolicyRunner, nursery: trio.Nursery) -> None:
        self.hsmd = hsmd
        self.core = hsmd.core
        self.policy_runner = policy_runner
        self._nursery = nursery

    # -- paths ---------------------------------------------------------------

    def relative(self, path: str) -> bytes:
        """A path under the mount, or from the root of the namespace."""
        mount = str(self.core.mount)
        real = os.path.normpath(path)
        for root in (mount, os.path.realpath(mount)):
            if real == root or real.startswith(root + "/"):
                return os.fsencode(real[len(root) :].strip("/"))
        if path.startswith("/"):
            raise CallerError(f"{path}: found outside of the mount, expected under {mount}")
        return os.fsencode(real.strip("/") if real != "." else "")

    async def files(self, paths: Sequence[str], *, recursive: bool) -> list[Found]:
        """All regular files that the paths name, in the order of a walk."""
        if self.core.link.connected:
            await self.core.link.sync()
        relative = [self.relative(path) for path in paths]

        def query(view: NamespaceView) -> list[Found]:
            return [
                item for path in relative for item in regular_files(view, path, recursive=recursive)
            ]

        try:
            return await self.core.namespace.read(query)
        except FileNotFoundError as error:
            raise CallerError(f"{error}: no such file or directory in the mount") from None

    # -- jobs ------------------------------------------------------------------

    def _start(self, kind: str, work: Any, *args: Any) -> Job:
        job = self.core.jobs.new(kind)
        self._nursery.start_soon(self._guard, job, work, *args)
        return job

    async def _guard(self, job: Job, work: Any, *args: Any) -> None:
        try:
            await work(job, *args)
        except HsmError as error:
            self._break_off(job, str(error))
        except Exception as error:
            log.exception("bug: a job failed", job=job.kind)
            self._break_off(job, f"bug: {type(error).__name__}: {error}; see hsmd's log")
        if not job.files_total:
            job.end()

    @staticmethod
    def _break_off(job: Job, why: str) -> None:
        job.complain(why)
        job.files_failed = max(job.files_failed, job.files_total - job.files_done)
        job.end()

    async def migrate(self, paths: Sequence[str], *, recursive: bool) -> Job:
        """Copies on discs for all these files, as soon as drives can."""
        items = await self.files(paths, recursive=recursive)
        return self._start("migrate", self._migrate, items)

    async def _migrate(self, job: Job, items: list[Found]) -> None:
        job.add(len(items), sum(item.size for item in items))
        pool = self.hsmd.migrator.default_pool
        await self.hsmd.migrator.ask(items, pool, job, urgent=True)

    async def release(self, paths: Sequence[str], *, recursive: bool) -> Job:
        """Stubs out of all these files."""
        items = await self.files(paths, recursive=recursive)
        return self._start("release", self._release, items)

    async def _release(self, job: Job, items: list[Found]) -> None:
        job.add(len(items), sum(item.size for item in items))
        await self.hsmd.releaser.release(items, job)

    async def recall(
        self,
        paths: Sequence[str],
        *,
        recursive: bool,
        background: bool = False,
        within_s: float = INFINITE,
    ) -> Job:
        """All these files back in the cache; in so many seconds, if it can be."""
        items = await self.files(paths, recursive=recursive)
        deadline_s = self.core.clock.monotonic_s() + within_s

        async def ask(job: Job) -> None:
            job.priority = Priority.BACKGROUND if background else Priority.BULK
            job.deadline_s = deadline_s
            await self._recall(job, items)

        return self._start("recall", ask)

    async def _recall(self, job: Job, items: list[Found]) -> None:
        job.add(len(items), sum(item.size for item in items))
        await self.hsmd.recaller.ask(items, job)

    async def pin(self, paths: Sequence[str], *, recursive: bool, pinned: bool) -> Job:
        """Forbid or allow release."""
        items = await self.files(paths, recursive=recursive)
        return self._start("pin" if pinned else "unpin", self._pin, items, pinned)

    async def _pin(self, job: Job, items: list[Found], pinned: bool) -> None:
        job.add(len(items), 0)
        await self.core.link.pin([item.ino for item in items], pinned)
        for _ in items:
            job.done(0)

    def export(self, name: str, *, mailslots: bool = False) -> Job:
        self.hsmd.magazines.get(name)
        way = self._way(mailslots)
        return self._start("export", self._magazine_job(way.export, name))

    def bring_in(self, name: str, *, mailslots: bool = False) -> Job:
        self.hsmd.magazines.get(name)
        way = self._way(mailslots)
        return self._start("import", self._magazine_job(way.bring_in, name))

    def _way(self, mailslots: bool) -> Magazines | Mailslots:
        """As a whole by the door, or disc by disc."""
        magazines = self.hsmd.magazines
        return Mailslots(self.core, magazines) if mailslots else magazines

    def _magazine_job(self, work: Any, name: str) -> Any:
        async def run(job: Job) -> None:
            await work(name, job)

        return run

    def verify(self, barcodes: list[str], percent: float) -> Job:
        """Prove discs."""
        for barcode in barcodes:
            self.hsmd.care.disc(barcode)
        if len(barcodes) == 1 and self.core.catalog.discs[barcodes[0]].state == DiscState.IMPORTED:
            return self._hash(self.core.catalog.discs[barcodes[0]].volume)
        if not 0 < percent <= 100:
            raise CallerError(f"sample: found {percent:g} %, expected more than 0, at most 100")
        return self._start("verify", self.hsmd.care.verify, barcodes, percent)

    def _hash(self, label: str) -> Job:
        return self._start("verify", self.hsmd.importer.verify, label)

    def verify_volume(self, label: str, percent: float) -> Job:
        """Prove all of a volume's discs that are in the library."""
        known = self.core.catalog.volumes.get(label)
        if known is not None and known.state == VolumeState.FOREIGN:
            return self._hash(label)
        self.hsmd.care.volume(label)
        present = self.core.librarian.present
        discs = [disc.barcode for disc in self.core.catalog.discs_of(label) if present(disc)]
        if not discs:
            raise CallerError(f"volume {label}: none of its discs is in the library")
        return self.verify(discs, percent)

    def repair(self, label: str) -> Job:
        self.hsmd.care.volume(label)
        return self._start("repair", self.hsmd.care.repair, label)

    def identify(self, barcode: str) -> Job:
        """See what a disc is."""
        self.hsmd.care.disc(barcode)
        return self._start("identify", self.hsmd.care.identify, barcode)

    def import_disc(self, barcode: str, directory: str, *, hashed: bool) -> Job:
        """A read-only tree of stubs out of a disc of others."""
        importer, target = self.hsmd.importer, self.relative(directory)
        importer.check(barcode, target)
        return self._start("import", lambda job: importer.run(job, barcode, target, hashed=hashed))

    def import_image(self, image: str, directory: str, copies: int | None, *, hashed: bool) -> Job:
        """The same out of an image file, which is burned to discs of ours first."""
        hsmd, target, path = self.hsmd, self.relative(directory), Path(image)
        if copies is None:
            copies = self.core.policy.pools[hsmd.migrator.default_pool].copies
        work = ImageImporter(self.core, hsmd.importer, hsmd.care)
        work.check(path, target, copies)
        return self._start("import", lambda job: work.run(job, path, target, copies, hashed=hashed))

    def forget_import(self, name: str) -> Job:
        """Take such a tree away."""
        record = self.hsmd.importer.record(name)
        return self._start("forget", self.hsmd.importer.forget, record.label)

    def reclaim(self, label: str) -> Job:
        """New volumes for what lives on this one."""
        record = self.hsmd.care.volume(label)
        hsmd = self.hsmd
        reclaimer = Reclaimer(self.core, hsmd.migrator, hsmd.recaller, hsmd.releaser)
        return self._start("reclaim", reclaimer.run, record)

    def parity(self, magazine: str) -> Job:
        """Parity discs for what is in a magazine now."""
        return self._start("parity", self.hsmd.care.parity.ask, magazine)

    def refresh(self, label: str) -> Job:
        self.hsmd.care.volume(label)
        return self._start("refresh", self.hsmd.care.refresh, label)

    def audit(self, *, discs: bool, repair: bool, rescan: bool) -> Job:
        """Belief against the library."""

        async def run(job: Job) -> None:
            await self.hsmd.auditor.audit(job, discs=discs, repair=repair, rescan=rescan)

        return self._start("audit", run)

    def run_policy(self) -> Job:
        return self._start("policy", self._run_policy)

    async def _run_policy(self, job: Job) -> None:
        await self.policy_runner.run_once(job)

    # -- plans ---------------------------------------------------------------------

    async def plan(self, kind: str, paths: Sequence[str], *, recursive: bool) -> dict[str, Any]:
        """What a command would move; changes nothing."""
        items = await self.files(paths, recursive=recursive)
        if kind == "recall":
            return self._plan_recall(items)
        wanted = {"migrate": (Residency.RESIDENT,), "release": (Residency.PREMIGRATED,)}[kind]
        chosen = [item for item in items if item.state in wanted]
        size = sum(item.size for item in chosen)
        return {
            "files": len(chosen),
            "bytes": size,
            "discs": 0,
            "loads": 0,
            "seconds": 0.0,
            "magazines": [],
        }

    def _plan_recall(self, items: Sequence[Found]) -> dict[str, Any]:
        chosen = [item for item in items if item.state == Residency.MIGRATED]
        extents = [self.core.catalog.extents(item.file) for item in chosen]
        volumes = {label for found in extents for label in cover(found)}
        size = sum(item.size for item in chosen)
        librarian = self.core.librarian
        outside: set[str] = set()
        for label in volumes:
            discs = self.core.catalog.verified_discs(label)
            if not any(librarian.present(disc) for disc in discs):
                near = sorted(discs, key=lambda disc: is_offsite(self.core, disc))
                outside.update(disc.magazine for disc in near[:1])
        seconds = len(volumes) * LOAD_ESTIMATE_S + size / READ_ESTIMATE_BYTES_S
        return {
            "files": len(chosen),
            "bytes": size,
            "discs": len(volumes),
            "loads": len(volumes),
            "seconds": round(seconds, 1),
            "magazines": sorted(outside),
        }

    def usable_discs(self) -> int:
        """Blank discs that are left inside."""
        return sum(disc.state == DiscState.BLANK for disc in self.core.catalog.discs.values())
