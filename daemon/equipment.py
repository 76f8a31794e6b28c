"""Opens the devices of one library: the robot, its drives, and which drive is where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import structlog
from prometheus_client import CollectorRegistry

from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, open_library
from hsmfs.changer.emulated.desk import Desk
from hsmfs.changer.follow import Followed, Open, neighbours
from hsmfs.changer.library import Changer, Element
from hsmfs.changer.transport.address import DeviceAddress, open_transport, parse_address
from hsmfs.changer.transport.interface import Transport
from hsmfs.changer.transport.metrics import CommandMetrics
from hsmfs.changer.transport.stack import Stack
from hsmfs.clock import Clock, SystemClock
from hsmfs.config import Library, LibraryDrive
from hsmfs.daemon.drivetask import DriveState, DriveUnit
from hsmfs.daemon.emulatedhands import EmulatedHands
from hsmfs.daemon.magazines import Hands
from hsmfs.daemon.manual.boxes import BoxHands, NoChanger
from hsmfs.errors import CallerError, ConfigError, HsmError, LibraryError

log = structlog.get_logger(__name__)
CHANGER: Final = "changer"
SECRET_BYTES_MAX: Final = 4096


@dataclass
class _Found:
    """A drive's device, and who it says it is."""

    config: LibraryDrive
    stack: Stack
    serial: str
    problem: str = ""


class Equipment(NamedTuple):
    """What hsmd works with."""

    changer: Changer | NoChanger
    units: list[DriveUnit]
    hands: Hands | None
    """Who carries magazines by itself; None: a person."""
    stacks: dict[str, Stack]
    """By name: ``changer`` and the drives; for ``hsm drive trace``."""
    emulated: EmulatedLibrary | Desk | None = None

    def close(self) -> None:
        """Give all devices back."""
        for stack in self.stacks.values():
            stack.top.close()
        if self.emulated is not None:
            self.emulated.let_go()


def open_equipment(
    config: Library, registry: CollectorRegistry, clock: Clock | None = None
) -> Equipment:
    """Robot and drives of a library.

    LibraryError when the robot does not answer, CallerError when devices and
    configuration do not fit together. A drive that does not answer is left
    out of service; the others work.
    """
    clock, metrics = clock or SystemClock(), CommandMetrics(registry)
    if config.kind == "emulated":
        library = open_library(Path(config.path), clock, config.speed)
        library.hold()
        return _emulated(library, clock, metrics)
    if config.kind == "manual":
        return _manual(config, clock, metrics)
    transport = _opener(config)
    robot = Stack(CHANGER, transport(config.changer), clock, metrics)
    changer = Changer(robot.top, clock.sleep)
    try:
        _check_library(config, changer.inquiry().serial)
    except HsmError as error:
        kind = CallerError if isinstance(error, CallerError) else LibraryError
        raise kind(f"library {config.name}: {config.changer}: {error}") from error
    elements = changer.inventory(refresh=True).drives
    found = _found_drives(config, clock)
    named = _matched(elements, found, metrics, clock)
    units = [unit for unit, _stack in named]
    _check_any(units, config)
    stacks = {CHANGER: robot} | {stack.name: stack for _unit, stack in named}
    return Equipment(changer, units, None, stacks)


def _opener(config: Library) -> Callable[[str], Transport]:
    where = _where(config)
    return lambda device: open_transport(where(device))


def _where(config: Library) -> Callable[[str], DeviceAddress]:
    secret = _secret(config)
    return lambda device: parse_address(device, config.iscsi_user, secret)


def _found_drives(config: Library, clock: Clock) -> list[_Found]:
    """All that are configured."""
    transport, where = _opener(config), _where(config)
    return [
        _identified(drive, f"device{number}", clock, transport, where(drive.device))
        for number, drive in enumerate(config.drive)
    ]


def _manual(config: Library, clock: Clock, metrics: CommandMetrics) -> Equipment:
    """Drives alone, in the order of the configuration."""
    desk, named = None, list[tuple[DriveUnit, Stack]]()
    if config.path:
        desk = Desk(Path(config.path), clock, config.speed)
        for index in range(len(desk.drives)):
            device, name = desk.drive_transport(index), f"drive{index}"
            stack = Stack(name, device, clock, metrics, watched=False)
            named.append((DriveUnit(name, index, Drive(stack.top), clock), stack))
    else:
        found = _found_drives(config, clock)
        _check_serials(found)
        named = [
            _unit(f"drive{index}", index, one, metrics, clock) for index, one in enumerate(found)
        ]
    _check_any([unit for unit, _stack in named], config)
    units = [unit for unit, _stack in named]
    stacks = {stack.name: stack for _unit, stack in named}
    return Equipment(NoChanger(len(units)), units, BoxHands(), stacks, desk)


def _check_any(units: Sequence[DriveUnit], config: Library) -> None:
    if not any(unit.alive for unit in units):
        notes = "; ".join(unit.note for unit in units)
        raise CallerError(f"library {config.name}: no drive can be used: {notes}")


