"""An emulated media changer: SMC-3 commands on the library's elements.

The robot grips only what a drive has let go of: a disc leaves a drive after
START STOP UNIT (eject), before that MOVE MEDIUM answers 05/53/02 and the
drive's element shows no access. Libraries that eject by themselves are
emulated with ``"eject_first": false`` in library.json; prevented removal is
respected by both.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from hsmfs.changer import cdb as codes
from hsmfs.changer.emulated.device import (
    IN_PROCESS,
    INVALID_COMMAND,
    INVALID_FIELD,
    RECOVERED,
    CheckCondition,
    Device,
    mode_data,
)
from hsmfs.changer.emulated.drivedevice import REMOVAL_PREVENTED, DriveDevice
from hsmfs.changer.emulated.faults import Faults
from hsmfs.changer.emulated.state import (
    FIRST_DRIVE,
    FIRST_MAILSLOT,
    FIRST_SLOT,
    FIRST_TRANSPORT,
    LibraryState,
    Second,
    StateFile,
)
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.interface import Reply
from hsmfs.clock import Clock

CHANGER: Final = "changer"
"""Its name in faults."""
INVALID_ELEMENT: Final = Sense(0x05, 0x21, 0x01)
DESTINATION_FULL: Final = Sense(0x05, 0x3B, 0x0D)
SOURCE_EMPTY: Final = Sense(0x05, 0x3B, 0x0E)
MOVE_BYTES: Final = 12
TAG_BYTES: Final = 36
DVCID_BYTES: Final = 4 + 34
FULL, ACCESS, SOURCE_VALID = 0x01, 0x08, 0x80


class _Move(NamedTuple):
    """A move that can be made."""

    source: int
    destination: int
    barcode: str


class ChangerDevice(Device):
    """The robot of the library."""

    device_type = 8
    product = b"BD-LIB EMULATED "

    def __init__(
        self,
        state: StateFile,
        drives: Sequence[DriveDevice],
        faults: Faults,
        move_time: Callable[[], None],
        clock: Clock,
    ) -> None:
        super().__init__("EMUC0001", faults, clock)
        self._state = state
        self._drives = drives
        self._move_time = move_time
        self._arm = threading.Lock()

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview,
        data_in_len: int,
        nexus: str = IN_PROCESS,
    ) -> Reply:
        """One command at a time; status is answered while the arm moves."""
        if cdb[:1] != bytes([codes.MOVE_MEDIUM]):
            with self._state.lock:
                return super().execute(cdb, data_out, data_in_len, nexus)
        with self._arm:
            if self._will_move(cdb, nexus):
                self._move_time()
            with self._state.lock:
                return super().execute(cdb, data_out, data_in_len, nexus)

    def _names(self) -> tuple[str, ...]:
        return (CHANGER,)

    def command(self, cdb: bytes, data_out: bytes | memoryview) -> bytes:
        """SMC-3."""
        match cdb[0]:
            case codes.TEST_UNIT_READY:
                return b""
            case codes.INITIALIZE_ELEMENT_STATUS:
                self._fault("initialize")
                return b""
            case codes.PREVENT_ALLOW:
                self._fault("prevent")
                return self._prevent_allow(cdb)
            case codes.READ_ELEMENT_STATUS:
                self._fault("status")
                return self._element_status(cdb)
            case codes.MOVE_MEDIUM:
                self._move(cdb)
                return b""
            case codes.MODE_SENSE_6 | codes.MODE_SENSE_10:
                return self._mode_sense(cdb)
        raise CheckCondition(INVALID_COMMAND)

    def _fault(self, op: str) -> None:
        self._suffer(self._faults.strike((CHANGER,), op))

    # -- moves -----------------------------------------------------------------

    def _will_move(self, cdb: bytes, nexus: str) -> bool:
        with self._state.lock:
            try:
                self._checked(cdb)
            except CheckCondition:
                return False
            known = self._nexuses.get(nexus)
            return known is None or not known.attentions

    def _checked(self, cdb: bytes) -> _Move:
        """What is asked for, if the elements allow it."""
        if len(cdb) < MOVE_BYTES:
            raise CheckCondition(INVALID_FIELD)
        arm, source, destination = struct.unpack_from(">HHH", cdb, 2)
        state = self._state.state
        taken, put = state.place(source), state.place(destination)
        if arm != FIRST_TRANSPORT or taken is None or put is None:
            raise CheckCondition(INVALID_ELEMENT)
        barcode = taken[0][taken[1]]
        if not barcode:
            raise CheckCondition(SOURCE_EMPTY)
        if put[0][put[1]]:
            raise CheckCondition(DESTINATION_FULL)
        drive = self._drive(source)
        if drive is not None and not self._lets_go(drive):
            raise CheckCondition(REMOVAL_PREVENTED)
        return _Move(source, destination, barcode)

    def _lets_go(self, drive: DriveDevice) -> bool:
        return drive.ejected or not (drive.prevented or self._state.state.eject_first)

    def _move(self, cdb: bytes) -> None:
        """The state changes in one step, durable before the answer."""
        addresses = sorted(struct.unpack_from(">HH", cdb, 4))
        with ExitStack() as locks:
            for drive in map(self._drive, addresses):
                if drive is not None:
                    locks.enter_context(drive.lock)
            move = self._checked(cdb)
            fault = self._faults.strike((CHANGER, move.barcode), "move")
            if fault is None or fault.done or fault.sense[0] in RECOVERED:
                self._carry(move)
            self._suffer(fault)

    def _carry(self, move: _Move) -> None:
        from_drive, to_drive = self._drive(move.source), self._drive(move.destination)
        fault = None
        if to_drive is not None:
            fault = self._faults.strike((CHANGER, move.barcode), "move", effects=("double",))

        def change(state: LibraryState) -> None:
            if fault is not None:
                _take_second(state, move)
            _apply(state, move)

        self._state.change(change)
        if from_drive is not None:
            from_drive.remove()
        if to_drive is not None:
            jammed = move.barcode in self._state.state.seconds
            to_drive.insert(move.barcode, jammed=jammed)

    def _drive(self, address: int) -> DriveDevice | None:
        index = address - FIRST_DRIVE
        return self._drives[index] if 0 <= index < len(self._drives) else None

    # -- element status ------------------------------------------------------------

    def _element_status(self, cdb: bytes) -> bytes:
        """Pages by element type (SMC-3 6.11), cut to the allocation length."""
        wanted, tags = cdb[1] & 0x0F, bool(cdb[1] & 0x10) and self._state.state.tags
        start, count = struct.unpack_from(">HH", cdb, 2)
        ids = bool(cdb[6] & 1)
        state = self._state.state
        groups = (
            (codes.TRANSPORT_ELEMENT, FIRST_TRANSPORT, [""]),
            (codes.SLOT_ELEMENT, FIRST_SLOT, state.slots),
            (codes.MAILSLOT_ELEMENT, FIRST_MAILSLOT, state.mailslots),
            (codes.DRIVE_ELEMENT, FIRST_DRIVE, state.drive_discs),
        )
        pages, addresses = b"", list[int]()
        for kind, first, items in groups:
            if wanted not in (codes.ALL_ELEMENTS, kind):
                continue
            begin = max(0, start - first)
            chosen = list(enumerate(items[begin : begin + count - len(addresses)], first + begin))
            if not chosen:
                continue
            addresses += [address for address, _ in chosen]
            pages += self._page(kind, chosen, tags, ids)
        header = struct.pack(">HHB", min(addresses, default=0), len(addresses), 0)
        size = len(pages).to_bytes(3, "big")
        return (header + size + pages)[: int.from_bytes(cdb[7:10], "big")]

    def _page(self, kind: int, elements: Sequence[tuple[int, str]], tags: bool, ids: bool) -> bytes:
        length = 12 + (TAG_BYTES if tags else 0) + (DVCID_BYTES if ids else 4)
        body = b"".join(self._descriptor(kind, a, code, tags, ids) for a, code in elements)
        head = struct.pack(">BBHB", kind, 0x80 if tags else 0, length, 0)
        return head + len(body).to_bytes(3, "big") + body

    def _descriptor(self, kind: int, address: int, code: str, tags: bool, ids: bool) -> bytes:
        flags = (FULL if code else 0) | (ACCESS if self._has_access(kind, address) else 0)
        source = self._state.state.sources.get(code, 0) if code else 0
        valid = SOURCE_VALID if source else 0
        data = struct.pack(">HBBBBBBBBH", address, flags, 0, 0, 0, 0, 0, 0, valid, source)
        if tags:
            data += code.encode().ljust(32) + bytes(4) if code else bytes(TAG_BYTES)
        return data + self._identity(kind, address, ids)

    def _has_access(self, kind: int, address: int) -> bool:
        """Whether the arm could take or put a disc there."""
        if kind != codes.DRIVE_ELEMENT:
            return kind != codes.TRANSPORT_ELEMENT
        drive = self._drive(address)
        return drive is None or drive.disc is None or self._lets_go(drive)

    def _identity(self, kind: int, address: int, ids: bool) -> bytes:
        """DVCID: vendor designator of the drive, padded to one length for the page."""
        if not ids:
            return bytes(4)
        text = b""
        drive = self._drive(address) if kind == codes.DRIVE_ELEMENT else None
        if drive is not None:
            text = drive.serial.encode()
        head = bytes([0x02, 0x00, 0x00, len(text)])
        return (head + text).ljust(DVCID_BYTES, b"\0")

    def _mode_sense(self, cdb: bytes) -> bytes:
        """Element addresses, transport geometry, device capabilities (SMC-3 7.3)."""
        state = self._state.state
        pages = {
            0x1D: struct.pack(
                ">BBHHHHHHHHH", 0x1D, 0x12,
                FIRST_TRANSPORT, 1,
                FIRST_SLOT, len(state.slots),
                FIRST_MAILSLOT if state.mailslots else 0, len(state.mailslots),
                FIRST_DRIVE, len(state.drive_discs),
                0,
            ),
            0x1E: bytes([0x1E, 2, 0, 0]),
            0x1F: _CAPABILITIES,
        }  # fmt: skip
        wanted = cdb[2] & 0x3F
        if wanted == 0x3F:
            return mode_data(cdb, 0, b"".join(pages.values()))
        if wanted not in pages:
            raise CheckCondition(INVALID_FIELD)
        return mode_data(cdb, 0, pages[wanted])


_STORES: Final = 0x0E
"""Discs may stay in slots, mailslots and drives, not on the arm."""
_CAPABILITIES: Final = bytes(
    [0x1F, 0x12, _STORES, 0, _STORES, _STORES, _STORES, _STORES, *bytes(12)]
)
"""Which moves there are, from and to each type; no exchanges."""


def _take_second(state: LibraryState, move: _Move) -> None:
    """The next disc of the magazine sticks to the one that is taken."""
    at = move.source - FIRST_SLOT + 1
    if 0 < at < len(state.slots) and at % state.magazine_slots and state.slots[at]:
        state.seconds[move.barcode] = Second(state.slots[at], FIRST_SLOT + at)
        state.slots[at] = ""


def _apply(state: LibraryState, move: _Move) -> None:
    taken, put = state.place(move.source), state.place(move.destination)
    assert taken is not None and put is not None
    taken[0][taken[1]], put[0][put[1]] = "", move.barcode
    state.sources.pop(move.barcode, None)
    second = state.seconds.pop(move.barcode, None) if move.destination >= FIRST_SLOT else None
    if second is not None:
        at = second.slot - FIRST_SLOT
        state.slots[at if not state.slots[at] else state.slots.index("")] = second.barcode
    if FIRST_DRIVE <= move.destination < FIRST_DRIVE + len(state.drive_discs):
        state.sources[move.barcode] = move.source
