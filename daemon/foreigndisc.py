"""The loaded disc as a volume of others."""

from __future__ import annotations

from hsmfs.changer.drive import Drive
from hsmfs.daemon.catalogrecords import DiscRecord, VolumeRecord
from hsmfs.errors import MediumError
from hsmfs.volume.foreign.detect import open_foreign
from hsmfs.volume.foreign.entry import ForeignVolume


def open_disc(drive: Drive) -> tuple[ForeignVolume, int]:
    """The volume on the loaded disc, and its size in sectors (blocking)."""
    total = drive.total_sectors()
    return open_foreign(drive.read, total, drive.last_session()), total


def check_fingerprint(drive: Drive, disc: DiscRecord, volume: VolumeRecord) -> None:
    """MediumError where the loaded disc is not the one that was imported (blocking)."""
    found, _ = open_disc(drive)
    expected = volume.foreign
    if expected is None or found.fingerprint != expected.fingerprint:
        raise MediumError(
            f"disc {disc.barcode}: found volume {found.label!r} ({found.format}), expected the "
            f"one that was imported as {volume.label}"
        )
