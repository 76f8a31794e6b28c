"""A media changer: inventory and moves (SMC-3)."""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import structlog

from hsmfs.changer import cdb, sense
from hsmfs.changer.command import ATTENTIONS_MAX, SenseError, run_raw
from hsmfs.changer.identity import TYPE_CHANGER, DeviceId, identify
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.interface import Transport, transfer_bytes_max
from hsmfs.changer.transport.timeouts import timeout_of
from hsmfs.errors import LibraryError, TransientError
from hsmfs.types import ElementAddress

log = structlog.get_logger(__name__)
STATUS_BYTES: Final = 0xFFFFF
STATUS_COMMANDS_MAX: Final = 4096
"""Commands for the elements of one type, where one answer holds few of them."""
SHORT_BYTES_MAX: Final = 8
"""So much less than it says a changer may send without being asked for the rest."""
BUSY_POLL_S: Final = 0.5
STATUS_TIMEOUT_S: Final = 120.0
INITIALIZE_TIMEOUT_S: Final = 1800.0
MOVE_TIMEOUT_S: Final = 300.0
ELEMENTS_MAX: Final = 0xFFFF
ELEMENT_BYTES_MIN: Final = 12
TAG_BYTES: Final = 36
ILLEGAL_REQUEST: Final = 0x05
_KINDS: Final = {
    cdb.TRANSPORT_ELEMENT: "transport",
    cdb.SLOT_ELEMENT: "slot",
    cdb.MAILSLOT_ELEMENT: "mailslot",
    cdb.DRIVE_ELEMENT: "drive",
}
_KIND_OF: Final = {name: kind for kind, name in _KINDS.items()}


class Element(NamedTuple):
    """One element as READ ELEMENT STATUS shows it."""

    address: ElementAddress
    kind: str
    full: bool
    barcode: str | None
    source: ElementAddress | None
    accessible: bool
    drive_serial: str | None


class Inventory(NamedTuple):
    """All elements by kind, in the order of their addresses."""

    slots: tuple[Element, ...]
    drives: tuple[Element, ...]
    transports: tuple[Element, ...]
    mailslots: tuple[Element, ...]

    def find(self, address: int) -> Element | None:
        """The element at an address."""
        for elements in self:
            at = _place(elements, address)
            if at is not None:
                return elements[at]
        return None

    def with_element(self, element: Element) -> Inventory:
        """The same with another state of an element that is known."""
        changed = []
        for elements in self:
            at = _place(elements, element.address)
            if at is not None:
                elements = (*elements[:at], element, *elements[at + 1 :])
            changed.append(elements)
        return Inventory(*changed)


def _place(elements: tuple[Element, ...], address: int) -> int | None:
    at = bisect_left(elements, address, key=lambda element: element.address)
    return at if at < len(elements) and elements[at].address == address else None


