"""One connection of the target, which is one session: login, commands, answers.

The connection's own thread reads. Commands run in a thread for each logical
unit in use, so that a disc is read while another moves; what is malformed ends
the connection and nothing else.
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import structlog

from hsmfs.changer.emulated.iscsi import pdu as pdus
from hsmfs.changer.emulated.iscsi.login import Login, Refused
from hsmfs.changer.emulated.iscsi.pdu import (
    FINAL,
    RESERVED_TAG,
    Pdu,
    PduReader,
    ProtocolError,
    new_header,
    pack,
)
from hsmfs.changer.emulated.iscsi.task import Task, new_task, next_burst, segments, take_data
from hsmfs.changer.emulated.iscsi.text import (
    RECEIVE_BYTES_MAX,
    Parameters,
    format_text,
    negotiate,
    parse_text,
)
from hsmfs.changer.transport.interface import CHECK_CONDITION, Reply
from hsmfs.errors import TransientError

if TYPE_CHECKING:
    from hsmfs.changer.emulated.iscsi.target import IscsiTarget

log = structlog.get_logger(__name__)
COMMANDS_MAX: Final = 64
"""Commands of one connection that are under way at once (the command window)."""
OUT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Data-out of one connection that may be announced at once."""
LOGIN_TIMEOUT_S: Final = 30.0
SEND_TIMEOUT_S: Final = 60
UNDERFLOW: Final = 0x02
COMPLETE, NO_TASK, NO_UNIT, NOT_SUPPORTED = 0, 1, 2, 5
ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, UNIT_RESET, WARM_RESET, COLD_RESET = 1, 2, 4, 5, 6, 7
INVALID_PDU_FIELD, COMMAND_NOT_SUPPORTED = 0x09, 0x05
Work = Callable[[], None]


