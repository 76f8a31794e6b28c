"""Sectors of a disc that may be anything: in bounds, few requests, bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.foreign.entry import HOLE, Run

Read = Callable[[int, int], bytes]
"""First sector and number of sectors to bytes."""
RUN_SECTORS: Final = 32
RUNS_CACHED: Final = 128
"""8 MiB."""
LINK_FACTOR: Final = 4
LINK_SLACK: Final = 1024
"""Blocks of continued descriptors: an honest disc has each once, or once a hard link."""


class Sectors:
    """Reads by bytes; counts what only a loop would use up."""

    def __init__(self, read: Read, total_sectors: int) -> None:
        self._read = read
        self.total = total_sectors
        self._runs: OrderedDict[int, bytes] = OrderedDict()
        self._directory_bytes = total_sectors * SECTOR_BYTES
        self._links = LINK_FACTOR * total_sectors + LINK_SLACK

    @property
    def size_bytes(self) -> int:
        return self.total * SECTOR_BYTES

    def spend_directory(self, size: int, where: str) -> None:
        """Directories do not overlap, so all of them are no larger than the disc."""
        self._directory_bytes -= max(size, 1)
        if self._directory_bytes < 0:
            raise MediumError(f"{where}: directories are larger than the disc: a loop")

    def spend_link(self, where: str) -> None:
        """One more block of a chain."""
        self._links -= 1
        if self._links < 0:
            raise MediumError(f"{where}: more continued descriptors than sectors: a loop")

    def sector(self, number: int, where: str) -> bytes:
        """One sector; MediumError outside the disc."""
        if not 0 <= number < self.total:
            raise MediumError(f"{where}: sector {number} is outside the disc of {self.total}")
        run, position = divmod(number, RUN_SECTORS)
        data = self._runs.get(run)
        if data is None:
            data = self._load(run, number)
        at = position * SECTOR_BYTES
        found = data[at : at + SECTOR_BYTES]
        return found if len(found) == SECTOR_BYTES else self._exactly(number, 1)

    def _load(self, run: int, number: int) -> bytes:
        first = run * RUN_SECTORS
        try:
            data = self._exactly(first, min(RUN_SECTORS, self.total - first))
        except MediumError:
            # A part of it cannot be read: what is asked for perhaps can.
            return bytes((number - first) * SECTOR_BYTES) + self._exactly(number, 1)
        self._runs[run] = data
        if len(self._runs) > RUNS_CACHED:
            self._runs.popitem(last=False)
        return data

    def _exactly(self, sector: int, sectors: int) -> bytes:
        data = bytes(self._read(sector, sectors))
        if len(data) != sectors * SECTOR_BYTES:
            raise MediumError(
                f"sector {sector}: found {len(data)} bytes, expected {sectors * SECTOR_BYTES}; "
                "the image is cut off"
            )
        return data

    def at(self, offset: int, size: int, where: str) -> bytes:
        """Bytes of the disc, from a byte offset."""
        if size < 0 or offset < 0 or offset + size > self.size_bytes:
            raise MediumError(
                f"{where}: bytes {offset} to {offset + size} are outside the disc "
                f"of {self.size_bytes}"
            )
        first, last = offset // SECTOR_BYTES, -(-(offset + size) // SECTOR_BYTES)
        data = b"".join(self.sector(number, where) for number in range(first, last))
        start = offset - first * SECTOR_BYTES
        return data[start : start + size]

    def check(self, runs: tuple[Run, ...], where: str) -> tuple[Run, ...]:
        """The same runs; MediumError where one is outside the disc."""
        for at, length in runs:
            if at != HOLE and (at < 0 or at + length > self.size_bytes):
                raise MediumError(
                    f"{where}: data at bytes {at} to {at + length}, the disc has {self.size_bytes}"
                )
        return runs

    def content(self, runs: tuple[Run, ...], where: str) -> Iterator[bytes]:
        """Bytes of runs in pieces of at most a sector."""
        for at, length in runs:
            done = 0
            while done < length:
                inside = 0 if at == HOLE else (at + done) % SECTOR_BYTES
                step = min(length - done, SECTOR_BYTES - inside)
                yield bytes(step) if at == HOLE else self.at(at + done, step, where)
                done += step
