"""What pools ask of the care for their discs; volumes of no pool get the defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, VolumeRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.policy.evaluate import YEAR_S, Pool

SECOND_NS: Final = 10**9
OVERDUE: Final = 1.5
"""Times the time after which a disc should be read again."""


def pool_of(core: Core, record: VolumeRecord) -> Pool | None:
    """The pool in the policy; None for parity, and for pools that are no more."""
    return core.policy.pools.get(record.pool)


# -- regular reading ----------------------------------------------------------------------


def scrub_s(core: Core, record: VolumeRecord) -> float:
    """Discs of a volume are read again once in so long; 0: never."""
    pool = pool_of(core, record)
    return pool.scrub_s if pool else core.config.care.scrub_years * YEAR_S


def scrub_percent(core: Core, record: VolumeRecord) -> float:
    """So much of a disc is read each time."""
    pool = pool_of(core, record)
    return pool.scrub_percent if pool else core.config.care.scrub_percent


def due_disc(core: Core, is_free: Callable[[DiscRecord], bool]) -> DiscRecord | None:
    """The disc to be read next: never proved since it was taken in first, then the most
    faulty, then the oldest; None while each was read in its time."""
    now_ns = core.clock.now_ns()
    due = (
        disc
        for disc in core.catalog.discs.values()
        if disc.state == DiscState.VERIFIED and _is_due(core, disc, now_ns) and is_free(disc)
    )
    return min(due, key=_urgency, default=None)


def overdue_discs(core: Core) -> list[DiscRecord]:
    """Discs that were not read again in half as much again as their time."""
    now_ns = core.clock.now_ns()
    return [
        disc
        for disc in core.catalog.discs.values()
        if disc.state == DiscState.VERIFIED and _is_due(core, disc, now_ns, OVERDUE)
    ]


def _is_due(core: Core, disc: DiscRecord, now_ns: int, times: float = 1.0) -> bool:
    record = core.catalog.volumes.get(disc.volume)
    every_s = scrub_s(core, record) if record is not None else 0.0
    return every_s > 0 and disc.verified_ns <= now_ns - int(every_s * times * SECOND_NS)


def _urgency(disc: DiscRecord) -> tuple[bool, int, int]:
    return disc.verified_ns > 0, -(disc.read_errors + disc.write_errors), disc.verified_ns


# -- parity -------------------------------------------------------------------------------


def parity_of(core: Core, record: VolumeRecord) -> int:
    """Parity discs that a volume asks of its magazine."""
    pool = pool_of(core, record)
    return pool.parity if pool else core.config.care.parity


def parity_wanted(core: Core, magazine: str) -> int:
    """Parity discs of a magazine: as many as the most careful of its pools asks for; of an
    empty one what all pools ask for."""
    asked = [
        parity_of(core, core.catalog.volumes[disc.volume])
        for disc in core.catalog.discs.values()
        if disc.magazine == magazine
        and disc.volume in core.catalog.volumes
        and core.catalog.volumes[disc.volume].parity is None
        and disc.state not in (DiscState.SUSPECT, DiscState.RETIRED)
    ]
    if asked:
        return max(asked)
    pools = core.policy.pools.values()
    return min((pool.parity for pool in pools), default=core.config.care.parity)


def parity_at_all(core: Core) -> bool:
    """Whether discs leave room, so that parity over them fits on one."""
    pools = core.policy.pools.values()
    return bool(core.config.care.parity or any(pool.parity for pool in pools))


# -- off-site ------------------------------------------------------------------------------


def offsite_of(core: Core, record: VolumeRecord) -> int:
    """Copies of a volume that are to leave for another place."""
    pool = pool_of(core, record)
    return pool.offsite if pool else 0
