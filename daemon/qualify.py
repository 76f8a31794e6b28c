"""A checked sequence on one blank disc that says whether robot and drive work as hsmfs needs.

Blocking, and without hsmd: the devices are this process's own. The disc is used up; nothing is
written to one that is not blank. Whatever fails, the disc is brought home where that can be.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import xxhash

from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import ECC_SECTORS, TRANSFER_SECTORS_MAX, DiscInfo, Drive
from hsmfs.changer.library import Changer, Element, Inventory
from hsmfs.changer.transport.stack import Stack
from hsmfs.clock import Clock
from hsmfs.daemon.elementcheck import oddities
from hsmfs.errors import CallerError, HsmError, LibraryError, MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.layout import FileSource, plan_volume
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import VolumeHeader
from hsmfs.volume.writer import VolumeWriter

log = structlog.get_logger(__name__)
FILE_BYTES: Final = 16 << 20
"""Of one file of the test volume."""
TEST_BYTES: Final = 256 << 20
OVERHEAD_BYTES: Final = 4 << 20
"""Of the disc, left to the volume's own structures."""
BURNABLE: Final = {0x41: "BD-R SRM", 0x42: "BD-R RRM", 0x43: "BD-RE"}
REWRITABLE: Final = 0x43
READY_S: Final = 120.0
PASS, FAIL, SKIPPED = "pass", "fail", "skipped"


@dataclass(slots=True)
class StepResult:
    """What one step gave."""

    name: str
    what: str
    result: str
    seconds: float = 0.0
    text: str = ""
    """Why it failed or was skipped."""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bench:
    """What is qualified."""

    changer: Changer
    drive: Drive
    element: int
    """Of the drive."""
    scratch: str
    clock: Clock
    stacks: tuple[Stack, Stack]
    """Of the changer and the drive, for what they said."""
    site: str
    test_bytes: int = TEST_BYTES
    load_timeout_s: float = READY_S
    spares: str = "none"
    """none, least or default: spare areas that the disc gets before the burn."""
    homes: Mapping[str, int] = field(default_factory=dict)
    """Slots of discs, where the catalog knows them."""


Told = Callable[[StepResult], None]


class _NotTried(Exception):
    """There is nothing to do in this step; says why."""


