"""An emulated BD-R drive: MMC-6 commands on the disc that lies in it.

A simplification: a disc has one track in one session. CLOSE TRACK is taken
and changes nothing, CLOSE SESSION (or finalise) ends the disc for good.
"""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Final, Literal

import structlog

from hsmfs.changer import cdb as codes
from hsmfs.changer.emulated.device import (
    IN_PROCESS,
    INVALID_COMMAND,
    INVALID_FIELD,
    MEDIUM_CHANGED,
    CheckCondition,
    Device,
)
from hsmfs.changer.emulated.disc import DiscFile
from hsmfs.changer.emulated.faults import Faults
from hsmfs.changer.emulated.state import Timing
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.interface import Reply
from hsmfs.clock import Clock
from hsmfs.types import SECTOR_BYTES

log = structlog.get_logger(__name__)
NO_MEDIUM: Final = Sense(0x02, 0x3A, 0x00)
BECOMING_READY: Final = Sense(0x02, 0x04, 0x01)
OUT_OF_RANGE: Final = Sense(0x05, 0x21, 0x00)
NOT_NEXT: Final = Sense(0x05, 0x21, 0x02)
WRITE_PROTECTED: Final = Sense(0x07, 0x27, 0x00)
END_OF_AREA: Final = Sense(0x05, 0x63, 0x00)
REMOVAL_PREVENTED: Final = Sense(0x05, 0x53, 0x02)
WRITE_ERROR: Final = Sense(0x03, 0x0C, 0x00)
SESSION_ENDS: Final = (codes.CLOSE_SESSION, 0x05, 0x06)
"""CLOSE TRACK/SESSION functions that end the session of a BD-R (MMC-6 6.3.3)."""

Speed = Literal["instant", "realistic"]