class Changer:
    """The robot. Blocking; one thread at a time."""

    def __init__(self, transport: Transport, sleep: Callable[[float], None] = time.sleep) -> None:
        self._transport = transport
        self._sleep = sleep
        self._inventory: Inventory | None = None

    def inquiry(self) -> DeviceId:
        """Who it is."""
        return identify(self._transport, TYPE_CHANGER)

    def inventory(self, refresh: bool = False) -> Inventory:
        """Element status; each type is asked for by itself, as some changers want."""
        if self._inventory is None or refresh:
            found = {kind: tuple(self._elements(kind)) for kind in _KINDS}
            self._inventory = Inventory(
                found[cdb.SLOT_ELEMENT],
                found[cdb.DRIVE_ELEMENT],
                found[cdb.TRANSPORT_ELEMENT],
                found[cdb.MAILSLOT_ELEMENT],
            )
        return self._inventory

    def _elements(self, kind: int) -> list[Element]:
        """All of one type, asked for in as many commands as the answers need."""
        found: dict[ElementAddress, Element] = {}
        start = said = 0
        for _ in range(STATUS_COMMANDS_MAX):
            data = self._status(kind, start)
            part = {element.address: element for element in parse_elements(data)}
            fresh = part.keys() - found.keys()
            found.update(part)
            said = said or (int.from_bytes(data[2:4], "big") if len(data) >= 8 else 0)
            told = int.from_bytes(data[5:8], "big") + 8 if len(data) >= 8 else 0
            if not fresh or told <= len(data) + SHORT_BYTES_MAX:
                break
            start = max(fresh) + 1
        if len(found) < said:
            raise LibraryError(
                f"READ ELEMENT STATUS of {_KINDS[kind]}s: the library says that it has {said}, and "
                f"tells of {len(found)}; nothing is believed of it"
            )
        return [found[address] for address in sorted(found)]

    def _status(self, kind: int, start: int, count: int = ELEMENTS_MAX) -> bytes:
        size = min(STATUS_BYTES, transfer_bytes_max(self._transport))
        command = cdb.read_element_status(kind, start, count, size)
        what = f"READ ELEMENT STATUS of {_KINDS[kind]}s"
        try:
            return self._send(what, command, size, STATUS_TIMEOUT_S)
        except SenseError as error:
            if error.sense[:2] in ((0x05, 0x24), (0x05, 0x21)):
                return b""  # no elements of this type
            raise LibraryError(str(sense.error_of(error.sense, what))) from None

    def _send(self, what: str, command: bytes, length: int, timeout_s: float) -> bytes:
        """A command that may be sent again: a changer that is still at work (after power-on, or
        when a door was closed) is waited for, bounded. SenseError for what it refuses."""
        waited_s = 0.0
        while True:
            try:
                return run_raw(self._transport, command, b"", length, timeout_s)
            except SenseError as error:
                if sense.look_up(error.sense).action is not sense.Action.WAIT:
                    raise
                if waited_s >= timeout_s:
                    raise LibraryError(
                        f"{what}: still not ready after {timeout_s:.0f} s (sense {error.sense})"
                    ) from None
            except TransientError as error:
                raise LibraryError(f"{what}: {error}") from error
            self._sleep(BUSY_POLL_S)
            waited_s += BUSY_POLL_S

    def initialize(self) -> None:
        """Let the robot look into all elements (may take half an hour)."""
        what, command = "INITIALIZE ELEMENT STATUS", cdb.initialize_element_status()
        try:
            self._send(what, command, 0, INITIALIZE_TIMEOUT_S)
        except SenseError as error:
            raise LibraryError(str(sense.error_of(error.sense, what))) from None
        finally:
            self._inventory = None

    def prevent_removal(self, prevent: bool) -> None:
        """Lock or unlock the door; changers that cannot are left alone."""
        what, command = "PREVENT ALLOW MEDIUM REMOVAL", cdb.prevent_allow(prevent)
        try:
            self._send(what, command, 0, timeout_of(command))
        except SenseError as error:
            if error.sense.key != ILLEGAL_REQUEST:
                raise LibraryError(str(sense.error_of(error.sense, what))) from None

    def move(self, source: int, destination: int) -> None:
        """Move a disc; after an error all elements are read before anything else.

        Raises LibraryError if the disc did not arrive. A move is sent once; only one that a
        unit attention kept from being looked at is sent anew, if both elements are as before.
        """
        before = self.inventory()
        if self._move(before, source, destination):
            self._inventory = self._after(before, source, destination)

    def _after(self, before: Inventory, *addresses: int) -> Inventory | None:
        """Both elements are asked for, not all of thousands; None where it is better to."""
        found = before
        for address in addresses:
            known = before.find(address)
            if known is None:
                return None
            try:
                data = self._status(_KIND_OF[known.kind], address, 1)
            except LibraryError:
                return None
            now = next(parse_elements(data), None)
            if now is None or now.address != address:
                return None
            found = found.with_element(now)
        return found

    def _move(self, before: Inventory, source: int, destination: int) -> bool:
        """Whether it was done at once: then no other element has changed."""
        arm = int(before.transports[0].address) if before.transports else 0
        wanted = before.find(source)
        command = cdb.move_medium(arm, source, destination)
        try:
            for number in range(ATTENTIONS_MAX):
                attention = self._move_once(command, source, destination, wanted)
                if attention is None:
                    return number == 0
                self._compare(source, destination, wanted, attention)
            raise LibraryError(
                f"MOVE MEDIUM {source} to {destination}: {ATTENTIONS_MAX} unit attentions in a row"
            )
        finally:
            self._inventory = None

    def _move_once(
        self, command: bytes, source: int, destination: int, wanted: Element | None
    ) -> Sense | None:
        """None if it is done; a unit attention, with which nothing was done."""
        try:
            run_raw(
                self._transport,
                command,
                timeout_s=MOVE_TIMEOUT_S,
                repeat_aborted=False,
                repeat_attention=False,
            )
        except SenseError as error:
            row = sense.look_up(error.sense)
            if row.action is sense.Action.REPEAT:
                return error.sense
            why = f"{row.meaning} (sense {error.sense})"
            refused = error.sense.key == ILLEGAL_REQUEST
            self._judge(source, destination, wanted, why, refused=refused)
        except TransientError as error:
            self._judge(source, destination, wanted, str(error), refused=False)
        return None

    def _compare(
        self, source: int, destination: int, wanted: Element | None, attention: Sense
    ) -> None:
        """After a unit attention: LibraryError unless the elements are as the move wants them."""
        now = self.inventory(refresh=True)
        before, after = now.find(source), now.find(destination)
        if _disc_of(before) != _disc_of(wanted) or (after is not None and after.full):
            raise LibraryError(
                f"MOVE MEDIUM {source} to {destination}: {sense.look_up(attention).meaning} "
                f"(sense {attention}), and the elements are not what they were; nothing was moved"
            )

    def _judge(
        self, source: int, destination: int, wanted: Element | None, why: str, *, refused: bool
    ) -> None:
        """Done after all only if this very disc is where it should be."""
        try:
            now = self.inventory(refresh=True)
        except LibraryError as error:
            raise LibraryError(
                f"MOVE MEDIUM {source} to {destination}: {why}; where the disc is now is "
                f"not known: {error}"
            ) from error
        before, after = now.find(source), now.find(destination)
        if not refused and wanted is not None and before is not None and after is not None:
            arrived = wanted.full and not before.full and after.full
            same = after.barcode == wanted.barcode if wanted.barcode else after.source == source
            if arrived and same:
                log.warning("move reported an error but was done", why=why)
                return
        told = ", ".join(
            f"element {element.address} is {'full' if element.full else 'empty'}"
            for element in (before, after)
            if element is not None
        )
        raise LibraryError(
            f"MOVE MEDIUM {source} to {destination}: {why}; {told}; "
            "look at the library, then hsm library ls"
        )


