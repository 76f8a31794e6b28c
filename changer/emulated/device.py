"""What both kinds of emulated device share: attentions, sense, INQUIRY."""

from __future__ import annotations

import struct
from collections import deque
from typing import Final

import structlog

from hsmfs.changer import cdb as codes
from hsmfs.changer import sense as senses
from hsmfs.changer.emulated.faults import Fault, Faults
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.interface import CHECK_CONDITION, GOOD, Reply
from hsmfs.clock import Clock
from hsmfs.errors import TransientError

log = structlog.get_logger(__name__)
ATTENTIONS_KEPT_MAX: Final = 8
IN_PROCESS: Final = ""
"""The initiator that is this process."""
POWER_ON: Final = Sense(0x06, 0x29, 0x00)
UNIT_RESET: Final = Sense(0x06, 0x29, 0x03)
MEDIUM_CHANGED: Final = Sense(0x06, 0x28, 0x00)
INVALID_COMMAND: Final = Sense(0x05, 0x20, 0x00)
INVALID_FIELD: Final = Sense(0x05, 0x24, 0x00)
INTERNAL_FAILURE: Final = Sense(0x04, 0x44, 0x00)
RECOVERED: Final = (0x00, 0x01)
"""Sense keys of commands that were done."""
NO_SENSE: Final = Sense(0x00, 0x00, 0x00)
VENDOR: Final = b"HSMFS   "
REVISION: Final = b"0001"
_GROUP_BYTES: Final = (6, 10, 10, 1, 16, 12, 1, 1)
"""Length of a command by the top three bits of its code (SPC-4 4.3.2)."""


class CheckCondition(Exception):
    """The command ends with this sense."""

    def __init__(self, sense: Sense) -> None:
        super().__init__(str(sense))
        self.sense = sense


class Nexus:
    """What a device keeps for one initiator (an I_T nexus): attentions, sense, prevention."""

    def __init__(self) -> None:
        self.attentions: deque[Sense] = deque([POWER_ON], maxlen=ATTENTIONS_KEPT_MAX)
        self.last = NO_SENSE
        self.prevents = False

    def attention(self, sense: Sense) -> None:
        """To be reported once."""
        if sense not in self.attentions:
            self.attentions.append(sense)


