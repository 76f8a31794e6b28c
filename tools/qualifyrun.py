"""A qualification on the devices of a configuration, without hsmd, and its report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio
from prometheus_client import CollectorRegistry

from hsmfs.clock import Clock, SystemClock
from hsmfs.config import Config, Library
from hsmfs.daemon.catalog import Catalog, put_history, put_record
from hsmfs.daemon.catalogproof import open_catalog, read_catalog
from hsmfs.daemon.catalogrecords import DiscState, HistoryRecord
from hsmfs.daemon.drivetask import DriveUnit
from hsmfs.daemon.equipment import CHANGER, Equipment, open_equipment
from hsmfs.daemon.manual.boxes import NoChanger
from hsmfs.daemon.qualify import FAIL, Bench, Qualification, StepResult
from hsmfs.errors import CallerError
from hsmfs.runlock import only_one
from hsmfs.tools.output import complain, duration_words, print_json, say, size_words

NOTE: Final = "scratch disc of hsm library qualify"


def run(
    settings: Config, library: str, drive: str, scratch: str, size: int, spares: str, json: bool
) -> bool:
    """Whether all steps passed; CallerError for what is wrong before the first."""
    chosen = _library(settings, library)
    run_path = Path(settings.run.path)
    run_path.mkdir(parents=True, exist_ok=True)
    with only_one(run_path, "hsmd"), _catalog(settings) as catalog:
        if catalog is not None:
            _check_scratch(catalog, scratch)
        equipment = open_equipment(chosen, CollectorRegistry())
        try:
            unit = _unit(equipment, chosen, drive)
            homes = _homes(catalog)
            done = _run(settings, chosen, equipment, unit, scratch, size, spares, homes, json)
        finally:
            equipment.close()
        if catalog is not None and done.is_used:
            trio.run(_used_up, catalog, scratch, SystemClock())
    return done.passed


def _run(
    settings: Config,
    library: Library,
    equipment: Equipment,
    unit: DriveUnit,
    scratch: str,
    size: int,
    spares: str,
    homes: dict[str, int],
    json: bool,
) -> Qualification:
    if isinstance(equipment.changer, NoChanger):
        raise CallerError(f"library {library.name} is loaded by hand: there is no robot to qualify")
    bench = Bench(
        changer=equipment.changer,
        drive=unit.drive,
        element=unit.element,
        scratch=scratch,
        clock=SystemClock(),
        stacks=(equipment.stacks[CHANGER], equipment.stacks[unit.name]),
        site=settings.site.id,
        test_bytes=size,
        load_timeout_s=library.load_timeout_s,
        spares=spares,
        homes=homes,
    )
    done = Qualification(bench, (lambda _step: None) if json else _tell)
    try:
        done.run()
    except KeyboardInterrupt:
        complain(f"broken off; disc {scratch} may still be in drive {unit.name}")
        raise
    if json:
        print_json(
            {
                "library": library.name,
                "drive": unit.name,
                "scratch": scratch,
                "passed": done.passed,
                "steps": [msgspec.to_builtins(step) for step in done.results],
            }
        )
    else:
        bad = [step.name for step in done.results if step.result == FAIL]
        say(f"library {library.name} with {unit.name}: {_verdict(bad)}")
    return done


def _verdict(bad: list[str]) -> str:
    return f"FAILED ({', '.join(bad)})" if bad else "qualified"


def _tell(step: StepResult) -> None:
    say(f"{step.result:8}{step.name:10}{duration_words(step.seconds):>12}  {step.what}")
    if step.text:
        say(f"{'':20}{step.text}")
    for key, value in step.facts.items():
        for line in value if isinstance(value, list) else [value]:
            shown = size_words(line) if key.endswith("bytes") else line
            say(f"{'':20}{key.replace('_', ' ')}: {shown}")


def _library(settings: Config, name: str) -> Library:
    found = [one for one in settings.library if name in ("", one.name)]
    if len(found) != 1:
        known = ", ".join(one.name for one in settings.library) or "none"
        raise CallerError(f"--library {name or '(not given)'}: expected one of {known}")
    if found[0].kind == "manual":
        raise CallerError(
            f"library {found[0].name} has no robot to qualify; burn and read with its drives"
        )
    return found[0]


def _unit(equipment: Equipment, library: Library, name: str) -> DriveUnit:
    """By name, device or serial number."""
    elements = {one.device: one.element for one in library.drive}
    serials = {one.serial: one.device for one in library.drive if one.serial}
    for unit in equipment.units:
        identity = unit.drive.identity() if unit.alive else None
        names = {unit.name, identity.serial if identity else ""}
        if name in names or elements.get(name, -1) == unit.element:
            break
        if identity is not None and serials.get(identity.serial) == name:
            break
    else:
        known = ", ".join(unit.name for unit in equipment.units)
        raise CallerError(f"--drive {name}: not known, expected one of {known}")
    if not unit.alive:
        raise CallerError(f"--drive {name}: {unit.note}")
    return unit


# -- the catalog, where there is one ----------------------------------------------------


@contextmanager
def _catalog(settings: Config) -> Iterator[Catalog | None]:
    """None where hsmd never ran."""
    if not (Path(settings.catalog.path) / "data.mdb").exists():
        yield None
        return
    store = open_catalog(settings)
    try:
        yield read_catalog(settings, store)
    finally:
        store.close()


def _homes(catalog: Catalog | None) -> dict[str, int]:
    """Slot of each disc whose magazine is in the library."""
    if catalog is None:
        return {}
    magazines = {name: one for name, one in catalog.magazines.items() if one.present}
    return {
        disc.barcode: magazines[disc.magazine].first_slot + disc.position
        for disc in catalog.discs.values()
        if disc.magazine in magazines
    }


def _check_scratch(catalog: Catalog, scratch: str) -> None:
    """Before anything moves."""
    disc = catalog.discs.get(scratch)
    if disc is not None and disc.state != DiscState.BLANK:
        volume = f", volume {disc.volume}" if disc.volume else ""
        raise CallerError(
            f"disc {scratch} is {disc.state} in the catalog{volume}; choose a blank one"
        )


async def _used_up(catalog: Catalog, scratch: str, clock: Clock) -> None:
    """So that hsmd does not count it as blank any more."""
    disc = catalog.discs.get(scratch)
    if disc is None:
        return
    disc.become(DiscState.FOREIGN)
    disc.note = NOTE
    change = put_history(scratch, clock.now_ns(), HistoryRecord(what="qualify", text=NOTE))
    await catalog.transact(put_record(disc), change)
