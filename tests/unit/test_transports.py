"""Transports to devices, and what decorates them: retry, watch, trace, metrics, addresses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from support.libraries import new_library
from support.tgtd import needs_libiscsi

from hsmfs.changer import cdb, sense
from hsmfs.changer.sense import Sense
from hsmfs.changer.transport.address import open_transport, parse_address, parse_portal
from hsmfs.changer.transport.interface import BUSY, CHECK_CONDITION, Reply, transfer_bytes_max
from hsmfs.changer.transport.metrics import CommandMetrics
from hsmfs.changer.transport.retry import ATTEMPTS_MAX, HARMLESS, Retried
from hsmfs.changer.transport.sg import SgTransport
from hsmfs.changer.transport.sgio import SgioTransport
from hsmfs.changer.transport.stack import Stack
from hsmfs.changer.transport.timeouts import TIMEOUT_S, Watched, timeout_of
from hsmfs.changer.transport.trace import Traced
from hsmfs.clock import ManualClock, SystemClock
from hsmfs.errors import CallerError, TransientError

GOOD = Reply(0, b"", b"data", 0)
ALL_CODES = sorted(cdb.NAMES)


class Wire:
    """A device that answers what it is told to; errors are raised."""

    def __init__(self, *answers: Reply | Exception | Callable[[], Reply]) -> None:
        self.answers = list(answers)
        self.commands: list[bytes] = []
        self.closed = False

    def execute(
        self, command: bytes, _out: object = b"", _length: int = 0, _timeout_s: float = 0.0
    ) -> Reply:
        self.commands.append(command)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else answer()

    def close(self) -> None:
        self.closed = True


def command(code: int) -> bytes:
    return bytes([code]) + bytes(11)


@pytest.mark.parametrize("code", ALL_CODES)
def test_only_harmless_commands_are_sent_again_after_a_lost_answer(code: int) -> None:
    wire = Wire(TransientError("lost"), GOOD)
    retried = Retried(wire, ManualClock().sleep)
    if code in HARMLESS:
        assert retried.execute(command(code)) == GOOD
        assert len(wire.commands) == 2
    else:
        with pytest.raises(TransientError, match="lost"):
            retried.execute(command(code))
        assert len(wire.commands) == 1


@pytest.mark.parametrize("code", ALL_CODES)
def test_busy_devices_are_asked_again_but_never_to_move(code: int) -> None:
    wire = Wire(Reply(BUSY, b"", b""), GOOD)
    reply = Retried(wire, ManualClock().sleep).execute(command(code))
    moves = code in (cdb.MOVE_MEDIUM, cdb.EXCHANGE_MEDIUM)
    assert len(wire.commands) == (1 if moves else 2)
    assert (reply.status == BUSY) == moves


def test_retries_end() -> None:
    clock, wire = ManualClock(), Wire(TransientError("lost"))
    with pytest.raises(TransientError, match="lost"):
        Retried(wire, clock.sleep).execute(cdb.inquiry(36))
    busy = Wire(Reply(BUSY, b"", b""))
    assert Retried(busy, clock.sleep).execute(cdb.inquiry(36)).status == BUSY
    assert len(wire.commands) == len(busy.commands) == ATTEMPTS_MAX
    assert 0 < clock.elapsed_s < 5


def test_what_the_device_answers_is_not_retried() -> None:
    error = Reply(CHECK_CONDITION, sense.encode(Sense(3, 0x11, 5)), b"")
    wire = Wire(error, GOOD)
    assert Retried(wire).execute(cdb.read_12(0, 1)) == error
    assert len(wire.commands) == 1


def test_a_transport_that_hangs_is_left_and_taken_up_when_it_ends() -> None:
    let_go = threading.Event()

    def hang() -> Reply:
        let_go.wait()
        return GOOD

    wire = Wire(hang, GOOD)
    watched = Watched(wire, "drive0", grace_s=0.05)
    with pytest.raises(TransientError, match=r"drive0: command a8h hangs"):
        watched.execute(cdb.read_12(0, 1), timeout_s=0.01)
    with pytest.raises(TransientError, match="still hangs in command a8h"):
        watched.execute(cdb.inquiry(36))
    assert len(wire.commands) == 1
    watched.close()
    assert not wire.closed
    let_go.set()
    while len(wire.commands) == 1:
        try:
            assert watched.execute(cdb.inquiry(36)) == GOOD
        except TransientError:
            continue
    watched.close()
    assert wire.closed


def test_errors_pass_the_watch_as_they_are() -> None:
    watched = Watched(Wire(CallerError("no"), GOOD), "x")
    with pytest.raises(CallerError, match="no"):
        watched.execute(cdb.inquiry(36))
    assert watched.execute(cdb.inquiry(36)) == GOOD
    watched.close()


def test_each_command_has_its_time() -> None:
    assert timeout_of(cdb.move_medium(0, 1, 2)) == 300 and timeout_of(command(0xEE)) == 60
    assert timeout_of(cdb.test_unit_ready()) == 15
    assert all(code in cdb.NAMES for code in TIMEOUT_S)


def test_the_trace_keeps_the_last_commands_and_what_was_said(tmp_path: Path) -> None:
    library, clock = new_library(tmp_path), ManualClock()
    traced = Traced(library.drive_transport(0), clock, entries_max=4)
    for _ in range(8):
        traced.execute(cdb.inquiry(36), b"", 36)
    traced.execute(cdb.test_unit_ready())
    traced.execute(cdb.test_unit_ready())
    entries = [entry.as_dict() for entry in traced.entries()]
    assert [entry["command"] for entry in entries] == ["INQUIRY"] * 2 + ["TEST UNIT READY"] * 2
    assert [entry["sense"] for entry in entries] == ["", "", "06/29/00", "02/3A/00"]
    assert entries[3]["meaning"] == "no medium" and entries[3]["time_ns"] == clock.now_ns()
    assert entries[0]["received_bytes"] == 36 and bytes.fromhex(entries[0]["data"])[0] == 5
    assert entries[0]["cdb"] == cdb.inquiry(36).hex()


def test_lost_answers_are_traced_too() -> None:
    traced = Traced(Wire(TransientError("cut off")), ManualClock())
    with pytest.raises(TransientError):
        traced.execute(cdb.write_12(7, 1), b"x" * 2048)
    (entry,) = traced.entries()
    assert (entry.status, entry.error, entry.outcome()) == (-1, "cut off", "lost")
    assert entry.data_out_len == 2048 and entry.data_head == b""


def test_metrics_count_by_command_and_outcome(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    library = new_library(tmp_path)
    stack = Stack("drive0", library.drive_transport(0), SystemClock(), CommandMetrics(registry))
    for _ in range(3):
        stack.top.execute(cdb.test_unit_ready())
    stack.top.execute(command(0xEE))
    stack.top.close()
    text = generate_latest(registry).decode()
    for labels, count in (
        ('command="TEST UNIT READY",device="drive0",outcome="unit attention"', 1),
        ('command="TEST UNIT READY",device="drive0",outcome="not ready"', 2),
        ('command="other",device="drive0",outcome="illegal request"', 1),
    ):
        assert f"hsmd_scsi_commands_total{{{labels}}} {count}.0" in text
    assert [entry.cdb[0] for entry in stack.trace.entries()] == [0, 0, 0, 0xEE]


def test_the_least_transfer_counts_through_all_decorators() -> None:
    wire = Wire(GOOD)
    wire.transfer_bytes_max = 4096  # type: ignore[attr-defined]
    assert transfer_bytes_max(Stack("x", wire, ManualClock()).top) == 4096
    assert transfer_bytes_max(Retried(Wire(GOOD))) == 1 << 20


# -- devices that are not there ----------------------------------------------------------


@pytest.mark.parametrize("kind", [SgTransport, SgioTransport])
def test_a_device_that_vanished_may_come_back(kind: type, tmp_path: Path) -> None:
    if kind is SgioTransport:
        pytest.importorskip("sgio", reason="cython-sgio is an optional package")
    device = kind(str(tmp_path / "sg9"))
    for _ in range(2):
        with pytest.raises(TransientError, match=r"sg9: No such file"):
            device.execute(cdb.inquiry(36), b"", 36)
    device.close()


def test_what_is_no_scsi_device_is_told(tmp_path: Path) -> None:
    for path, words in ((str(tmp_path), "directory"), ("/dev/null", "SG_IO is refused")):
        device = SgTransport(path)
        with pytest.raises(CallerError, match=words):
            device.execute(cdb.inquiry(36), b"", 36)
        device.close()
    (tmp_path / "file").touch()
    with pytest.raises(CallerError, match="no device"):
        SgTransport(str(tmp_path / "file")).execute(cdb.inquiry(36), b"", 36)


def test_sgio_refuses_what_is_no_device() -> None:
    pytest.importorskip("sgio", reason="cython-sgio is an optional package")
    device = SgioTransport("/dev/null")
    with pytest.raises(CallerError, match="Inappropriate ioctl"):
        device.execute(cdb.inquiry(36), b"", 36)
    device.close()


def test_nobody_listens() -> None:
    needs_libiscsi()
    unit = open_transport(parse_address("iscsi://127.0.0.1:1/iqn.a:b/0"))
    with pytest.raises(TransientError, match=r"iscsi://127.0.0.1:1/iqn.a:b/0: no login"):
        unit.execute(cdb.inquiry(36), b"", 36)
    unit.close()


# -- addresses ---------------------------------------------------------------------------


def test_addresses_are_read() -> None:
    assert parse_address("sg:/dev/sg3")[:2] == ("sg", "/dev/sg3")
    assert parse_address("sgio:/dev/sg3")[:2] == ("sgio", "/dev/sg3")
    found = parse_address("iscsi://[::1]:99/iqn.2001-04.com.example:x/12").iscsi
    assert found is not None and found[:3] == ("[::1]:99", "iqn.2001-04.com.example:x", 12)
    assert str(found) == "iscsi://[::1]:99/iqn.2001-04.com.example:x/12"
    assert parse_portal("library") == "library:3260"


@pytest.mark.parametrize(
    "text",
    ["", "sg:", "sg:sg3", "/dev/sg3", "iscsi://host/iqn", "iscsi://host/iqn/x", "iscsi:///i/0",
     "iscsi://host:0/i/0", "iscsi://host:65536/i/0", "iscsi://h/i/16384", "ftp://h/i/0",
     "iscsi://h h/i/0", "sg:/dev/a\0b"],
)  # fmt: skip
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(CallerError, match="expected"):
        parse_address(text)
