"""The main job (migrate, verify, release, recall, compare) with one fault at a moment of chance."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio
import xxhash

from hsmfs.changer.emulated import EmulatedLibrary, Fault
from hsmfs.changer.emulated.disc import image_path
from hsmfs.changer.emulated.faults import OPS, Faults
from hsmfs.daemon.catalogrecords import DiscState, VolumeState
from hsmfs.errors import FsError
from hsmfs.types import SECTOR_BYTES
from support.faultsite import WAIT_S, Shape, Site, VirtualClock, running

PAUSE_S: Final = 30.0
"""After which a person would ask again."""
QUIET_S: Final = 30.0
"""At the end, for repairs that are under way."""
FOREVER: Final = 1 << 40
Sense = tuple[int, int, int]
SHAPE: Final = Shape()
FIRST: Final = {"a": 0, "b": 3_000, "c": 150_000, "d": 300_000}
SECOND: Final = {"b": 5_000, "e": 200_000, "f": 1}
LOAD_SENSES: Final[Sequence[Sense]] = (
    (2, 4, 1), (2, 4, 2), (2, 0x30, 0), (2, 0x3A, 0), (3, 2, 0), (3, 0x11, 5), (4, 0x15, 1),
    (4, 0x44, 0), (4, 0x53, 0), (5, 0x24, 0), (0x0B, 0, 0),
)  # fmt: skip
WRITE_SENSES: Final[Sequence[Sense]] = (
    (2, 4, 8), (3, 0x0C, 0), (3, 0x73, 3), (4, 0x44, 0), (4, 9, 1), (5, 0x21, 2), (5, 0x30, 5),
    (5, 0x63, 0), (5, 0x64, 0), (6, 0x29, 0), (6, 0x28, 0), (7, 0x27, 0), (0x0B, 0, 0),
)  # fmt: skip
READ_SENSES: Final[Sequence[Sense]] = (
    (2, 4, 1), (2, 0x3A, 0), (3, 2, 0), (3, 0x11, 5), (4, 9, 1), (4, 0x44, 0), (5, 0x21, 0),
    (5, 0x24, 0), (6, 0x28, 0), (6, 0x29, 0), (8, 0, 0), (0x0B, 0, 0), (0x0E, 0x1D, 0),
)  # fmt: skip
EJECT_SENSES: Final[Sequence[Sense]] = (
    (2, 4, 1), (2, 0x3A, 0), (4, 0x44, 0), (4, 0x53, 0), (5, 0x53, 2), (0x0B, 0, 0),
)  # fmt: skip
MOVE_SENSES: Final[Sequence[Sense]] = (
    (2, 4, 1), (4, 0x15, 1), (4, 0x44, 0), (5, 0x21, 1), (5, 0x3B, 0x0D), (5, 0x3B, 0x0E),
    (5, 0x53, 2), (6, 0x28, 0), (0x0B, 0, 0),
)  # fmt: skip
Counts = Counter[tuple[str, str]]
"""Commands of a job without a fault, by device and operation."""


@dataclass
class Outcome:
    """What came of one run."""

    struck: bool = False
    asked_again: int = 0
    reader_errors: list[str] = field(default_factory=list)
    virtual_s: float = 0.0
    words: str = ""


# -- faults by chance ------------------------------------------------------------------


class Dice:
    """Chooses a fault of a kind; the same for the same seed."""

    def __init__(self, kind: str, seed: int, counts: Counts) -> None:
        self.random = random.Random(f"{kind} {seed}")
        self.seed = seed
        self.counts = counts

    def drive(self) -> str:
        return f"drive{self.random.randrange(SHAPE.drives)}"

    def disc(self) -> str:
        """One that the job uses, or one of the next in its magazine."""
        magazine = self.random.randrange(SHAPE.slots // SHAPE.magazine_slots)
        return f"HSM{magazine * SHAPE.magazine_slots + self.random.choice((1, 1, 2, 2, 3)):05d}"

    def device(self) -> str:
        return self.disc() if self.random.random() < 0.3 else self.drive()

    def after(self, device: str, op: str) -> int:
        """A moment: so many commands before."""
        if device.startswith("HSM"):
            device = "drive0"
        if device == "library":
            every = sum(self.counts.values())
        elif op == "any":
            every = sum(n for (name, _), n in self.counts.items() if name == device)
        else:
            every = self.counts[device, op]
        return self.random.randrange(max(1, every))

    def count(self, device: str) -> int:
        return self.random.choice((1, 1, 2, 3, 5, FOREVER))

    def sensed(self, op: str, senses: Sequence[Sense], device: str = "") -> Fault:
        device = device or self.device()
        return Fault(
            device=device, op=op, sense=self.random.choice(senses), count=self.count(device),
            after_commands=self.after(device, op),
        )  # fmt: skip


def _load(dice: Dice) -> Fault:
    return dice.sensed("load", LOAD_SENSES)


def _burn(dice: Dice) -> Fault:
    return dice.sensed(dice.random.choice(("write", "write", "sync", "close")), WRITE_SENSES)


def _verify(dice: Dice) -> Fault:
    return dice.sensed("read", READ_SENSES)


def _eject(dice: Dice) -> Fault:
    return dice.sensed("eject", EJECT_SENSES, dice.drive())


def _bytes(dice: Dice) -> Fault:
    device, op = dice.device(), dice.random.choice(("read", "write"))
    senses = READ_SENSES if op == "read" else WRITE_SENSES
    return Fault(
        device=device, op=op, sense=dice.random.choice(senses), count=dice.count(device),
        after_bytes=dice.random.randrange(1, 3_000_000),
    )  # fmt: skip


def _unreadable(dice: Dice) -> Fault:
    first = dice.random.randrange(600)
    last = first + dice.random.choice((1, 1, 32, 200))
    return Fault(
        device=dice.disc(), op="read", sense=(3, 0x11, 5), lba_from=first, lba_to=last,
        after_commands=dice.random.randrange(6),
    )  # fmt: skip


def _slow(dice: Dice) -> Fault:
    drive, op = dice.drive(), dice.random.choice(("any", "read", "write", "load"))
    return Fault(
        device=drive, op=op, effect="slow", delay_s=dice.random.choice((0.5, 5.0, 40.0)),
        after_commands=dice.after(drive, op),
    )  # fmt: skip


def _dying(dice: Dice) -> Fault:
    drive, op = dice.drive(), dice.random.choice(("any", "read", "write"))
    senses = ((3, 0x11, 5), (4, 9, 1), (4, 0x44, 0)) if op != "write" else WRITE_SENSES
    return Fault(
        device=drive, op=op, sense=dice.random.choice(senses), probability=0.0, seed=dice.seed,
        rising=dice.random.choice((0.002, 0.01, 0.05)), after_commands=dice.after(drive, op),
    )  # fmt: skip


def _dead(dice: Dice) -> Fault:
    drive = dice.drive()
    sense = dice.random.choice(((4, 0x44, 0), (2, 4, 3), (4, 0x15, 1), (5, 0x20, 0)))
    effect = dice.random.choice(("sense", "sense", "lost"))
    return Fault(device=drive, effect=effect, sense=sense, after_commands=dice.after(drive, "any"))


def _stuck(dice: Dice) -> Fault:
    op = dice.random.choice(("move", "move", "status"))
    return Fault(
        device=dice.random.choice(("changer", "changer", dice.disc())), op=op,
        sense=dice.random.choice(MOVE_SENSES), count=dice.random.choice((1, 2, 3, 5, 8)),
        done=dice.random.random() < 0.3, after_commands=dice.after("changer", op),
    )  # fmt: skip


def _wrong(dice: Dice) -> Fault:
    first = second = dice.disc()
    while second == first:
        second = dice.disc()
    return Fault(
        device=first, other=second, effect="wrong", after_commands=dice.after("library", "any")
    )


def _double(dice: Dice) -> Fault:
    return Fault(
        device="changer", op="move", effect="double", count=dice.random.choice((1, 1, 2, 4)),
        after_commands=dice.after("changer", "move") // 2,
    )  # fmt: skip


def _cut(effect: str, counts: Sequence[int], dice: Dice) -> Fault:
    device = dice.random.choice(("library", "changer", "changer", dice.drive(), dice.drive()))
    op = "move" if device == "changer" and dice.random.random() < 0.5 else "any"
    return Fault(
        device=device, op=op, effect=effect, done=dice.random.random() < 0.5,  # type: ignore[arg-type]
        count=dice.random.choice(counts), after_commands=dice.after(device, op),
    )  # fmt: skip


KINDS: Final[dict[str, Callable[[Dice], Fault]]] = {
    "load": _load,
    "burn": _burn,
    "verify": _verify,
    "eject": _eject,
    "after N bytes": _bytes,
    "unreadable range": _unreadable,
    "slow drive": _slow,
    "dying drive": _dying,
    "dead drive": _dead,
    "stuck robot": _stuck,
    "wrong disc": _wrong,
    "double feed": _double,
    "power": partial(_cut, "power", (1, 1, 2, 3)),
    "lost reply": partial(_cut, "lost", (1, 2, 3, 4, 8)),
}
"""Each fault of the emulated library."""


# -- the job -----------------------------------------------------------------------------


def content(name: str, size: int, generation: int = 1) -> bytes:
    return random.Random(f"{name} {generation}").randbytes(size)


class MainJob:
    """Two rounds on one site; what must hold is asserted on the way."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.data: dict[str, bytes] = {}
        self.outcome = Outcome()
        self.proved: set[str] = set()
        """Discs that hsmd called verified at some time."""

    async def run(self) -> None:
        for generation, files in enumerate((FIRST, SECOND), 1):
            for name, size in files.items():
                self.data[name] = content(name, size, generation)
                await self.site.write(name, self.data[name])
            await self._again_until(self.site.migrate, ("premigrated", "migrated", "recalling"))
            self._note_proved()
            await self._again_until(self.site.release, ("migrated",))
            await self._compare()
        await self._again_until(self.site.recall, ("premigrated",))
        await self._compare()
        await trio.sleep(QUIET_S)
        self._note_proved()
        self._check_discs()
        self.outcome.virtual_s = self.site.clock.monotonic_s()

    async def _again_until(self, ask: Callable[[], object], states: tuple[str, ...]) -> None:
        """As a person would: ask again after a while, where a job failed."""
        end_s = self.site.clock.monotonic_s() + WAIT_S
        while True:
            job = await ask()  # type: ignore[misc]
            wrong = {n: s for n in self.data if (s := self.site.state(n)) not in states}
            if not wrong:
                return
            assert self.site.clock.monotonic_s() < end_s, (
                f"never ends: {ask} {job.as_dict()} {wrong}\n{self.site.words()}"
            )
            self.outcome.asked_again += 1
            await trio.sleep(PAUSE_S)

    async def _compare(self) -> None:
        async with trio.open_nursery() as nursery:
            for name in self.data:
                nursery.start_soon(self._read, name)

    async def _read(self, name: str) -> None:
        end_s = self.site.clock.monotonic_s() + WAIT_S
        while True:
            found = None
            try:
                with trio.move_on_after(WAIT_S):
                    found = await self.site.read(name)
            except FsError as error:
                self.outcome.reader_errors.append(f"{name}: {error}")
                assert self.site.clock.monotonic_s() < end_s, f"{error}\n{self.site.words()}"
                await trio.sleep(PAUSE_S)
                continue
            assert found is not None, f"a reader of {name} waits for ever\n{self.site.words()}"
            assert found == self.data[name], f"WRONG DATA in {name}\n{self.site.words()}"
            return

    # -- what must hold ------------------------------------------------------------------

    def _note_proved(self) -> None:
        discs = self.site.hsmd.core.catalog.discs.values()
        self.proved |= {disc.barcode for disc in discs if disc.state == DiscState.VERIFIED}

    def _check_discs(self) -> None:
        """No verified copy is lost: each proved disc is still known as its volume's, and holds
        the very image; each file that hsmfs counts on has such a disc."""
        catalog = self.site.hsmd.core.catalog
        good: set[str] = set()
        for barcode in self.proved:
            disc = catalog.discs[barcode]
            volume = catalog.volumes[disc.volume]
            images = self._images(barcode)
            assert volume.image_xxh3 in images, (
                f"disc {barcode} was verified, and holds {images}, not {volume.image_xxh3}\n"
                + self.site.words()
            )
            if disc.state in (DiscState.VERIFIED, DiscState.DAMAGED):
                good.add(disc.volume)
        for volume in catalog.volumes.values():
            if volume.state == VolumeState.COMPLETE:
                assert volume.label in good, f"{volume.label} has no disc\n{self.site.words()}"

    def _images(self, barcode: str) -> list[str]:
        """Hashes of what may be the disc of this barcode (two may have changed places)."""
        library = self.site.library
        found = []
        for code in {barcode, library.faults.really(barcode)}:
            path = image_path(library.discs, code)
            if path.exists():
                found.append(self._hash(path, barcode))
        return found

    def _hash(self, path: Path, barcode: str) -> str:
        catalog = self.site.hsmd.core.catalog
        volume = catalog.volumes[catalog.discs[barcode].volume]
        return xxhash.xxh3_128_hexdigest(path.read_bytes()[: volume.total_sectors * SECTOR_BYTES])