class Device:
    """Common command handling; subclasses implement ``command``."""

    device_type = 0
    product = b"EMULATED        "

    def __init__(self, serial: str, faults: Faults, clock: Clock) -> None:
        self.serial = serial
        self._faults = faults
        self._clock = clock
        self._nexuses = {IN_PROCESS: Nexus()}
        self._nexus = self._nexuses[IN_PROCESS]
        """Of the command that runs now."""
        self._recovered: Sense | None = None
        """What the command that runs now got over by itself; told with its data."""

    # -- initiators ----------------------------------------------------------------

    def join(self, nexus: str) -> None:
        """An initiator logged in: to it the device was just switched on."""
        self._nexuses[nexus] = Nexus()

    def leave(self, nexus: str) -> None:
        """It is gone, and with it what it prevented."""
        self._nexuses.pop(nexus, None)

    def reset(self) -> None:
        """A logical unit reset: nothing is prevented any more, all are told."""
        self.allow_all()
        self.attention(UNIT_RESET)

    @property
    def prevented(self) -> bool:
        """Whether any initiator prevents the removal of the medium."""
        return any(nexus.prevents for nexus in list(self._nexuses.values()))

    def allow_all(self) -> None:
        """Nobody prevents any more."""
        for nexus in list(self._nexuses.values()):
            nexus.prevents = False

    def attention(self, sense: Sense) -> None:
        """To be reported once to each initiator, with its next command."""
        for nexus in list(self._nexuses.values()):
            nexus.attention(sense)

    @property
    def _attentions(self) -> deque[Sense]:
        return self._nexus.attentions

    # -- commands ------------------------------------------------------------------

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview,
        data_in_len: int,
        nexus: str = IN_PROCESS,
    ) -> Reply:
        """One command; what the host's disk refuses is a fault of the device.

        TransientError where its answer is lost, or the device's power goes.
        """
        fault = self._faults.on_the_way(self._names(), cdb)
        if fault is None:
            return self._execute(cdb, data_out, data_in_len, nexus)
        if fault.effect == "slow":
            self._clock.sleep(fault.delay_s)
            return self._execute(cdb, data_out, data_in_len, nexus)
        if fault.done:
            self._execute(cdb, data_out, data_in_len, nexus)
        if fault.effect == "power":
            self.power_cycle()
        raise TransientError(f"{self.serial}: no answer ({fault.effect}, emulated)")

    def _names(self) -> tuple[str, ...]:
        """By which faults know it."""
        return ()

    def power_cycle(self) -> None:
        """Off and on again: what it kept for initiators is gone."""
        self.allow_all()
        self.attention(POWER_ON)

    def _execute(
        self, cdb: bytes, data_out: bytes | memoryview, data_in_len: int, nexus: str
    ) -> Reply:
        self._nexus = self._nexuses.get(nexus) or self._nexuses[IN_PROCESS]
        self._recovered = None
        try:
            data = self._answer(cdb, data_out)[:data_in_len]
        except CheckCondition as check:
            return self._check(check.sense, data_in_len)
        except OSError as error:
            log.error("emulated device failed", device=self.serial, error=str(error))
            return self._check(INTERNAL_FAILURE, data_in_len)
        if self._recovered is not None:
            return self._check(self._recovered, data_in_len)._replace(
                data=data, resid=data_in_len - len(data)
            )
        return Reply(GOOD, b"", data, data_in_len - len(data))

    def _suffer(self, fault: Fault | None) -> None:
        """A fault strikes: the command fails, or is done and tells of a recovered error."""
        if fault is None:
            return
        sense = Sense(*fault.sense)
        if sense.key not in RECOVERED:
            raise CheckCondition(sense)
        self._recovered = sense

    def _check(self, sense: Sense, data_in_len: int) -> Reply:
        self._nexus.last = sense
        return Reply(CHECK_CONDITION, senses.encode(sense), b"", data_in_len)

    def _answer(self, cdb: bytes, data_out: bytes | memoryview) -> bytes:
        """INQUIRY and REQUEST SENSE go before attentions (SAM-5 5.14)."""
        if not cdb or len(cdb) < _GROUP_BYTES[cdb[0] >> 5]:
            raise CheckCondition(INVALID_FIELD)
        if cdb[0] == codes.INQUIRY:
            return self._inquiry(cdb)
        if cdb[0] == codes.REQUEST_SENSE:
            return self._request_sense()[: cdb[4]]
        if self._attentions and cdb[0] != codes.GET_EVENT_STATUS:
            raise CheckCondition(self._attentions.popleft())
        return self.command(cdb, data_out)

    def _prevent_allow(self, cdb: bytes) -> bytes:
        """Each initiator prevents for itself (SPC-4 6.18)."""
        self._nexus.prevents = bool(cdb[4] & 1)
        return b""

    def _request_sense(self) -> bytes:
        """The oldest attention, else the sense of the last command; then it is gone."""
        sense = self._attentions.popleft() if self._attentions else self._nexus.last
        self._nexus.last = NO_SENSE
        return senses.encode(sense)

    def command(self, cdb: bytes, data_out: bytes | memoryview) -> bytes:
        """Data-in of a command of this kind of device; raises CheckCondition."""
        raise CheckCondition(INVALID_COMMAND)

    def _inquiry(self, cdb: bytes) -> bytes:
        length = int.from_bytes(cdb[3:5], "big")
        if not cdb[1] & 1:
            if cdb[2]:
                raise CheckCondition(INVALID_FIELD)
            head = bytes([self.device_type, 0x80, 0x06, 0x02, 31, 0, 0, 0])
            return (head + VENDOR + self.product + REVISION)[:length]
        pages = {
            codes.VPD_SUPPORTED: bytes(
                [codes.VPD_SUPPORTED, codes.VPD_SERIAL, codes.VPD_DEVICE_ID]
            ),
            codes.VPD_SERIAL: self.serial.encode(),
            codes.VPD_DEVICE_ID: self.designator(),
        }
        if cdb[2] not in pages:
            raise CheckCondition(INVALID_FIELD)
        body = pages[cdb[2]]
        return (struct.pack(">BBH", self.device_type, cdb[2], len(body)) + body)[:length]

    def designator(self) -> bytes:
        """T10 vendor id designator in ASCII (SPC-4 7.8.6.4)."""
        text = VENDOR + self.product + self.serial.encode()
        return bytes([0x02, 0x01, 0x00, len(text)]) + text


def mode_data(cdb: bytes, medium: int, pages: bytes) -> bytes:
    """A reply to MODE SENSE, 6 or 10 bytes: header without block descriptors, pages."""
    if cdb[0] == codes.MODE_SENSE_6:
        header = bytes([min(255, 3 + len(pages)), medium, 0, 0])
        return (header + pages)[: cdb[4]]
    header = struct.pack(">HB5x", 6 + len(pages), medium)
    return (header + pages)[: int.from_bytes(cdb[7:9], "big")]