def _check_serials(found: Sequence[_Found]) -> None:
    serials = [one.serial for one in found if one.serial]
    for serial in serials:
        if serials.count(serial) > 1:
            raise CallerError(f"two drives say that their serial number is {serial!r}")


def _emulated(library: EmulatedLibrary, clock: Clock, metrics: CommandMetrics) -> Equipment:
    """In this process: nothing to watch, its calls take the time they take."""
    robot = Stack(CHANGER, library.changer_transport(), clock, metrics, watched=False)
    changer = Changer(robot.top, clock.sleep)
    stacks, units = {CHANGER: robot}, list[DriveUnit]()
    for index, element in enumerate(changer.inventory(refresh=True).drives):
        name = f"drive{index}"
        device = library.drive_transport(index)
        stacks[name] = Stack(name, device, clock, metrics, watched=False)
        drive = Drive(stacks[name].top, clock.sleep)
        units.append(DriveUnit(name, int(element.address), drive, clock))
    return Equipment(changer, units, EmulatedHands(library), stacks, library)


def _secret(config: Library) -> str:
    if not config.iscsi_secret_file:
        return ""
    try:
        text = Path(config.iscsi_secret_file).read_text("utf-8")[:SECRET_BYTES_MAX]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "library.iscsi_secret_file",
            f"{config.iscsi_secret_file}: {error}",
            "a file with the secret that hsmd's user may read",
        ) from None
    return text.strip()


def _check_library(config: Library, found: str) -> None:
    """CallerError if it is another library than the configuration says."""
    if config.serial and found != config.serial:
        raise CallerError(
            f"found serial number {found!r}, expected {config.serial!r}; is it another library? "
            "See hsm library scan"
        )


def _identified(
    drive: LibraryDrive, name: str, clock: Clock, open_device: Open, address: DeviceAddress
) -> _Found:
    """The drive, by its serial number where the configuration has it, whatever its device is
    called now. CallerError if another drive is there, and this one nowhere."""
    inner, wanted = open_device(drive.device), drive.serial
    followed = Followed(inner, drive.device, lambda: neighbours(address), open_device)
    stack = Stack(name, followed, clock)
    problem, found = "", ""
    try:
        found = Drive(stack.top).identity().serial
    except CallerError as error:
        if not wanted:
            raise CallerError(f"drive {drive.device}: {error}") from error
        problem = str(error)
    except HsmError as error:
        problem = f"{drive.device} does not answer: {error}"
    if wanted and found != wanted and followed.look_for(wanted):
        return _Found(drive, stack, wanted)
    if wanted and found and found != wanted:
        raise CallerError(
            f"drive {drive.device}: found serial number {found!r}, expected {wanted!r}, which no "
            "other device has; run hsm library scan"
        )
    followed.serial = found or wanted
    return _Found(drive, stack, found or wanted, problem)


def _matched(
    elements: Sequence[Element], found: list[_Found], metrics: CommandMetrics, clock: Clock
) -> list[tuple[DriveUnit, Stack]]:
    """Drives in the order of their elements."""
    _check_serials(found)
    places = {id(one): _element_of(one, elements) for one in found}
    named = []
    for index, element in enumerate(elements):
        here = [one for one in found if places[id(one)] == int(element.address)]
        if len(here) > 1:
            devices = " and ".join(one.config.device for one in here)
            raise CallerError(f"drive element {element.address}: both {devices} say they are it")
        if not here:
            log.info("a drive of the library is not configured", element=int(element.address))
            continue
        named.append(_unit(f"drive{index}", int(element.address), here[0], metrics, clock))
    return named


def _unit(
    name: str, element: int, one: _Found, metrics: CommandMetrics, clock: Clock
) -> tuple[DriveUnit, Stack]:
    stack = one.stack.renamed(name, metrics)
    unit = DriveUnit(name, element, Drive(stack.top, clock.sleep), clock)
    if one.problem:
        log.warning("a drive is out of service", drive=name, why=one.problem)
        unit.state, unit.note = DriveState.FAILED, one.problem
    return unit, stack


def _element_of(one: _Found, elements: Sequence[Element]) -> int:
    """By configuration or by what the library tells; -1 for a silent drive of unknown place."""
    device, wanted = one.config.device, one.config.element
    told = [int(e.address) for e in elements if e.drive_serial and e.drive_serial == one.serial]
    if wanted >= 0:
        if wanted not in {int(element.address) for element in elements}:
            known = ", ".join(str(element.address) for element in elements) or "none"
            raise CallerError(f"drive {device}: element {wanted}, the library has drives {known}")
        if told and wanted not in told:
            raise CallerError(
                f"drive {device}: element {wanted} in the configuration, but the library says "
                f"that serial number {one.serial!r} is element {told[0]}"
            )
        return wanted
    if len(told) == 1:
        return told[0]
    if one.problem:
        log.warning("a drive that does not answer has no known element", device=device)
        return -1
    raise CallerError(
        f"drive {device} (serial number {one.serial!r}): the library does not tell which element "
        "it is; give its element in [[library.drive]], see hsm library scan"
    )
