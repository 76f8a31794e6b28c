"""Fill a volume exactly: what fits can be planned, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence

from hsmfs.errors import CallerError
from hsmfs.volume.source import FileSource, VolumeHeader
from hsmfs.volume.tally import Tally


class Packer:
    """Entries of one volume to be, in the order in which they are added."""

    def __init__(self, header: VolumeHeader, capacity_sectors: int) -> None:
        self._tally = Tally(header)
        self._capacity_sectors = capacity_sectors

    @property
    def total_sectors(self) -> int:
        """Size of the volume with what was added so far."""
        return self._tally.geometry().total_sectors

    def add(self, entry: FileSource) -> bool:
        """One entry; further names of a file are better added with it."""
        return self.add_all((entry,))

    def add_all(self, entries: Sequence[FileSource]) -> bool:
        """All of them or none; False too where they cannot be on one volume.

        That is: a path twice, a link to a file that is not there, a file
        where a directory is.
        """
        try:
            return self._tally.add_all(entries, self._capacity_sectors)
        except CallerError:
            return False
