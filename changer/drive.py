"""A BD drive: state of the disc, reading and writing (MMC-6)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from hsmfs.changer import cdb
from hsmfs.changer import sense as senses
from hsmfs.changer.command import SenseError, error_of, run_raw
from hsmfs.changer.identity import TYPE_DRIVE, DeviceId, identify
from hsmfs.changer.sense import Action
from hsmfs.changer.transport.interface import Transport, transfer_bytes_max
from hsmfs.errors import DriveError, HsmError, MediumError, TransientError
from hsmfs.types import SECTOR_BYTES

ECC_SECTORS: Final = 32
"""Sectors of one error correction cluster of a BD (64 KiB)."""
TRANSFER_SECTORS_MAX: Final = 512
"""Sectors in one READ or WRITE: 1 MiB."""
READY_TIMEOUT_S: Final = 120.0
READY_POLL_S: Final = 0.1
INFORMATION_BYTES: Final = 36
TRACK_BYTES: Final = 48
CAPACITY_BYTES: Final = 8
READ_TIMEOUT_S: Final = 120.0
WRITE_TIMEOUT_S: Final = 180.0
FORMAT_TIMEOUT_S: Final = 600.0
FORMATS_BYTES: Final = 252
FORMAT_SPARES: Final = 0x32
"""Format type of a BD-R with spare areas, here with subtype 0."""
NOT_KNOWN: Final = (senses.Sense(0x05, 0x20, 0x00), senses.Sense(0x05, 0x24, 0x00))
"""What a drive answers to a function that it does not have."""
SYNC_TIMEOUT_S: Final = 600.0
CLOSE_TIMEOUT_S: Final = 1800.0
ALLOW_TIMEOUT_S: Final = 15.0
EVENT_BYTES: Final = 8
EVENT_MEDIA: Final = 4
EVENT_NEW_MEDIUM: Final = 2
NO_MEDIUM: Final = (0x02, 0x3A)
NOT_NEXT: Final = (0x05, 0x21, 0x02)
TRAY_OPEN: Final = 0x02
ILLEGAL_REQUEST: Final = 0x05
_STATES: Final = {0: "blank", 1: "incomplete", 2: "complete", 3: "complete"}


class DiscInfo(NamedTuple):
    """The loaded disc."""

    state: str
    """blank, incomplete or complete."""
    capacity_sectors: int
    next_writable: int
    profile: int


class Tray(NamedTuple):
    """What a drive tells of its tray without looking at the disc."""

    present: bool
    """A disc is inside; one that lies on an open tray is not seen."""
    is_open: bool
    """As far as the drive tells."""
    is_new: bool
    """A disc came since it was asked last; told once, and not by all drives."""


class Drive:
    """One drive. Blocking; one thread at a time."""

    def __init__(self, transport: Transport, sleep: Callable[[float], None] = time.sleep) -> None:
        self._transport = transport
        self._sleep = sleep

    @property
    def _sectors_max(self) -> int:
        """Of one command."""
        fitting = transfer_bytes_max(self._transport) // SECTOR_BYTES
        return max(1, min(TRANSFER_SECTORS_MAX, fitting))

    @property
    def _cluster_sectors_max(self) -> int:
        """Of one WRITE: whole error correction clusters, where the host takes so much."""
        sectors = self._sectors_max
        return sectors - sectors % ECC_SECTORS or sectors

    def identity(self) -> DeviceId:
        """Who it is."""
        return identify(self._transport, TYPE_DRIVE)

    def ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait for the disc: MediumError without one, DriveError when it takes too long."""
        waited_s = 0.0
        while True:
            try:
                run_raw(self._transport, cdb.test_unit_ready(), timeout_s=15.0)
                return
            except SenseError as error:
                if senses.look_up(error.sense).action is not Action.WAIT:
                    raise _drive_error(error.sense, "TEST UNIT READY") from None
                if waited_s >= timeout_s:
                    raise DriveError(
                        f"the disc did not become ready in {timeout_s:.0f} s (sense {error.sense})"
                    ) from None
            except TransientError as error:
                raise DriveError(f"TEST UNIT READY: {error}") from error
            self._sleep(READY_POLL_S)
            waited_s += READY_POLL_S

    def tray(self) -> Tray:
        """GET EVENT STATUS NOTIFICATION of the media class (MMC-6 6.6); where a drive has
        none, by TEST UNIT READY."""
        command = cdb.get_event_status(1 << EVENT_MEDIA, EVENT_BYTES)
        try:
            data = run_raw(self._transport, command, b"", EVENT_BYTES)
        except SenseError:
            data = b""
        if len(data) < EVENT_BYTES or data[2] & 0x80 or data[2] & 0x07 != EVENT_MEDIA:
            return self._tray_by_readiness()
        present, is_open = bool(data[5] & 0x02), bool(data[5] & 0x01)
        return Tray(present, is_open, data[4] & 0x0F == EVENT_NEW_MEDIUM)

    def _tray_by_readiness(self) -> Tray:
        try:
            run_raw(self._transport, cdb.test_unit_ready(), timeout_s=15.0)
            return Tray(True, False, False)
        except SenseError as error:
            key, code, qualifier = error.sense
            if (key, code) == NO_MEDIUM:
                return Tray(False, qualifier == TRAY_OPEN, False)
            if senses.look_up(error.sense).action is Action.WAIT:
                return Tray(True, False, False)
            raise _drive_error(error.sense, "TEST UNIT READY") from None

    def prevent_removal(self, prevent: bool) -> None:
        """Lock or unlock the tray; drives that cannot are left alone."""
        try:
            run_raw(self._transport, cdb.prevent_allow(prevent))
        except SenseError as error:
            if error.sense.key != ILLEGAL_REQUEST:
                what = "PREVENT ALLOW MEDIUM REMOVAL"
                raise _drive_error(error.sense, what) from None

    def disc_info(self) -> DiscInfo:
        """State and size of the loaded disc."""
        command = cdb.read_disc_information(INFORMATION_BYTES)
        info = self._ask("READ DISC INFORMATION", command, INFORMATION_BYTES, 3)
        command = cdb.read_track_information(1, TRACK_BYTES)
        track = self._ask("READ TRACK INFORMATION", command, TRACK_BYTES, 28)
        config = self._ask("GET CONFIGURATION", cdb.get_configuration(8), 8, 8)
        next_writable = int.from_bytes(track[12:16], "big")
        size = int.from_bytes(track[24:28], "big")
        return DiscInfo(
            _STATES[info[2] & 3], size, next_writable, int.from_bytes(config[6:8], "big")
        )

    def total_sectors(self) -> int:
        """Of the loaded disc, all sessions: READ CAPACITY tells its last sector."""
        data = self._ask("READ CAPACITY", cdb.read_capacity(), CAPACITY_BYTES, CAPACITY_BYTES)
        return int.from_bytes(data[:4], "big") + 1

    def last_session(self) -> int:
        """First sector of the last session, where volumes of several sessions begin."""
        command = cdb.read_disc_information(INFORMATION_BYTES)
        info = self._ask("READ DISC INFORMATION", command, INFORMATION_BYTES, 7)
        command = cdb.read_track_information(max(1, info[5]), TRACK_BYTES)
        track = self._ask("READ TRACK INFORMATION", command, TRACK_BYTES, 28)
        return int.from_bytes(track[8:12], "big")

    def _ask(self, what: str, command: bytes, length: int, needed: int) -> bytes:
        """A reply of at least so many bytes; less would read as an empty disc."""
        data = self._run(what, command, b"", length, READ_TIMEOUT_S, changed=False)
        if len(data) < needed:
            raise DriveError(f"{what}: {len(data)} bytes came, expected at least {needed}")
        return data

    def read(self, lba: int, sectors: int) -> bytes:
        """Any number of sectors; MediumError where one cannot be read."""
        parts = []
        while sectors > 0:
            count = min(sectors, self._sectors_max)
            what = f"READ of sectors {lba} to {lba + count - 1}"
            command = cdb.read_12(lba, count)
            length = count * SECTOR_BYTES
            data = self._run(what, command, b"", length, READ_TIMEOUT_S)
            if len(data) != length:
                raise DriveError(f"{what}: {len(data)} bytes came, expected {length}")
            parts.append(data)
            lba, sectors = lba + count, sectors - count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, lba: int, data: bytes | memoryview) -> None:
        """Whole sectors at the next writable address."""
        view = memoryview(data)
        while view:
            part = view[: self._cluster_sectors_max * SECTOR_BYTES]
            count = len(part) // SECTOR_BYTES
            self._write(lba, count, part)
            view, lba = view[len(part) :], lba + count

    def _write(self, lba: int, count: int, part: memoryview) -> None:
        what, command = f"WRITE of sectors {lba} to {lba + count - 1}", cdb.write_12(lba, count)
        try:
            self._send(what, command, part, 0, WRITE_TIMEOUT_S, again=False, changed=True)
        except SenseError as refused:
            error = _drive_error(refused.sense, what)
            if refused.sense != NOT_NEXT:
                raise error from None
            found = self.disc_info().next_writable
            raise MediumError(f"{error}: the drive expects sector {found} next") from None

    def _run(
        self,
        what: str,
        command: bytes,
        data: bytes | memoryview,
        length: int,
        timeout_s: float,
        *,
        again: bool = True,
        changed: bool = True,
    ) -> bytes:
        """As ``_send``, but raises the error of the sense: the disc's, or else the drive's."""
        try:
            return self._send(what, command, data, length, timeout_s, again=again, changed=changed)
        except SenseError as error:
            raise _drive_error(error.sense, what) from None

    def _send(
        self,
        what: str,
        command: bytes,
        data: bytes | memoryview,
        length: int,
        timeout_s: float,
        *,
        again: bool = True,
        changed: bool = False,
    ) -> bytes:
        """A command to the drive; SenseError for what it refuses.

        A drive that is still at work (02/04/01, 07, 08) has done nothing with
        the command, so it is sent anew when the drive had time, bounded. One
        that does not answer, after all attempts of the transport, has failed.
        """
        waited_s = 0.0
        while True:
            try:
                return run_raw(
                    self._transport,
                    command,
                    data,
                    length,
                    timeout_s,
                    repeat_aborted=again,
                    medium_attention=changed,
                )
            except SenseError as error:
                if senses.look_up(error.sense).action is not Action.WAIT:
                    raise
                if waited_s >= timeout_s:
                    raise DriveError(
                        f"{what}: still not ready after {timeout_s:.0f} s (sense {error.sense})"
                    ) from None
            except TransientError as error:
                raise DriveError(f"{what}: {error}") from error
            self._sleep(READY_POLL_S)
            waited_s += READY_POLL_S

    def sync(self) -> None:
        """All written sectors on the disc."""
        self._run("SYNCHRONIZE CACHE", cdb.synchronize_cache(), b"", 0, SYNC_TIMEOUT_S)

    def close_session(self) -> None:
        """Close the track and finalize: the disc is complete after.

        Closing its session alone would leave a BD-R appendable. A drive that does not know
        the function closes the session; what the disc is then shows at its next load.
        """
        what, command = "CLOSE TRACK/SESSION", cdb.close_track_session(cdb.CLOSE_TRACK, 1)
        self._run(what, command, b"", 0, CLOSE_TIMEOUT_S, again=False)
        command = cdb.close_track_session(cdb.FINALIZE)
        try:
            self._send(what, command, b"", 0, CLOSE_TIMEOUT_S, again=False)
        except SenseError as error:
            if error.sense not in NOT_KNOWN:
                raise _drive_error(error.sense, what) from None
            command = cdb.close_track_session(cdb.CLOSE_SESSION, 1)
            self._run(what, command, b"", 0, CLOSE_TIMEOUT_S, again=False)

    def format_with_spares(self, *, least: bool = False) -> None:
        """Give a blank BD-R spare areas (MMC-6 6.4): as the drive thinks best, or the least.

        Returns when that is done; MediumError where the disc cannot be formatted.
        """
        what, length = "READ FORMAT CAPACITIES", FORMATS_BYTES
        data = self._ask(what, cdb.read_format_capacities(length), length, 12)
        stop = min(len(data), 4 + data[3])
        rows = [data[at : at + 8] for at in range(12, stop - 7, 8)]
        spares = [row for row in rows if row[4] >> 2 == FORMAT_SPARES]
        if not spares:
            raise MediumError("the drive offers no format with spare areas for this disc")
        chosen = max(spares, key=lambda row: row[:4]) if least else spares[0]
        parameters = cdb.format_list(chosen[:4] + bytes([FORMAT_SPARES << 2]))
        self._run("FORMAT UNIT", cdb.format_unit(), parameters, 0, FORMAT_TIMEOUT_S, again=False)
        self.ready(FORMAT_TIMEOUT_S)
        self.sync()

    def eject(self) -> None:
        """Ready for the robot; DriveError if the drive does not let go.

        Where removal is prevented it is allowed, once. A drive that sees no disc has
        nothing to let go of: what the library sees decides.
        """
        what, command = "START STOP UNIT (eject)", cdb.start_stop(cdb.START_EJECT)
        for attempt in (1, 2):
            try:
                self._send(what, command, b"", 0, READY_TIMEOUT_S)
                return
            except SenseError as error:
                action = senses.look_up(error.sense).action
                if error.sense[:2] == NO_MEDIUM:
                    return
                if action is not Action.ALLOW or attempt == 2:
                    raise DriveError(str(senses.error_of(error.sense, what))) from None
            self._run(
                "PREVENT ALLOW MEDIUM REMOVAL", cdb.prevent_allow(False), b"", 0, ALLOW_TIMEOUT_S
            )

    def load(self) -> None:
        """Draw the disc in and spin it up; MediumError if it is the disc that cannot be."""
        command = cdb.start_stop(cdb.START_LOAD)
        self._run("START STOP UNIT (load)", command, b"", 0, READY_TIMEOUT_S, changed=False)


def _drive_error(sense: senses.Sense, what: str) -> HsmError:
    """What the table blames on the library or on the caller is the drive's fault here: it
    refuses what it must know. So is what may not be sent again."""
    error = error_of(sense, what)
    return error if isinstance(error, MediumError) else DriveError(str(error))
