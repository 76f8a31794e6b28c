"""hsmd's importer on both stores and a drive, in one process, to be cut at any step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from hsmfs.changer.drive import Drive
from hsmfs.changer.library import Changer
from hsmfs.clock import ManualClock
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, ImportStage
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.importer import Importer
from hsmfs.daemon.jobs import Jobs
from hsmfs.daemon.runs import read_range
from hsmfs.rpc.messages import FileResult, ImportAdd, ImportBegin, ImportEntry
from hsmfs.store.memory import MemoryStore
from hsmfs.types import FileVersion
from support.engines import Bench, now
from support.libraries import DRIVE, SLOT, new_library
from support.vatdisc import VatDisc

DISC = "HSM00001"
FILES = {f"d{n % 3}/{n}": os.urandom(n % 40 * 70) for n in range(600)} | {"top": b"x"}
STEPS_MAX = 60


class Cut(BaseException):
    """hsmd is killed."""


class Steps:
    """Counts what is durable; at the chosen step it is cut, before or after."""

    def __init__(self) -> None:
        self.count = 0
        self.cut_at = -1
        self.after = False

    def wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def step(*args: Any) -> Any:
            self.count += 1
            cut = self.count == self.cut_at
            if cut and not self.after:
                raise Cut
            result = await call(*args)
            if cut:
                raise Cut
            return result

        return step


class Link:
    """hsmfs in the same process."""

    connected = True

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    async def import_begin(self, label: str, path: bytes, again: bool = False) -> bool:
        return now(self.bench.engine.imports.begin(ImportBegin(label, path, again))).done

    async def import_add(self, label: str, entries: list[ImportEntry]) -> list[FileResult]:
        return now(self.bench.engine.imports.add(ImportAdd(label, entries)))

    async def import_end(self, label: str) -> None:
        now(self.bench.engine.imports.end(label))

    async def sync(self) -> None:
        return

    async def import_forget(self, label: str) -> bool:
        return now(self.bench.engine.imports.forget(label)).more


class System:
    """A drive with a disc of packets in it, and both stores; ``start`` is a start of hsmd."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bench = Bench(root / "cache")
        self.store = MemoryStore()
        self.library = library = new_library(root)
        self.started = 0
        """Jobs that the drive has had."""
        library.hands.load_foreign(DISC, VatDisc(0x0201).image(FILES))
        Changer(library.changer_transport()).move(SLOT, DRIVE)
        self.drive = Drive(library.drive_transport(0), lambda _seconds: None)
        self.drive.ready()
        self.steps = Steps()
        self.start()

    def start(self) -> None:
        clock = ManualClock()
        self.catalog = Catalog(self.store)
        if DISC not in self.catalog.discs:
            self.catalog.discs[DISC] = DiscRecord(
                barcode=DISC, magazine="M01", position=0, library="L"
            )
        self.catalog.transact = self.steps.wrap(self.catalog.transact)  # type: ignore[method-assign]
        link = Link(self.bench)
        for name in ("import_begin", "import_add", "import_end", "import_forget"):
            setattr(link, name, self.steps.wrap(getattr(link, name)))

        async def no_obstacle(_query: object) -> str:
            return ""

        async def load(_unit: DriveUnit, _barcode: str) -> None:
            return

        core = SimpleNamespace(
            catalog=self.catalog, link=link, clock=clock, jobs=Jobs(), reserved=set(),
            librarian=SimpleNamespace(present=lambda disc: True, load=load),
            namespace=SimpleNamespace(read=no_obstacle),
            alarms=SimpleNamespace(raise_=lambda *words: None), wake=lambda: None,
        )  # fmt: skip
        self.importer = Importer(core, self.root / "imports")  # type: ignore[arg-type]
        self.unit = DriveUnit("drive0", DRIVE, self.drive, clock)

    async def _serving(self, work: Callable[[], Any]) -> None:
        """With the drive at work, as the dispatcher has it."""
        async with trio.open_nursery() as nursery:

            async def drive() -> None:
                while True:
                    for barcode in list(self.importer.wanted):
                        self.started += 1
                        await self.importer.start(barcode).run(self.unit)
                    await trio.sleep(0.001)

            nursery.start_soon(drive)
            await work()
            nursery.cancel_scope.cancel()

    def run(self, work: Callable[[], Any], cut_at: int, after: bool) -> bool:
        """Whether it came to its end."""
        self.steps.count, self.steps.cut_at, self.steps.after = 0, cut_at, after
        try:
            trio.run(self._serving, work)
        except BaseExceptionGroup as group:
            assert group.split(Cut)[1] is None, group
            return False
        finally:
            self.steps.cut_at = -1
        return True

    async def bring_in(self) -> None:
        await self.importer.run(self.importer.core.jobs.new("import"), DISC, b"old", hashed=False)

    async def forget(self) -> None:
        await self.importer.forget(self.importer.core.jobs.new("forget"), self.label)

    @property
    def label(self) -> str:
        return self.catalog.discs[DISC].volume

    def restart(self, *, both: bool) -> None:
        if both:
            self.bench.reopen()
        self.start()
        self.importer.clean()
        trio.run(self.importer.resume)

    # -- what is left -------------------------------------------------------------------

    def is_whole(self) -> bool:
        """Every file is there, with its place; what is read there is what was written."""
        record = self.catalog.volumes[self.label]
        assert record.foreign is not None
        assert record.foreign.stage == ImportStage.DONE
        assert self.catalog.discs[DISC].state == DiscState.IMPORTED
        root = self.bench.attr(b"old").ino
        for path, data in FILES.items():
            ino = root
            for name in path.encode().split(b"/"):
                ino = self.bench.engine.lookup(ino, name).ino
            ((label, extent),) = self.catalog.extents(FileVersion(ino, 1))
            assert label == self.label
            assert read_range(self.drive.read, extent, 0, extent.size) == data
            self.bench.engine.release(self.bench.open(ino))
        assert len(self.catalog.contents(self.label)) == len(FILES)
        return True

    def is_gone(self) -> bool:
        assert self.catalog.volumes == {}
        assert self.catalog.discs[DISC].state in (DiscState.BLANK, DiscState.FOREIGN)
        assert list(self.bench.engine.tables.listed(1, 0, None)) == []
        with self.store.snapshot() as reader:
            assert list(reader.scan(b"E", b"F")) == list(reader.scan(b"Y", b"Z")) == []
        return True

    def leaves_no_files(self) -> bool:
        folder = self.root / "imports"
        return not folder.exists() or not list(folder.iterdir())