class Connection:
    """One initiator; ``run`` until it leaves or breaks the protocol."""

    def __init__(self, target: IscsiTarget, sock: socket.socket, number: int) -> None:
        self.nexus = ""
        self.initiator: tuple[str, bytes] | None = None
        self._target = target
        self._socket = sock
        self._number = number
        self._send_lock = threading.Lock()
        self._lock = threading.Lock()
        """Guards tasks and the command window."""
        self._tasks: dict[int, Task] = {}
        self._waiting = 0
        self._workers: dict[int, queue.Queue[Work | None]] = {}
        self._threads: list[threading.Thread] = []
        self._agreed = Parameters()
        self._status_number = 1
        self._expected = 0
        self._transfer_tags = 0
        self._discovery = False

    # -- the thread that reads -------------------------------------------------------

    def run(self) -> None:
        """Serve; errors of the other side are logged and end it."""
        try:
            self._socket.settimeout(LOGIN_TIMEOUT_S)
            units = self._units()
            if self._log_in(units):
                self._socket.settimeout(None)
                for unit in units:
                    if not self._serve(unit):
                        return
        except ProtocolError as error:
            log.info("iSCSI connection ends", connection=self._number, why=str(error))
        except OSError as error:
            log.debug("iSCSI connection is lost", connection=self._number, why=str(error))
        finally:
            self._end()

    def _units(self) -> Iterator[Pdu]:
        reader = PduReader(RECEIVE_BYTES_MAX)
        while data := self._socket.recv(1 << 18):
            yield from reader.feed(data)

    def _log_in(self, units: Iterator[Pdu]) -> bool:
        login = Login(self._target.name, self._target.chap, self._number)
        for unit in units:
            try:
                header, text = login.step(unit)
            except Refused as refused:
                log.info("iSCSI login is refused", status=f"{refused.status:04X}")
                self._send(login.refusal(unit, refused.status))
                return False
            self._expected = login.command_number
            if login.done:
                self._begin(login)
            self._send(header, text)
            if login.done:
                return True
        return False

    def _begin(self, login: Login) -> None:
        self._agreed, self._discovery = login.parameters, login.discovery
        self.nexus = f"{login.initiator},{login.isid.hex()}#{self._number}"
        if not login.discovery:
            self.initiator = (login.initiator, login.isid)
            self._target.reinstate(self)
            self._target.units.join(self.nexus)
        seconds = struct.pack("ll", SEND_TIMEOUT_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)

    def close(self) -> None:
        """Cut it, from any thread; the reading thread ends it then."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _end(self) -> None:
        """Commands that run are waited for, those that wait are dropped."""
        with self._lock:
            for task in self._tasks.values():
                task.aborted = True
        self.close()
        for work in self._workers.values():
            work.put(None)
        for thread in self._threads:
            thread.join()
        if self.nexus:
            self._target.units.leave(self.nexus)
        self._socket.close()
        self._target.gone(self)

    # -- units -------------------------------------------------------------------------

    def _serve(self, unit: Pdu) -> bool:
        """One unit; False after a logout."""
        if unit.opcode not in (pdus.DATA_OUT, pdus.SNACK_REQUEST) and not self._in_turn(unit):
            return True
        if self._discovery and unit.opcode not in _DISCOVERY:
            raise ProtocolError(f"unit {unit.opcode:02X}h in a discovery session")
        match unit.opcode:
            case pdus.SCSI_COMMAND:
                self._command(unit)
            case pdus.DATA_OUT:
                self._data_out(unit)
            case pdus.NOP_OUT:
                self._nop(unit)
            case pdus.TASK_REQUEST:
                self._manage(unit)
            case pdus.TEXT_REQUEST:
                self._text(unit)
            case pdus.LOGOUT_REQUEST:
                self._send(new_header(pdus.LOGOUT_RESPONSE, FINAL, unit.tag))
                return False
            case _:
                header = new_header(pdus.REJECT, FINAL, RESERVED_TAG)
                header[2] = COMMAND_NOT_SUPPORTED
                self._send(header, unit.header)
                raise ProtocolError(f"unit {unit.opcode:02X}h is not known")
        return True

    def _in_turn(self, unit: Pdu) -> bool:
        """Commands beyond the window are ignored (RFC 7143 4.2.2.1); False for those."""
        if unit.immediate:
            return True
        with self._lock:
            ahead = (unit.command_number - self._expected) % (1 << 32)
            if ahead >= 1 << 31 or ahead >= COMMANDS_MAX - self._waiting:
                return False
            if ahead:
                raise ProtocolError(
                    f"command number {unit.command_number}, expected {self._expected}"
                )
            self._expected = (self._expected + 1) % (1 << 32)
        return True

    def _nop(self, unit: Pdu) -> None:
        if unit.tag == RESERVED_TAG:
            return
        header = new_header(pdus.NOP_IN, FINAL, unit.tag, unit.header[8:16])
        struct.pack_into(">I", header, 20, RESERVED_TAG)
        self._send(header, unit.data[: self._agreed.segment_bytes])

    def _text(self, unit: Pdu) -> None:
        """SendTargets, or parameters anew; in one unit."""
        if not unit.final or unit.flags & 0x40:
            raise ProtocolError("text in several units")
        offers = parse_text(unit.data)
        asked = offers.pop("SendTargets", None)
        answer = format_text(negotiate(offers, self._agreed))
        if asked is not None and (asked in ("", "All", self._target.name)):
            answer = format_text(
                {"TargetName": self._target.name, "TargetAddress": f"{self._address()},1"}
            )
        header = new_header(pdus.TEXT_RESPONSE, FINAL, unit.tag)
        struct.pack_into(">I", header, 20, RESERVED_TAG)
        self._send(header, answer)

    def _address(self) -> str:
        """Ours, as this initiator reaches it."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    # -- commands ------------------------------------------------------------------------

    def _command(self, unit: Pdu) -> None:
        task = new_task(unit, self._agreed)
        with self._lock:
            if task.tag in self._tasks or len(self._tasks) >= 2 * COMMANDS_MAX:
                raise ProtocolError(f"task {task.tag:08X}h twice, or too many tasks")
            if sum(len(other.data) for other in self._tasks.values()) > OUT_BYTES_MAX:
                raise ProtocolError("more data-out announced than can be kept")
            self._tasks[task.tag] = task
            self._waiting += task.counted
        if not task.unsolicited:
            self._go_on(task)

    def _data_out(self, unit: Pdu) -> None:
        with self._lock:
            task = self._tasks.get(unit.tag)
        if task is None or (task.complete and not task.unsolicited):
            raise ProtocolError(f"data-out for task {unit.tag:08X}h, which wants none")
        if take_data(task, unit):
            self._go_on(task)

    def _go_on(self, task: Task) -> None:
        """Ask for more data, or let the command run."""
        if task.complete:
            self._queue(task.lun, lambda: self._execute(task))
            return
        self._transfer_tags = (self._transfer_tags + 1) % RESERVED_TAG
        wanted = next_burst(task, self._agreed, self._transfer_tags)
        header = new_header(pdus.READY_TO_TRANSFER, FINAL, task.tag, task.lun_field)
        struct.pack_into(">I", header, 20, task.transfer_tag)
        struct.pack_into(">III", header, 36, task.r2t_number, *wanted)
        task.r2t_number += 1
        self._send(header, counted=False)

    def _queue(self, lun: int, work: Work) -> None:
        """Absent units share one thread."""
        key = lun if self._target.units.find(lun) else -1
        if key not in self._workers:
            work_queue: queue.Queue[Work | None] = queue.Queue(4 * COMMANDS_MAX)
            name = f"iscsi-{self._number}-lun{key}"
            thread = threading.Thread(target=self._work, args=(work_queue,), name=name, daemon=True)
            self._workers[key] = work_queue
            self._threads.append(thread)
            thread.start()
        self._workers[key].put(work)

    def _work(self, work_queue: queue.Queue[Work | None]) -> None:
        while (work := work_queue.get()) is not None:
            try:
                work()
            except (OSError, TransientError) as error:
                log.debug("iSCSI answer is lost", connection=self._number, why=str(error))
                self.close()
            except Exception:
                log.exception("bug: an iSCSI command failed")
                self.close()

    def _execute(self, task: Task) -> None:
        reply = None
        if not task.aborted:
            wanted = task.length if task.reads else 0
            reply = self._target.units.execute(
                task.lun, task.cdb, memoryview(task.data), wanted, self.nexus
            )
        with self._lock:
            self._tasks.pop(task.tag, None)
            self._waiting -= task.counted
            aborted = task.aborted
        if reply is not None and not aborted:
            self._answer(task, reply)

    def _answer(self, task: Task, reply: Reply) -> None:
        number = 0
        for at, length, ends in segments(len(reply.data), self._agreed):
            header = new_header(pdus.DATA_IN, FINAL if ends else 0, task.tag, task.lun_field)
            struct.pack_into(">I", header, 20, RESERVED_TAG)
            struct.pack_into(">II", header, 36, number, at)
            self._send(header, memoryview(reply.data)[at : at + length], counted=False)
            number += 1
        left = task.length - len(reply.data) if task.reads else 0
        flags = FINAL | (UNDERFLOW if left else 0)
        header = new_header(pdus.SCSI_RESPONSE, flags, task.tag)
        header[3] = reply.status
        struct.pack_into(">I", header, 36, number)
        struct.pack_into(">I", header, 44, left)
        sense = b""
        if reply.status == CHECK_CONDITION:
            sense = struct.pack(">H", len(reply.sense)) + reply.sense
        self._send(header, sense)

    # -- task management -------------------------------------------------------------------

    def _manage(self, unit: Pdu) -> None:
        """Answered behind what runs on the unit, so that nothing is done after the answer."""
        function = unit.flags & 0x7F
        resets = function in (WARM_RESET, COLD_RESET)
        if function not in (ABORT_TASK, ABORT_TASK_SET, CLEAR_TASK_SET, UNIT_RESET) and not resets:
            self._managed(unit, NOT_SUPPORTED)
        elif not resets and self._target.units.find(unit.lun) is None:
            self._managed(unit, NO_UNIT)
        elif function == ABORT_TASK and not self._abort(lambda task: task.tag == unit.word(20)):
            self._managed(unit, NO_TASK)
        else:
            if function != ABORT_TASK:
                self._abort(lambda task: resets or task.lun == unit.lun)
            self._queue(unit.lun, lambda: self._reset(unit, function))

    def _abort(self, which: Callable[[Task], bool]) -> bool:
        """Mark tasks; those whose data are still coming end here."""
        with self._lock:
            found = [task for task in self._tasks.values() if which(task)]
            for task in found:
                task.aborted = True
                if not task.complete or task.unsolicited:
                    del self._tasks[task.tag]
                    self._waiting -= task.counted
        return bool(found)

    def _reset(self, unit: Pdu, function: int) -> None:
        if function == UNIT_RESET:
            device = self._target.units.find(unit.lun)
            if device is not None:
                device.reset()
        elif function in (WARM_RESET, COLD_RESET):
            for device in self._target.units.devices:
                device.reset()
        self._managed(unit, COMPLETE)

    def _managed(self, unit: Pdu, response: int) -> None:
        header = new_header(pdus.TASK_RESPONSE, FINAL, unit.tag)
        header[2] = response
        self._send(header)

    # -- answers -----------------------------------------------------------------------------

    def _send(
        self, header: bytearray, data: bytes | memoryview = b"", *, counted: bool = True
    ) -> None:
        """One unit with the numbers of this moment; ``counted``: it has a status number."""
        with self._send_lock:
            with self._lock:
                last = (self._expected + COMMANDS_MAX - self._waiting - 1) % (1 << 32)
                expected = self._expected
            number = 0 if header[0] == pdus.DATA_IN else self._status_number
            struct.pack_into(">III", header, 24, number, expected, last)
            if counted:
                self._status_number = (self._status_number + 1) % (1 << 32)
            for part in pack(header, data):
                if part:
                    self._socket.sendall(part)


_DISCOVERY: Final = (pdus.TEXT_REQUEST, pdus.LOGOUT_REQUEST, pdus.NOP_OUT)
