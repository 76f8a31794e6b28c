"""What the catalog says for a plan of magazines to take out, and the plan in plain words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any, Final

from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    MagazineRecord,
    VolumeRecord,
    VolumeState,
)
from hsmfs.daemon.core import Core
from hsmfs.daemon.exportplan import Copy, Holding, plan_export
from hsmfs.daemon.volumeheat import faded
from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES

HOLDS: Final = (DiscState.VERIFIED, DiscState.IMPORTED, DiscState.BURNED, DiscState.DAMAGED)
UNSETTLED: Final = (DiscState.BURNING, DiscState.BURNED)
MAGAZINES_MAX: Final = 10_000


def export_plan(core: Core, wanted_volumes: Collection[str], count: int) -> dict[str, Any]:
    """For the API; ``wanted_volumes`` have readers. Changes nothing."""
    if not 1 <= count <= MAGAZINES_MAX:
        raise CallerError(f"count: found {count}, expected 1 to {MAGAZINES_MAX}")
    discs: defaultdict[str, list[DiscRecord]] = defaultdict(list)
    for disc in core.catalog.discs.values():
        discs[disc.magazine].append(disc)
    inside = [one for one in core.catalog.magazines.values() if one.present]
    holdings = [_holding(core, one, discs[one.name], wanted_volumes) for one in inside]
    plan = plan_export(holdings, _copies(core), count)
    return {
        "take": [_row(core, one.holding) | {"kept_in": list(one.kept_in)} for one in plan.take],
        "stay": [_row(core, holding) | {"why": why} for holding, why in plan.stay],
    }


def _holding(
    core: Core, record: MagazineRecord, discs: list[DiscRecord], wanted: Collection[str]
) -> Holding:
    volumes = core.catalog.volumes
    held = [d for d in discs if d.state in HOLDS and d.volume in volumes]
    known = [
        volumes[label]
        for label in sorted({disc.volume for disc in held})
        if volumes[label].state != VolumeState.RETIRED
    ]
    now_ns = core.clock.now_ns()
    return Holding(
        name=record.name,
        destination=str(record.outside),
        volumes=tuple(volume.label for volume in known),
        bound=frozenset(volume.label for volume in known if volume.parity is not None),
        blanks=sum(disc.state == DiscState.BLANK for disc in discs),
        discs=len(discs),
        bytes=sum(disc.used_sectors for disc in held) * SECTOR_BYTES,
        heat=sum(faded(volume.read_heat, volume.read_ns, now_ns) for volume in known),
        used_ns=max((max(volume.read_ns, volume.created_ns) for volume in known), default=0),
        obstacle=_obstacle(record, discs, {volume.label for volume in known} & set(wanted)),
    )


def _obstacle(record: MagazineRecord, discs: list[DiscRecord], wanted: set[str]) -> str:
    if record.exporting:
        return "it is being taken out"
    unsettled = [disc.barcode for disc in discs if disc.state in UNSETTLED]
    if unsettled:
        return f"disc {unsettled[0]} is burned or waits for its proof"
    if wanted:
        return f"readers wait for volume {min(wanted)}"
    return ""


def _copies(core: Core) -> dict[str, list[Copy]]:
    """All proved copies, by volume."""
    found: defaultdict[str, list[Copy]] = defaultdict(list)
    for label in core.catalog.volumes:
        for disc in core.catalog.verified_discs(label):
            magazine = core.catalog.magazines.get(disc.magazine)
            if magazine is None or magazine.exporting:
                place = "on its way"
            else:
                place = "" if core.librarian.present(disc) else str(magazine.outside)
            found[label].append(Copy(disc.magazine, place))
    return found


def _row(core: Core, holding: Holding) -> dict[str, Any]:
    reads = (core.catalog.volumes[label].read_ns for label in holding.volumes)
    return {
        "name": holding.name,
        "to": holding.destination,
        "slots": core.catalog.magazines[holding.name].first_slot,
        "bytes": holding.bytes,
        "volumes": list(holding.volumes),
        "discs": holding.discs,
        "blank": holding.blanks,
        "heat": round(holding.heat, 3),
        "last_read": max(reads, default=0) / 1e9,
    }


def note_read(record: VolumeRecord, now_ns: int) -> None:
    """A disc of the volume served readers."""
    record.read_heat = faded(record.read_heat, record.read_ns, now_ns) + 1.0
    record.read_ns = now_ns