class DriveDevice(Device):
    """One drive. The library puts discs in and takes them out."""

    device_type = 5
    product = b"BD-R EMULATED   "

    def __init__(
        self,
        number: int,
        discs: Path,
        capacity_sectors: int,
        faults: Faults,
        clock: Clock,
        speed: Speed,
        timing: Timing,
    ) -> None:
        super().__init__(f"EMUD{number:04d}")
        self.name = f"drive{number}"
        self.lock = threading.RLock()
        self.disc: DiscFile | None = None
        self.ejected = False
        self._discs = discs
        self._capacity = capacity_sectors
        self._faults = faults
        self._clock = clock
        self._realistic = speed == "realistic"
        self._timing = timing
        self._ready_at_s = 0.0
        self._position = 0

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview,
        data_in_len: int,
        nexus: str = IN_PROCESS,
    ) -> Reply:
        """One command at a time."""
        with self.lock:
            return super().execute(cdb, data_out, data_in_len, nexus)

    # -- discs come and go (called by the library) ---------------------------------

    def insert(self, barcode: str) -> None:
        """The robot put a disc in; it needs time to become ready."""
        with self.lock:
            self.disc = DiscFile(self._discs, barcode, self._capacity)
            self.ejected = False
            self._spin_up()

    def _spin_up(self) -> None:
        self.attention(MEDIUM_CHANGED)
        self._position = 0
        if self._realistic:
            self._ready_at_s = self._clock.monotonic_s() + self._timing.load_s

    def remove(self) -> None:
        """The robot took the disc."""
        with self.lock:
            if self.disc is not None:
                self.disc.release()
            self.disc = None
            self.ejected = False
            self.allow_all()

    # -- commands --------------------------------------------------------------------

    def command(self, cdb: bytes, data_out: bytes | memoryview) -> bytes:
        """MMC-6; see the table at the end of the class."""
        handler = {
            codes.TEST_UNIT_READY: self._test_unit_ready,
            codes.START_STOP_UNIT: self._start_stop,
            codes.PREVENT_ALLOW: self._prevent_allow,
            codes.GET_CONFIGURATION: self._get_configuration,
            codes.READ_DISC_INFORMATION: self._disc_information,
            codes.READ_TRACK_INFORMATION: self._track_information,
            codes.READ_CAPACITY_10: self._read_capacity,
            codes.SYNCHRONIZE_CACHE: self._synchronize,
            codes.CLOSE_TRACK_SESSION: self._close,
            codes.MODE_SENSE_10: self._mode_sense,
            codes.READ_10: self._read,
            codes.READ_12: self._read,
        }.get(cdb[0])
        if cdb[0] in (codes.WRITE_10, codes.WRITE_12):
            self._write(cdb, data_out)
            return b""
        if handler is None:
            raise CheckCondition(INVALID_COMMAND)
        return handler(cdb)

    def _names(self) -> tuple[str, ...]:
        return (self.name, self.disc.barcode) if self.disc else (self.name,)

    def _fault(self, op: str, lba: int = 0, sectors: int = 0, size: int = 0) -> None:
        fault = self._faults.strike(self._names(), op, lba, sectors, size)
        if fault is not None:
            raise CheckCondition(Sense(*fault.sense))

    def _ready_disc(self) -> DiscFile:
        if self.disc is None or self.ejected:
            raise CheckCondition(NO_MEDIUM)
        if self._realistic and self._clock.monotonic_s() < self._ready_at_s:
            raise CheckCondition(BECOMING_READY)
        return self.disc

    def _test_unit_ready(self, _cdb: bytes) -> bytes:
        self._fault("load")
        self._ready_disc()
        return b""

    def _start_stop(self, cdb: bytes) -> bytes:
        if cdb[4] & 3 == codes.START_EJECT:
            self._fault("eject")
            if self.prevented:
                raise CheckCondition(REMOVAL_PREVENTED)
            self.ejected = True
        elif cdb[4] & 1:
            self._fault("load")
            if self.disc is not None and self.ejected:
                self.ejected = False
                self._spin_up()
        return b""

    def _profile(self) -> int:
        if self.disc is None or self.ejected:
            return 0
        return codes.PROFILE_BD_ROM if self.disc.closed else codes.PROFILE_BD_R_SRM

    def _get_configuration(self, cdb: bytes) -> bytes:
        """Profile list feature (MMC-6 5.3.1) with the current profile."""
        current = self._profile()
        profiles = b"".join(
            struct.pack(">HBB", profile, int(profile == current), 0)
            for profile in (codes.PROFILE_BD_R_SRM, codes.PROFILE_BD_ROM)
        )
        feature = struct.pack(">HBB", 0, 0x03, len(profiles)) + profiles
        header = struct.pack(">IHH", 4 + len(feature), 0, current)
        return (header + feature)[: int.from_bytes(cdb[7:9], "big")]

    def _disc_information(self, cdb: bytes) -> bytes:
        """Standard disc information (MMC-6 6.21.3)."""
        self._fault("load")
        disc = self._ready_disc()
        session = {0: 0, 1: 1, 2: 3}[disc.status]
        data = bytearray(34)
        struct.pack_into(">HB", data, 0, 32, session << 2 | disc.status)
        data[3:7] = bytes([1, 1, 1, 1])
        data[7] = 0x20
        return bytes(data)[: int.from_bytes(cdb[7:9], "big")]

    def _track_information(self, cdb: bytes) -> bytes:
        """Track information block (MMC-6 6.27.3) of the one track."""
        self._fault("load")
        disc = self._ready_disc()
        free = 0 if disc.closed else disc.capacity_sectors - disc.written_sectors
        size = disc.written_sectors if disc.closed else disc.capacity_sectors
        data = bytearray(48)
        struct.pack_into(">HBB", data, 0, 46, 1, 1)
        data[5] = 0x04
        data[6] = (0x40 if disc.status == 0 else 0) | 0x01
        data[7] = (0 if disc.closed else 0x01) | (0x02 if disc.written_sectors else 0)
        next_writable = 0 if disc.closed else disc.written_sectors
        last = max(0, disc.written_sectors - 1)
        struct.pack_into(">IIIIII", data, 8, 0, next_writable, free, 0, size, last)
        return bytes(data)[: int.from_bytes(cdb[7:9], "big")]

    def _read_capacity(self, _cdb: bytes) -> bytes:
        disc = self._ready_disc()
        return struct.pack(">II", max(0, disc.written_sectors - 1), SECTOR_BYTES)

    def _mode_sense(self, cdb: bytes) -> bytes:
        """Header alone, or with the write parameters page (MMC-6 7.2)."""
        header_bytes = 8
        page = b""
        if cdb[2] & 0x3F in (0x05, 0x3F):
            page = bytes([0x05, 0x32]) + bytes(0x32)
        header = struct.pack(">HBB4x", header_bytes - 2 + len(page), self._profile() & 0xFF, 0)
        return (header + page)[: int.from_bytes(cdb[7:9], "big")]

    # -- data --------------------------------------------------------------------------

    def _take_time(self, lba: int, sectors: int, bytes_s: float) -> None:
        if not self._realistic:
            return
        seek_s = 0.0 if lba == self._position else self._timing.seek_s
        self._position = lba + sectors
        self._clock.sleep(seek_s + sectors * SECTOR_BYTES / bytes_s)

    def _read(self, cdb: bytes) -> bytes:
        disc = self._ready_disc()
        lba, sectors = codes.address_and_count(cdb)
        if lba + sectors > disc.written_sectors:
            raise CheckCondition(OUT_OF_RANGE)
        self._fault("read", lba, sectors, sectors * SECTOR_BYTES)
        self._take_time(lba, sectors, self._timing.read_bytes_s)
        return disc.read(lba, sectors)

    def _write(self, cdb: bytes, data: bytes | memoryview) -> None:
        disc = self._ready_disc()
        lba, sectors = codes.address_and_count(cdb)
        if disc.closed:
            raise CheckCondition(WRITE_PROTECTED)
        if len(data) != sectors * SECTOR_BYTES:
            raise CheckCondition(INVALID_FIELD)
        if lba != disc.written_sectors:
            raise CheckCondition(NOT_NEXT)
        if lba + sectors > disc.capacity_sectors:
            raise CheckCondition(END_OF_AREA)
        self._fault("write", lba, sectors, len(data))
        self._take_time(lba, sectors, self._timing.write_bytes_s)
        try:
            disc.write(lba, data)
        except OSError as error:
            log.error("disc image cannot be written", disc=disc.barcode, error=str(error))
            raise CheckCondition(WRITE_ERROR) from error

    def _synchronize(self, _cdb: bytes) -> bytes:
        disc = self._ready_disc()
        self._fault("sync")
        disc.sync()
        return b""

    def _close(self, cdb: bytes) -> bytes:
        disc = self._ready_disc()
        self._fault("close")
        function = cdb[2] & 0x07
        if function not in (codes.CLOSE_TRACK, *SESSION_ENDS) or not disc.written_sectors:
            raise CheckCondition(INVALID_FIELD)
        if function in SESSION_ENDS and not disc.closed:
            disc.close_session()
        return b""
