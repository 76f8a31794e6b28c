"""What lies in a drive, told by the disc itself."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hsmfs.changer.drive import Drive
from hsmfs.daemon.foreigndisc import open_disc
from hsmfs.errors import MediumError
from hsmfs.volume.discmark import MARK_SECTORS, DiscMark, read_mark
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import VolumeHeader


class Content(StrEnum):
    """Kinds of discs."""

    BLANK = "blank"
    UNFINISHED = "unfinished"
    """Its burn was cut, or somebody else's that can go on."""
    VOLUME = "volume"
    OTHER = "other"
    """Not written by hsmfs, or not to be read."""


@dataclass(frozen=True, slots=True)
class Recognised:
    """What was found."""

    content: Content
    capacity_sectors: int = 0
    header: VolumeHeader | None = None
    total_sectors: int = 0
    mark: DiscMark | None = None
    fingerprint: str = ""
    """Of a volume of others."""
    why: str = ""
    """Of what is no volume of hsmfs."""


def recognise(drive: Drive) -> Recognised:
    """Look at the loaded disc, which is ready (blocking); nothing is written.

    Raises DriveError; what is wrong with the disc is told by what is returned.
    """
    try:
        info = drive.disc_info()
        if info.state == "blank":
            return Recognised(Content.BLANK, info.capacity_sectors)
        if info.state == "incomplete":
            return Recognised(Content.UNFINISHED, info.capacity_sectors)
    except MediumError as error:
        return Recognised(Content.OTHER, why=str(error))
    try:
        return _volume(drive, info.capacity_sectors)
    except MediumError as error:
        return _volume_of_others(drive, info.capacity_sectors, str(error))


def _volume_of_others(drive: Drive, recorded_sectors: int, why: str) -> Recognised:
    try:
        found, _ = open_disc(drive)
    except MediumError:
        return Recognised(Content.OTHER, recorded_sectors, why=why)
    why = f"volume {found.label!r}, {found.format}"
    return Recognised(Content.OTHER, recorded_sectors, fingerprint=found.fingerprint, why=why)


def _volume(drive: Drive, recorded_sectors: int) -> Recognised:
    reader = VolumeReader(drive.read, recorded_sectors)
    header, _ = reader.header_or_rest()
    total = reader.total_sectors
    mark = None
    if recorded_sectors >= total + MARK_SECTORS:
        mark = read_mark(drive.read, total)
    if mark is not None and (mark.site, mark.volume) != (header.site, header.label):
        mark = None
    return Recognised(Content.VOLUME, recorded_sectors, header, total, mark)
