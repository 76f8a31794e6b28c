"""Burn one blank disc: strictly ascending, whole ECC clusters, then closed."""

from __future__ import annotations

from typing import Final

from hsmfs.changer.drive import ECC_SECTORS, TRANSFER_SECTORS_MAX, Drive
from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES

UNIT_BYTES: Final = TRANSFER_SECTORS_MAX * SECTOR_BYTES


class Burn:
    """One burn; chunks of any size come in, whole transfers go out.

    Chunks of whole transfers are passed on as they are; others are gathered.
    """

    def __init__(self, drive: Drive, total_sectors: int, mark: bytes = b"") -> None:
        """Raises MediumError if the disc is not blank or too small.

        ``mark``: whole clusters that are written behind the volume.
        """
        clusters = -(-total_sectors // ECC_SECTORS)
        assert len(mark) % (ECC_SECTORS * SECTOR_BYTES) == 0
        needed = clusters * ECC_SECTORS + len(mark) // SECTOR_BYTES
        info = drive.disc_info()
        if info.state != "blank":
            raise MediumError(f"the disc is {info.state}, expected blank; nothing was written")
        if info.capacity_sectors < needed:
            raise MediumError(
                f"the disc holds {info.capacity_sectors} sectors, the volume has {total_sectors}; "
                "nothing was written"
            )
        self._drive = drive
        self._mark = mark
        self._expected_bytes = total_sectors * SECTOR_BYTES
        self._lba = info.next_writable
        self._rest = bytearray()
        self.written_bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the volume."""
        view = memoryview(data)
        come = self.written_bytes + len(self._rest) + len(view)
        assert come <= self._expected_bytes, "more bytes than the volume's layout says"
        if self._rest:
            take = min(len(view), UNIT_BYTES - len(self._rest))
            self._rest += view[:take]
            view = view[take:]
            if len(self._rest) == UNIT_BYTES:
                self._send_rest()
        whole = len(view) // UNIT_BYTES * UNIT_BYTES
        if whole:
            self._send(view[:whole])
        self._rest += view[whole:]

    def _send_rest(self) -> None:
        rest, self._rest = self._rest, bytearray()
        self._send(memoryview(rest))

    def _send(self, data: memoryview) -> None:
        self._drive.write(self._lba, data)
        self._lba += len(data) // SECTOR_BYTES
        self.written_bytes += len(data)

    def finish(self) -> None:
        """Pad to a whole cluster, flush, close. After this the disc is final."""
        come = self.written_bytes + len(self._rest)
        assert come == self._expected_bytes, (
            f"{come} bytes came, the volume has {self._expected_bytes}"
        )
        self._rest += bytes(-len(self._rest) % (ECC_SECTORS * SECTOR_BYTES))
        if self._rest:
            self._send_rest()
        if self._mark:
            self._send(memoryview(self._mark))
        self._drive.sync()
        self._drive.close_session()
