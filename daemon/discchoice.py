"""Which blank discs a volume is burned to: in different magazines, off-site copies in those
that leave."""

from __future__ import annotations

from hsmfs.daemon.care import IN_USE
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, VolumeRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.poolcare import offsite_of


def is_offsite(core: Core, disc: DiscRecord) -> bool:
    """Whether a disc belongs to a magazine that is meant to leave, or has left."""
    magazine = core.catalog.magazines.get(disc.magazine)
    return magazine is not None and magazine.offsite


def is_lost_to(core: Core, disc: DiscRecord) -> bool:
    """Whether a disc that still waits for its proof is out of reach: in a dead drive."""
    return disc.state != DiscState.VERIFIED and core.librarian.is_shut_in(disc.barcode)


def copies_left(core: Core, record: VolumeRecord) -> tuple[int, int]:
    """Copies that a volume lacks at hand, and off-site."""
    have = _in_use(core, record)
    away = sum(is_offsite(core, disc) for disc in have)
    wanted = min(offsite_of(core, record), record.copies - 1)
    return max(0, record.copies - wanted - (len(have) - away)), max(0, wanted - away)


def choose_discs(core: Core, record: VolumeRecord, count: int, kept: set[str]) -> list[DiscRecord]:
    """Blank discs, each in a magazine that has no copy of the volume yet; those for the
    copies at hand first. ``kept`` are for parity."""
    if record.magazine:
        return _blanks_of(core, record)[:count]
    here_left, away_left = copies_left(core, record)
    here = min(count, here_left)
    avoid = {disc.magazine for disc in _in_use(core, record)}
    chosen = _pick(core, record, here, avoid, kept, away=False)
    return chosen + _pick(core, record, min(count - here, away_left), avoid, kept, away=True)


def _in_use(core: Core, record: VolumeRecord) -> list[DiscRecord]:
    return [
        disc
        for disc in core.catalog.discs_of(record.label)
        if disc.state in IN_USE
        and disc.barcode not in record.refresh
        and not is_lost_to(core, disc)
        and not core.catalog.is_missing(disc)
    ]


def _pick(
    core: Core, record: VolumeRecord, count: int, avoid: set[str], kept: set[str], *, away: bool
) -> list[DiscRecord]:
    """Up to so many; their magazines join ``avoid``."""
    chosen: list[DiscRecord] = []
    while len(chosen) < count:
        fitting = [
            disc
            for disc in core.librarian.blanks(avoid, core.reserved | kept)
            if is_offsite(core, disc) == away and _fits(disc, record)
        ]
        if not fitting:
            break
        chosen.append(fitting[0])
        avoid.add(fitting[0].magazine)
    return chosen


def _fits(disc: DiscRecord, record: VolumeRecord) -> bool:
    return not disc.capacity_sectors or disc.room_sectors >= record.total_sectors


def _blanks_of(core: Core, record: VolumeRecord) -> list[DiscRecord]:
    """Blank discs of the magazine to which a parity volume belongs, the last first."""
    blanks = core.librarian.blanks(set(), core.reserved)
    return [
        disc
        for disc in reversed(blanks)
        if disc.magazine == record.magazine and _fits(disc, record)
    ]