class Qualification:
    """Steps in order; one whose needs failed is skipped."""

    def __init__(self, bench: Bench, told: Told = lambda _step: None) -> None:
        self.bench = bench
        self.results: list[StepResult] = []
        self.is_used = False
        """Whether something was written to the disc."""
        self._told = told
        self._home = -1
        self._away = False
        """Whether the disc may be in the drive."""
        self._start: Inventory | None = None
        self._info: DiscInfo | None = None
        self._burn: Burn | None = None
        self._burn_since_s = 0.0
        self._writer: VolumeWriter | None = None
        self._digest = ""

    @property
    def passed(self) -> bool:
        return all(step.result == PASS for step in self.results)

    def run(self) -> list[StepResult]:
        """All steps; errors of devices become results."""
        for name, what, needs, work in self._steps():
            step = self._one(name, what, needs, work)
            self.results.append(step)
            self._told(step)
        return self.results

    def _steps(self) -> Iterator[tuple[str, str, tuple[str, ...], Callable[[], dict[str, Any]]]]:
        """Name, what is checked, steps that must have passed, and the work."""
        yield "robot", "the robot says who it is", (), self._robot
        yield "drive", "the drive says who it is", (), self._drive_identity
        yield "elements", "the element map is whole and says the same twice", ("robot",), self._map
        yield "mapping", "the drive is at its element", ("drive", "elements"), self._mapping
        yield "empty", "the drive is empty, or was emptied", ("mapping",), self._emptied
        yield "door", "the door can be locked and unlocked", ("robot",), self._door
        yield "refusal", "a move from an empty slot is refused", ("elements",), self._refusal
        yield "load", "the robot brings the disc into the drive", ("empty",), self._load
        yield "ready", "the disc becomes ready", ("load",), self._ready
        yield "blank", "the disc is blank and can be burned", ("ready",), self._blank
        if self.bench.spares != "none":
            yield "format", "the disc gets spare areas", ("blank",), self._format
        formatted = "blank" if self.bench.spares == "none" else "format"
        yield "burn", "a test volume is burned", (formatted,), self._write
        yield "close", "the disc is closed", ("burn",), self._close
        yield "reload", "ejected and drawn in again, it is complete", ("close",), self._reload
        yield "verify", "what is read back is what was written", ("reload",), self._verify
        yield "final", "a closed disc takes no more", ("verify",), self._final
        yield "eject", "the drive lets go of the disc", ("empty",), self._eject
        yield "unload", "the robot brings the disc home", ("empty",), self._unload
        yield "restored", "all elements are as before", ("empty",), self._restored

    def _one(
        self, name: str, what: str, needs: tuple[str, ...], work: Callable[[], dict[str, Any]]
    ) -> StepResult:
        bad = [step.name for step in self.results if step.name in needs and step.result != PASS]
        if bad:
            return StepResult(name, what, SKIPPED, text=f"needs {', '.join(bad)}")
        start_s, told_before = self.bench.clock.monotonic_s(), self._said()
        step = StepResult(name, what, PASS)
        try:
            step.facts = work()
        except HsmError as error:
            step.result, step.text = FAIL, str(error)
        except _NotTried as why:
            step.result, step.text = SKIPPED, str(why)
        step.seconds = round(self.bench.clock.monotonic_s() - start_s, 3)
        senses = self._senses(told_before)
        if senses:
            step.facts = step.facts | {"senses": senses}
        return step

    def _said(self) -> list[int]:
        return [stack.trace.total for stack in self.bench.stacks]

    def _senses(self, before: list[int]) -> list[str]:
        """Sense codes that came since, each with how often."""
        found: dict[str, int] = {}
        for stack, start in zip(self.bench.stacks, before, strict=True):
            fresh = stack.trace.total - start
            for entry in stack.trace.entries()[-fresh:] if fresh else []:
                told = entry.as_dict()
                if told["sense"]:
                    words = f"{stack.name}: {told['sense']} {told['meaning']}"
                    found[words] = found.get(words, 0) + 1
        return [
            f"{words} ({count} times)" if count > 1 else words for words, count in found.items()
        ]

    # -- who and where ---------------------------------------------------------------

    def _robot(self) -> dict[str, Any]:
        return self.bench.changer.inquiry()._asdict()

    def _drive_identity(self) -> dict[str, Any]:
        return self.bench.drive.identity()._asdict()

    def _map(self) -> dict[str, Any]:
        first = self.bench.changer.inventory(refresh=True)
        second = self.bench.changer.inventory(refresh=True)
        if first != second:
            raise LibraryError("element status says two things one after the other")
        if not first.slots or not first.drives:
            raise LibraryError(f"{len(first.slots)} slots, {len(first.drives)} drives: too few")
        odd = oddities(first)
        if odd.doubles:
            code, places = next(iter(odd.doubles.items()))
            raise LibraryError(f"barcode {code} is in elements {', '.join(map(str, places))}")
        self._start = first
        self._home = self._scratch_home(first)
        return {
            "slots": len(first.slots),
            "drives": len(first.drives),
            "mailslots": len(first.mailslots),
            "arms": len(first.transports),
            "discs": sum(one.full for one in (*first.slots, *first.drives, *first.mailslots)),
            "without_barcode": len(odd.nameless),
            "scratch_at": self._home,
        }

    def _scratch_home(self, inventory: Inventory) -> int:
        for element in (*inventory.slots, *inventory.mailslots):
            if element.full and element.barcode == self.bench.scratch:
                return int(element.address)
        raise CallerError(f"disc {self.bench.scratch} is in no slot; put it in and try again")

    def _mapping(self) -> dict[str, Any]:
        """By the serial that the library tells, where it does."""
        element = self._find(self.bench.element)
        serial = self.bench.drive.identity().serial
        if element.drive_serial and element.drive_serial != serial:
            raise LibraryError(
                f"drive element {element.address} has serial {element.drive_serial!r}, the drive "
                f"says {serial!r}"
            )
        return {"element": self.bench.element, "serial_told": bool(element.drive_serial)}

    def _emptied(self) -> dict[str, Any]:
        """What hsmd left in the drive goes home."""
        element = self._find(self.bench.element)
        if not element.full:
            return {}
        code, told = str(element.barcode or ""), element.source
        home = self.bench.homes.get(code, int(told) if told is not None else -1)
        place = self.bench.changer.inventory().find(home)
        if place is None or place.full:
            raise CallerError(
                f"drive element {element.address} holds disc {code or 'without barcode'}, and "
                "its slot is not known or not empty; bring it home first"
            )
        self.bench.drive.eject()
        self.bench.changer.move(self.bench.element, home)
        self._start = self.bench.changer.inventory(refresh=True)
        return {"brought_home": f"{code or 'a disc without barcode'} to {home}"}

    def _find(self, address: int) -> Element:
        found = self.bench.changer.inventory(refresh=True).find(address)
        if found is None:
            raise LibraryError(f"the library has no element {address}")
        return found

    def _door(self) -> dict[str, Any]:
        self.bench.changer.prevent_removal(True)
        self.bench.changer.prevent_removal(False)
        return {}

    def _refusal(self) -> dict[str, Any]:
        """Nothing may move, and the robot must go on after."""
        assert self._start is not None
        empty = [int(slot.address) for slot in self._start.slots if not slot.full]
        if not empty:
            return {"note": "no slot is empty, not tried"}
        try:
            self.bench.changer.move(empty[0], self.bench.element)
        except LibraryError as error:
            self._unchanged()
            return {"refused": str(error)}
        raise LibraryError(f"a move from empty slot {empty[0]} was reported as done")

    def _unchanged(self) -> None:
        now = self.bench.changer.inventory(refresh=True)
        assert self._start is not None
        for before in (*self._start.slots, *self._start.drives, *self._start.mailslots):
            after = now.find(before.address)
            if after is None or (after.full, after.barcode) != (before.full, before.barcode):
                held = after and (after.barcode if after.full else "nothing")
                raise LibraryError(
                    f"{before.kind} {before.address} holds {held}, before it was "
                    f"{before.barcode if before.full else 'nothing'}"
                )

    # -- load ------------------------------------------------------------------------------

    def _load(self) -> dict[str, Any]:
        self._away = True
        try:
            self.bench.changer.move(self._home, self.bench.element)
        except LibraryError:
            self._away = self._find(self.bench.element).full
            raise
        there, left = self._find(self.bench.element), self._find(self._home)
        if not there.full or left.full:
            raise LibraryError("element status does not show that the disc moved")
        if there.barcode and there.barcode != self.bench.scratch:
            raise LibraryError(
                f"the drive element shows disc {there.barcode}, not {self.bench.scratch}"
            )
        return {"barcode_shown": bool(there.barcode), "source_shown": there.source is not None}

    def _ready(self) -> dict[str, Any]:
        self.bench.drive.ready(self.bench.load_timeout_s)
        return {}

    def _blank(self) -> dict[str, Any]:
        self._info = info = self.bench.drive.disc_info()
        if info.state != "blank":
            raise CallerError(
                f"disc {self.bench.scratch} is {info.state}, expected blank; nothing was written"
            )
        if info.profile not in BURNABLE:
            raise CallerError(
                f"profile {info.profile:02X}h, expected one of "
                f"{', '.join(f'{one:02X}h ({word})' for one, word in BURNABLE.items())}"
            )
        return {
            "profile": BURNABLE[info.profile],
            "capacity_bytes": info.capacity_sectors * SECTOR_BYTES,
        }

    def _format(self) -> dict[str, Any]:
        """Afterwards the disc is blank, and smaller."""
        assert self._info is not None
        before = self._info.capacity_sectors
        self.is_used = True
        self.bench.drive.format_with_spares(least=self.bench.spares == "least")
        self._info = info = self.bench.drive.disc_info()
        if info.state != "blank":
            raise MediumError(f"the disc is {info.state} after it was formatted, expected blank")
        spare = (before - info.capacity_sectors) * SECTOR_BYTES
        return {"capacity_bytes": info.capacity_sectors * SECTOR_BYTES, "spare_bytes": spare}

    # -- burn --------------------------------------------------------------------------------

    def _write(self) -> dict[str, Any]:
        writer = self._writer = self._planned()
        self._burn = Burn(self.bench.drive, writer.layout.total_sectors)
        start_s = self._burn_since_s = self.bench.clock.monotonic_s()
        for piece in writer.stream(_source):
            self.is_used = True
            self._burn.write(piece)
        return self._speed(writer.layout.total_sectors * SECTOR_BYTES, start_s)

    def _planned(self) -> VolumeWriter:
        assert self._info is not None
        room = self._info.capacity_sectors * SECTOR_BYTES - OVERHEAD_BYTES
        size = max(1, min(self.bench.test_bytes, room))
        files = [
            FileSource(path=b"test/%04d" % number, ino=number + 2, size=min(FILE_BYTES, size - at))
            for number, at in enumerate(range(0, size, FILE_BYTES))
        ]
        header = VolumeHeader(
            label="QUALIFY", site=self.bench.site, pool="", created_ns=self.bench.clock.now_ns()
        )
        return VolumeWriter(plan_volume(header, files, self._info.capacity_sectors))

    def _speed(self, size: int, start_s: float) -> dict[str, Any]:
        seconds = self.bench.clock.monotonic_s() - start_s
        facts: dict[str, Any] = {"bytes": size}
        return facts | ({"mb_per_s": round(size / 1e6 / seconds, 1)} if seconds > 0 else {})

    def _close(self) -> dict[str, Any]:
        """The speed of burning and closing together: what the drive's buffer held is in it."""
        assert self._burn is not None
        self._burn.finish()
        return self._speed(self._burn.written_bytes, self._burn_since_s)

    def _reload(self) -> dict[str, Any]:
        self.bench.drive.eject()
        self.bench.drive.load()
        self.bench.drive.ready(self.bench.load_timeout_s)
        info = self.bench.drive.disc_info()
        if info.state != "complete":
            raise LibraryError(f"the disc is {info.state} after it was closed, expected complete")
        return {"profile": f"{info.profile:02X}h", "sectors": info.capacity_sectors}

    def _verify(self) -> dict[str, Any]:
        assert self._writer is not None
        drive, total = self.bench.drive, self._writer.layout.total_sectors
        start_s, digest = self.bench.clock.monotonic_s(), xxhash.xxh3_128()
        for at in range(0, total, TRANSFER_SECTORS_MAX):
            digest.update(drive.read(at, min(TRANSFER_SECTORS_MAX, total - at)))
        facts = self._speed(total * SECTOR_BYTES, start_s)
        self._digest = digest.hexdigest()
        if self._digest != self._writer.image_xxh3:
            raise LibraryError(f"xxh3 {self._digest} was read, {self._writer.image_xxh3} written")
        label = VolumeReader(drive.read, total).label
        return facts | {"volume": label}

    def _final(self) -> dict[str, Any]:
        """Only now is it tried to write once more: the data is proved, the disc is scratch."""
        assert self._info is not None and self._writer is not None
        if self._info.profile == REWRITABLE:
            return {"note": "a BD-RE can be written again, not tried"}
        at = -(-self._writer.layout.total_sectors // ECC_SECTORS) * ECC_SECTORS
        try:
            self.bench.drive.write(at, bytes(ECC_SECTORS * SECTOR_BYTES))
        except HsmError as error:
            return {"refused": str(error)}
        raise LibraryError("the drive wrote to a closed disc")

    # -- home -----------------------------------------------------------------------------

    def _eject(self) -> dict[str, Any]:
        self._want_away()
        self.bench.drive.eject()
        return {"access_shown": self._find(self.bench.element).accessible}

    def _want_away(self) -> None:
        if not self._away:
            raise _NotTried("the disc never left its slot")

    def _unload(self) -> dict[str, Any]:
        """Also where the drive said that it does not let go: the robot may get it."""
        self._want_away()
        self.bench.changer.move(self.bench.element, self._home)
        return {}

    def _restored(self) -> dict[str, Any]:
        self._unchanged()
        return {}


def _source(entry: FileSource) -> io.BytesIO:
    """The same bytes for the same file, each time."""
    return io.BytesIO(random.Random(entry.ino).randbytes(entry.size))
