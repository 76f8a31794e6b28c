"""What care knows of volumes from the catalog alone: proved discs, alarms that are over, blame."""

from __future__ import annotations

from collections import Counter
from typing import Final

import structlog

from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.daemon.core import Core
from hsmfs.daemon.verifyjob import VerifyJob
from hsmfs.errors import MediumError

log = structlog.get_logger(__name__)
OF_DISCS: Final = ("verify-failed", "damaged-copy", "disc-unreadable")
"""Alarms about a disc that are over when its volume has its copies again."""


def proved_discs(core: Core) -> Counter[str]:
    """Proved discs of each volume, without those that are to be retired."""
    volumes = core.catalog.volumes
    return Counter(
        disc.volume
        for disc in core.catalog.discs.values()
        if disc.state == DiscState.VERIFIED
        and disc.volume in volumes
        and disc.barcode not in volumes[disc.volume].refresh
        and not core.catalog.is_missing(disc)
    )


def unproved_discs(core: Core, label: str) -> int:
    """Discs that are burned and wait for their proof."""
    return sum(
        disc.state == DiscState.BURNED and not core.librarian.is_shut_in(disc.barcode)
        for disc in core.catalog.discs_of(label)
    )


def end_alarms(core: Core, label: str) -> None:
    """A volume has its copies: what its bad discs cost is made good. Goes through the alarms,
    of which there are few, not through all discs."""
    alarms = core.alarms
    alarms.clear_text("repair-failed", f"volume {label}:")
    for kind, text in list(alarms.active):
        barcode = text.removeprefix("disc ").partition(":")[0]
        disc = core.catalog.discs.get(barcode) if kind in OF_DISCS else None
        if disc is not None and disc.volume == label:
            alarms.clear_text(kind, f"disc {barcode}:")


def tell_blame(core: Core, job: VerifyJob, drive: str) -> None:
    """A disc that another drive could not read either is to blame, not the first drive."""
    unit = next((unit for unit in core.librarian.units if unit.name == drive), None)
    if unit is None or drive == job.drive:
        return
    if isinstance(job.error, MediumError):
        unit.pardon()
        log.info("the disc is to blame", disc=job.disc.barcode, drive=drive)
    elif job.error is None:
        log.info("the drive is to blame", disc=job.disc.barcode, drive=drive)
