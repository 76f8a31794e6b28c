"""What the API tells of pools: what the policy says, and what is on discs."""

from __future__ import annotations

from typing import Any

from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.daemon.core import Core
from hsmfs.daemon.discchoice import is_offsite
from hsmfs.daemon.policy.evaluate import Pool
from hsmfs.errors import CallerError

FIELDS = (
    "name",
    "copies",
    "spread",
    "offsite",
    "parity",
    "scrub_s",
    "scrub_percent",
    "reclaim_dead",
    "head_bytes",
    "burn_when_full",
    "burn_max_wait_s",
)


def pools(core: Core) -> list[dict[str, Any]]:
    """Settings of all pools."""
    return [_settings(pool) for pool in core.policy.pools.values()]


def pool(core: Core, name: str) -> dict[str, Any]:
    """One pool, with its volumes and where their copies are; CallerError if there is none."""
    known = core.policy.pools.get(name)
    if known is None:
        names = ", ".join(sorted(core.policy.pools)) or "none"
        raise CallerError(f"pool {name!r} is not in the policy; known: {names}")
    records = [r for r in core.catalog.volumes.values() if r.pool == name]
    labels = {record.label for record in records}
    proved = [
        disc
        for disc in core.catalog.discs.values()
        if disc.volume in labels and disc.state == DiscState.VERIFIED
    ]
    away = [disc for disc in proved if is_offsite(core, disc)]
    lacking = [
        record.label
        for record in records
        if sum(is_offsite(core, d) for d in core.catalog.verified_discs(record.label))
        < known.offsite
    ]
    return _settings(known) | {
        "volumes": len(records),
        "files": sum(record.files for record in records),
        "bytes": sum(record.bytes for record in records),
        "dead_bytes": sum(record.dead_bytes for record in records),
        "copies_verified": len(proved),
        "copies_offsite": len(away),
        "offsite_magazines": sorted({disc.magazine for disc in away}),
        "volumes_without_offsite": sorted(lacking),
    }


def _settings(pool: Pool) -> dict[str, Any]:
    return {name: getattr(pool, name) for name in FIELDS}
