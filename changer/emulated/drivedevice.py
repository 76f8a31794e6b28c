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
from hsmfs.changer.emulated import drivepages as pages
from hsmfs.changer.emulated import formatting
from hsmfs.changer.emulated.device import (
    IN_PROCESS,
    INVALID_COMMAND,
    INVALID_FIELD,
    MEDIUM_CHANGED,
    CheckCondition,
    Device,
    mode_data,
)
from hsmfs.changer.emulated.disc import DiscFile
from hsmfs.changer.emulated.faults import Faults
from hsmfs.changer.emulated.pace import Pace
from hsmfs.changer.emulated.state import Timing
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.interface import Reply
from hsmfs.clock import Clock
from hsmfs.types import SECTOR_BYTES

log = structlog.get_logger(__name__)
FORMATTING: Final = Sense(0x02, 0x04, 0x04)
CANNOT_FORMAT: Final = Sense(0x05, 0x30, 0x06)
NO_MEDIUM: Final = Sense(0x02, 0x3A, 0x00)
BECOMING_READY: Final = Sense(0x02, 0x04, 0x01)
OUT_OF_RANGE: Final = Sense(0x05, 0x21, 0x00)
LOAD_FAILED: Final = Sense(0x04, 0x53, 0x00)
NOT_NEXT: Final = Sense(0x05, 0x21, 0x02)
WRITE_PROTECTED: Final = Sense(0x07, 0x27, 0x00)
END_OF_AREA: Final = Sense(0x05, 0x63, 0x00)
REMOVAL_PREVENTED: Final = Sense(0x05, 0x53, 0x02)
INVALID_PARAMETER: Final = Sense(0x05, 0x26, 0x00)
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
        super().__init__(f"EMUD{number:04d}", faults, clock)
        self.name = f"drive{number}"
        self.lock = threading.RLock()
        self.disc: DiscFile | None = None
        self.ejected = False
        self.jammed = False
        """Two discs lie in it."""
        self._discs = discs
        self._capacity = capacity_sectors
        self._realistic = speed == "realistic"
        self._timing = timing
        self._ready_at_s = self._formatted_at_s = 0.0
        self._write_parameters = pages.default_write_parameters()
        self._event = 0
        self._pace = Pace(timing, clock)

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

    def insert(self, barcode: str, *, jammed: bool = False) -> None:
        """The robot put a disc in (or two at once); it needs time to become ready."""
        with self.lock:
            self.disc = DiscFile(self._discs, self._faults.really(barcode), self._capacity)
            self.ejected, self.jammed = False, jammed
            self._spin_up()

    def _spin_up(self) -> None:
        self.attention(MEDIUM_CHANGED)
        self._event = pages.NEW_MEDIUM
        self._pace.settle()
        if self._realistic:
            self._ready_at_s = self._clock.monotonic_s() + self._timing.load_s

    def remove(self) -> None:
        """The robot took the disc."""
        with self.lock:
            if self.disc is not None:
                self.disc.release()
            self.disc = None
            self.ejected = self.jammed = False
            self.allow_all()

    def power_cycle(self) -> None:
        """What was in its buffer is not on the disc, which has to spin up again."""
        super().power_cycle()
        if self.disc is not None:
            self.disc.lose_buffer(pages.BUFFER_BYTES // SECTOR_BYTES)
            if not self.ejected:
                self._spin_up()

    # -- commands --------------------------------------------------------------------

    def command(self, cdb: bytes, data_out: bytes | memoryview) -> bytes:
        """MMC-6; see the table at the end of the class."""
        handler = {
            codes.TEST_UNIT_READY: self._test_unit_ready,
            codes.START_STOP_UNIT: self._start_stop,
            codes.PREVENT_ALLOW: self._prevent,
            codes.GET_CONFIGURATION: self._get_configuration,
            codes.READ_DISC_INFORMATION: self._disc_information,
            codes.READ_TRACK_INFORMATION: self._track_information,
            codes.READ_CAPACITY_10: self._read_capacity,
            codes.SYNCHRONIZE_CACHE: self._synchronize,
            codes.CLOSE_TRACK_SESSION: self._close,
            codes.MODE_SENSE_6: self._mode_sense,
            codes.MODE_SENSE_10: self._mode_sense,
            codes.GET_EVENT_STATUS: self._event_status,
            codes.GET_PERFORMANCE: self._performance,
            codes.READ_FORMAT_CAPACITIES: self._format_capacities,
            codes.READ_TOC: self._contents,
            codes.READ_BUFFER_CAPACITY: self._buffer_capacity,
            codes.READ_DISC_STRUCTURE: self._disc_structure,
            codes.RESERVE_TRACK: self._reserve_track,
            codes.SEND_OPC: self._without_effect,
            codes.SET_STREAMING: self._without_effect,
            codes.SET_CD_SPEED: self._without_effect,
            codes.READ_10: self._read,
            codes.READ_12: self._read,
        }.get(cdb[0])
        if cdb[0] in (codes.WRITE_10, codes.WRITE_12):
            self._write(cdb, data_out)
            return b""
        if cdb[0] == codes.FORMAT_UNIT:
            self._format(cdb, data_out)
            return b""
        if cdb[0] == codes.MODE_SELECT_10:
            self._mode_select(cdb, data_out)
            return b""
        if handler is None:
            raise CheckCondition(INVALID_COMMAND)
        return handler(cdb)

    def _names(self) -> tuple[str, ...]:
        return (self.name, self.disc.barcode) if self.disc else (self.name,)

    def _fault(self, op: str, lba: int = 0, sectors: int = 0, size: int = 0) -> None:
        self._suffer(self._faults.strike(self._names(), op, lba, sectors, size))

    def _ready_disc(self) -> DiscFile:
        if self.disc is None or self.ejected:
            raise CheckCondition(NO_MEDIUM)
        if self.jammed:
            raise CheckCondition(LOAD_FAILED)
        if self._realistic and self._clock.monotonic_s() < self._ready_at_s:
            raise CheckCondition(BECOMING_READY)
        if self._realistic and self._clock.monotonic_s() < self._formatted_at_s:
            raise CheckCondition(FORMATTING)
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
            self._event = pages.MEDIUM_REMOVED
        elif cdb[4] & 1:
            self._fault("load")
            if self.disc is not None and self.ejected:
                self.ejected = False
                self._spin_up()
        return b""

    def _prevent(self, cdb: bytes) -> bytes:
        self._fault("prevent")
        return self._prevent_allow(cdb)

    def _profile(self) -> int:
        if self.disc is None or self.ejected:
            return 0
        return codes.PROFILE_BD_ROM if self.disc.closed else codes.PROFILE_BD_R_SRM

    def _get_configuration(self, cdb: bytes) -> bytes:
        disc = None if self.ejected else self.disc
        data = pages.configuration(
            self._profile(),
            disc is not None and disc.written_sectors > 0,
            self.serial,
            int.from_bytes(cdb[2:4], "big"),
            cdb[1] & 3,
        )
        return data[: int.from_bytes(cdb[7:9], "big")]

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
        if cdb[1] & 3 > 2 or (cdb[1] & 3 == 1 and int.from_bytes(cdb[2:6], "big") != 1):
            raise CheckCondition(INVALID_FIELD)
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
        """MODE SENSE, 6 and 10: header without block descriptors, and pages."""
        page = cdb[2] & 0x3F
        found = pages.mode_pages(page, self._write_parameters, self.prevented)
        if cdb[2] >> 6 == 1 and found is not None:  # what can be changed
            mask = b"\xff" * (len(found) - 2) if page == pages.WRITE_PARAMETERS else b""
            found = found[:2] + mask.ljust(len(found) - 2, b"\0")
        if found is None:
            raise CheckCondition(INVALID_FIELD)
        return mode_data(cdb, self._profile() & 0xFF, found)

    def _mode_select(self, cdb: bytes, data: bytes | memoryview) -> None:
        """The write parameters page can be set; it changes nothing about a BD-R."""
        given = bytes(data)
        if not given:
            return
        page = given[8 + int.from_bytes(given[6:8], "big") :]
        wanted = len(self._write_parameters)
        if page[:2] != self._write_parameters[:2] or len(page) < wanted or cdb[1] & 1:
            raise CheckCondition(INVALID_PARAMETER)
        self._write_parameters = page[:wanted]

    def _performance(self, cdb: bytes) -> bytes:
        sectors = self._capacity if self.disc is not None and not self.ejected else 0
        count = int.from_bytes(cdb[8:10], "big")
        return _known(pages.performance(cdb[10], bool(cdb[1] & 4), sectors, count))

    def _format_capacities(self, cdb: bytes) -> bytes:
        disc = None if self.ejected else self.disc
        sectors, kind = self._capacity, formatting.ABSENT
        if disc is not None:
            used = disc.formatted or disc.written_sectors > 0
            kind = formatting.FORMATTED if used else formatting.UNFORMATTED
            sectors = disc.written_sectors if disc.closed else disc.capacity_sectors
        data = formatting.capacities(sectors, kind)
        return data[: int.from_bytes(cdb[7:9], "big")]

    def _format(self, cdb: bytes, data: bytes | memoryview) -> None:
        """FORMAT UNIT: only a blank disc, only once; it takes its time afterwards."""
        disc = self._ready_disc()
        self._fault("format")
        if disc.written_sectors or disc.formatted:
            raise CheckCondition(CANNOT_FORMAT)
        sectors = formatting.wanted_sectors(cdb, bytes(data), disc.capacity_sectors)
        if sectors is None:
            raise CheckCondition(INVALID_PARAMETER)
        disc.format(sectors)
        if self._realistic:
            self._formatted_at_s = self._clock.monotonic_s() + self._timing.format_s

    def _contents(self, cdb: bytes) -> bytes:
        """A blank disc has none."""
        disc = self._ready_disc()
        if not disc.written_sectors:
            raise CheckCondition(INVALID_FIELD)
        data = _known(pages.contents(cdb[2] & 0x0F, disc.written_sectors, bool(cdb[1] & 2)))
        return data[: int.from_bytes(cdb[7:9], "big")]

    def _buffer_capacity(self, cdb: bytes) -> bytes:
        return pages.buffer_capacity()[: int.from_bytes(cdb[7:9], "big")]

    def _disc_structure(self, cdb: bytes) -> bytes:
        self._ready_disc()
        data = _known(pages.disc_structure(cdb[7]) if cdb[1] & 0x0F == 1 else None)
        return data[: int.from_bytes(cdb[8:10], "big")]

    def _event_status(self, cdb: bytes) -> bytes:
        """Polled only; an event is told once."""
        if not cdb[1] & 1:
            raise CheckCondition(INVALID_FIELD)
        code = 0
        if cdb[4] & 1 << pages.MEDIA_CLASS:
            code, self._event = self._event, 0
        present = self.disc is not None and not self.ejected
        data = pages.event(cdb[4], code, present, self.ejected)
        return data[: int.from_bytes(cdb[7:9], "big")]

    def _without_effect(self, _cdb: bytes) -> bytes:
        """Speeds and calibration: taken, and of no effect here."""
        return b""

    def _reserve_track(self, _cdb: bytes) -> bytes:
        """The one track is all of the disc."""
        disc = self._ready_disc()
        if disc.closed:
            raise CheckCondition(WRITE_PROTECTED)
        return b""

    # -- data --------------------------------------------------------------------------

    def _read(self, cdb: bytes) -> bytes:
        disc = self._ready_disc()
        lba, sectors = codes.address_and_count(cdb)
        if lba + sectors > disc.written_sectors:
            raise CheckCondition(OUT_OF_RANGE)
        self._fault("read", lba, sectors, sectors * SECTOR_BYTES)
        if self._realistic:
            self._pace.read(lba, sectors)
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
        if self._realistic:
            self._pace.write(lba, sectors)
        try:
            disc.write(lba, data)
        except OSError as error:
            log.error("disc image cannot be written", disc=disc.barcode, error=str(error))
            raise CheckCondition(WRITE_ERROR) from error

    def _synchronize(self, _cdb: bytes) -> bytes:
        disc = self._ready_disc()
        self._fault("sync")
        if self._realistic:
            self._pace.flush()
        disc.sync()
        return b""

    def _close(self, cdb: bytes) -> bytes:
        disc = self._ready_disc()
        self._fault("close")
        if self._realistic:
            self._pace.flush()
        function = cdb[2] & 0x07
        if function not in (codes.CLOSE_TRACK, *SESSION_ENDS) or not disc.written_sectors:
            raise CheckCondition(INVALID_FIELD)
        if function in SESSION_ENDS and not disc.closed:
            disc.close_session()
        return b""


def _known(data: bytes | None) -> bytes:
    """What there is an answer to."""
    if data is None:
        raise CheckCondition(INVALID_FIELD)
    return data