class _Counting:
    """Counts commands as faults would see them."""

    def __init__(self, faults: Faults) -> None:
        self.counts: Counts = Counter()
        self._inner = faults.on_the_way
        faults.on_the_way = self.on_the_way  # type: ignore[method-assign]

    def on_the_way(self, devices: Sequence[str], cdb: bytes) -> Fault | None:
        op = OPS.get(cdb[0], "any")
        if cdb[0] == 0x1B and cdb[4] & 3 == 2:
            op = "eject"
        self.counts[devices[0], op] += 1
        return self._inner(devices, cdb)


def counted(root: Path) -> Counts:
    """Commands of the job without a fault."""
    found: list[Counts] = []

    async def main() -> None:
        async with running(root, clock, SHAPE) as site:
            counting = _Counting(site.library.faults)
            await MainJob(site).run()
            found.append(counting.counts)

    clock = VirtualClock()
    trio.run(main, clock=clock.mock)
    return found[0]


def fault_of(kind: str, seed: int, counts: Counts) -> Fault:
    return KINDS[kind](Dice(kind, seed, counts))


def run_with(root: Path, fault: Fault) -> Outcome:
    """One run; AssertionError with the fault and the state where something does not hold."""
    outcomes: list[Outcome] = []

    async def main() -> None:
        async with running(root, clock, SHAPE) as site:
            site.library.faults.set([fault])
            job = MainJob(site)
            await job.run()
            job.outcome.struck = site.library.faults.struck
            job.outcome.words = site.words()
            outcomes.append(job.outcome)

    clock = VirtualClock()
    try:
        trio.run(main, clock=clock.mock)
    except BaseExceptionGroup as group:
        raise _first(group) from group
    return outcomes[0]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def library_of(root: Path) -> EmulatedLibrary:
    """For what is to be looked at afterwards."""
    return EmulatedLibrary(root / "library")
