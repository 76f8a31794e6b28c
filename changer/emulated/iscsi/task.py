"""One SCSI command on its way: the data that come for it, and its place in the queue. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from hsmfs.changer.emulated.iscsi.pdu import Pdu, ProtocolError
from hsmfs.changer.emulated.iscsi.text import Parameters

READ, WRITE = 0x40, 0x20
DATA_BYTES_MAX: Final = 16 * 1024 * 1024
"""Most data of one command."""


class Wanted(NamedTuple):
    """A burst to ask for (R2T)."""

    offset: int
    length: int


@dataclass
class Task:
    """A command, with its data-out as far as they have come."""

    tag: int
    lun: int
    lun_field: bytes
    cdb: bytes
    length: int
    """Expected data transfer length."""
    reads: bool
    data: bytearray
    counted: bool
    """Whether it takes a place in the command window."""
    unsolicited: bool = False
    """Data-out that nobody asked for are still coming."""
    received: int = 0
    burst_end: int = 0
    transfer_tag: int = -1
    r2t_number: int = 0
    aborted: bool = False

    @property
    def complete(self) -> bool:
        """All data-out are here."""
        return self.received >= len(self.data)

    def take(self, data: bytes) -> None:
        """The next data-out; they come in order."""
        end = self.received + len(data)
        if end > len(self.data):
            raise ProtocolError(f"{end} bytes of data-out, {len(self.data)} were announced")
        self.data[self.received : end] = data
        self.received = end


def new_task(unit: Pdu, agreed: Parameters) -> Task:
    """From a SCSI Command unit; ProtocolError where flags, lengths and data disagree."""
    length, writes, reads = unit.word(20), unit.flags & WRITE, unit.flags & READ
    if length > DATA_BYTES_MAX:
        raise ProtocolError(f"a command with {length} bytes of data, at most {DATA_BYTES_MAX}")
    if unit.data and (not writes or not agreed.immediate_data):
        raise ProtocolError("data in a command that may have none")
    if len(unit.data) > agreed.first_burst_bytes:
        raise ProtocolError("more immediate data than the first burst may have")
    if not unit.final and (not writes or agreed.initial_r2t):
        raise ProtocolError("data that nobody asked for, and none were agreed on")
    task = Task(
        unit.tag,
        unit.lun,
        unit.header[8:16],
        unit.header[32:48],
        length,
        bool(reads) and not writes,
        bytearray(length if writes else 0),
        counted=not unit.immediate,
        unsolicited=not unit.final,
    )
    task.burst_end = min(length, agreed.first_burst_bytes)
    task.take(unit.data)
    return task


def take_data(task: Task, unit: Pdu) -> bool:
    """Data-out for a task; whether a burst, asked for or not, has ended."""
    if unit.word(40) != task.received:
        raise ProtocolError(f"data-out at {unit.word(40)}, expected {task.received}")
    if task.unsolicited != (unit.word(20) == 0xFFFFFFFF):
        raise ProtocolError("data-out with a wrong transfer tag")
    if not task.unsolicited and unit.word(20) != task.transfer_tag:
        raise ProtocolError(f"data-out with transfer tag {unit.word(20)}, none such was given")
    task.take(unit.data)
    if task.received > task.burst_end:
        raise ProtocolError(f"data-out up to {task.received}, the burst ends at {task.burst_end}")
    if not unit.final:
        return False
    if not task.unsolicited and task.received != task.burst_end:
        raise ProtocolError(f"a burst ends at {task.received}, expected {task.burst_end}")
    task.unsolicited = False
    return True


def next_burst(task: Task, agreed: Parameters, transfer_tag: int) -> Wanted:
    """What to ask for next."""
    length = min(agreed.burst_bytes, len(task.data) - task.received)
    task.burst_end = task.received + length
    task.transfer_tag = transfer_tag
    return Wanted(task.received, length)


def segments(size: int, agreed: Parameters) -> Iterator[tuple[int, int, bool]]:
    """Data-in in units: offset, length, whether a sequence ends (RFC 7143 11.7.1)."""
    at = burst = 0
    while at < size:
        length = min(agreed.segment_bytes, agreed.burst_bytes - burst, size - at)
        burst += length
        ends = burst >= agreed.burst_bytes or at + length >= size
        yield at, length, ends
        at, burst = at + length, 0 if ends else burst