def _disc_of(element: Element | None) -> tuple[bool, str | None] | None:
    return None if element is None else (element.full, element.barcode)


def parse_elements(data: bytes) -> Iterator[Element]:
    """Elements of READ ELEMENT STATUS data (SMC-3 6.11); short data is tolerated.

    An element whose tail alone is missing counts (tgtd sends 8 bytes too few);
    its drive's serial is not known then.
    """
    if len(data) < 8:
        return
    end = min(len(data), 8 + int.from_bytes(data[5:8], "big"))
    at = 8
    while at + 8 <= end:
        kind, flags, length = struct.unpack_from(">BBH", data, at)
        page_end = min(end, at + 8 + int.from_bytes(data[at + 5 : at + 8], "big"))
        at += 8
        if length < ELEMENT_BYTES_MIN:
            return
        needed = ELEMENT_BYTES_MIN + (TAG_BYTES if flags & 0x80 else 0)
        while at + min(length, needed) <= page_end:
            yield _element(kind, bool(flags & 0x80), data[at : min(at + length, page_end)])
            at += length
        at = page_end


def _element(kind: int, tags: bool, data: bytes) -> Element:
    address, flags = struct.unpack_from(">HB", data)
    valid, source = struct.unpack_from(">BH", data, 9)
    barcode, rest = None, data[12:]
    if tags and len(rest) >= 36:
        barcode = rest[:32].decode("ascii", "replace").strip(" \0") or None
        rest = rest[36:]
    serial = None
    if kind == cdb.DRIVE_ELEMENT and len(rest) >= 4 and 0 < rest[3] <= len(rest) - 4:
        text = rest[4 : 4 + rest[3]].decode("ascii", "replace").strip(" \0")
        serial = text.split()[-1] if text else None
    return Element(
        ElementAddress(address),
        _KINDS.get(kind, "unknown"),
        bool(flags & 1),
        barcode,
        ElementAddress(source) if valid & 0x80 else None,
        bool(flags & 8) or kind == cdb.TRANSPORT_ELEMENT,
        serial,
    )
