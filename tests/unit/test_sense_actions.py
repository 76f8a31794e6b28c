"""Every row of the sense table at every operation where it can occur ends as documented."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.libraries import CLUSTER, DRIVE, SLOT, content, new_library
from support.sensetable import (
    CHANGER,
    ERRORS,
    MOVES,
    ROWS,
    Case,
    Operation,
    Outcome,
    cases,
    document,
    parse,
)

from hsmfs.changer import cdb
from hsmfs.changer.command import ATTENTIONS_MAX
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, Fault
from hsmfs.changer.library import Changer
from hsmfs.changer.transport.interface import Reply, Transport
from hsmfs.clock import ManualClock
from hsmfs.errors import HsmError

ONCE, FOREVER = 1, 1 << 40
SENT: dict[Operation, tuple[int, str]] = {
    Operation.READY: (cdb.TEST_UNIT_READY, "load"),
    Operation.INFORMATION: (cdb.READ_DISC_INFORMATION, "load"),
    Operation.READ: (cdb.READ_12, "read"),
    Operation.WRITE: (cdb.WRITE_12, "write"),
    Operation.SYNC: (cdb.SYNCHRONIZE_CACHE, "sync"),
    Operation.CLOSE: (cdb.CLOSE_TRACK_SESSION, "close"),
    Operation.LOAD: (cdb.START_STOP_UNIT, "load"),
    Operation.EJECT: (cdb.START_STOP_UNIT, "eject"),
    Operation.STATUS: (cdb.READ_ELEMENT_STATUS, "status"),
    Operation.INITIALIZE: (cdb.INITIALIZE_ELEMENT_STATUS, "initialize"),
    Operation.PREVENT: (cdb.PREVENT_ALLOW, "prevent"),
    Operation.MOVE: (cdb.MOVE_MEDIUM, "move"),
    Operation.MOVE_DONE: (cdb.MOVE_MEDIUM, "move"),
}
"""Command, and the emulated library's name for what fails."""
USUAL = {Operation.CLOSE: 2, Operation.STATUS: 4}
"""Commands of an operation that goes well, where it is not one."""
AGAIN = (Outcome.WAITED, Outcome.REPEATED, Outcome.ALLOWED, Outcome.LOOKED)
counts: Counter[str] = Counter()


class Line:
    """A transport that notes the commands."""

    def __init__(self, device: Transport) -> None:
        self.device = device
        self.codes: list[int] = []

    def execute(
        self,
        command: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        self.codes.append(command[0])
        return self.device.execute(command, data_out, data_in_len, timeout_s)

    def close(self) -> None:
        """Nothing to give back."""


class Rig:
    """A drive with a disc that is partly written, a changer, and another drive."""

    def __init__(self, path: Path) -> None:
        self.library: EmulatedLibrary = new_library(path)
        clock = ManualClock()
        self.drive_line = Line(self.library.drive_transport(0))
        self.changer_line = Line(self.library.changer_transport())
        self.drive = Drive(self.drive_line, clock.sleep)
        self.changer = Changer(self.changer_line, clock.sleep)
        self.changer.move(SLOT, DRIVE)
        self.drive.ready()
        self.drive.write(0, content(CLUSTER))
        self.changer.inventory()

    def line(self, operation: Operation) -> Line:
        return self.changer_line if operation in CHANGER else self.drive_line

    def work(self, operation: Operation) -> Callable[[], object]:
        """The operation, with a proof that it was done."""
        return {
            Operation.READY: self.drive.ready,
            Operation.INFORMATION: self._information,
            Operation.READ: self._read,
            Operation.WRITE: self._write,
            Operation.SYNC: self.drive.sync,
            Operation.CLOSE: self._close,
            Operation.LOAD: self.drive.load,
            Operation.EJECT: self._eject,
            Operation.STATUS: lambda: self.changer.inventory(refresh=True),
            Operation.INITIALIZE: self.changer.initialize,
            Operation.PREVENT: lambda: self.changer.prevent_removal(True),
            Operation.MOVE: self._move,
            Operation.MOVE_DONE: self._move,
        }[operation]

    def _information(self) -> None:
        assert self.drive.disc_info().next_writable == CLUSTER

    def _read(self) -> None:
        assert self.drive.read(0, CLUSTER) == content(CLUSTER)

    def _write(self) -> None:
        self.drive.write(CLUSTER, content(CLUSTER, 2))
        assert self.image == content(CLUSTER) + content(CLUSTER, 2)

    def _close(self) -> None:
        self.drive.close_session()
        assert self.library.drives[0].disc is not None and self.library.drives[0].disc.closed

    def _eject(self) -> None:
        self.drive.eject()

    def _move(self) -> None:
        self.changer.move(SLOT + 1, DRIVE + 1)
        assert self.library.state.drive_discs[1] == "HSM00002"

    @property
    def image(self) -> bytes:
        return self.library.image("HSM00001").read_bytes()


def run(rig: Rig, case: Case, count: int) -> tuple[HsmError | None, list[int]]:
    """The error, if any, and the commands that were sent."""
    code, sense = SENT[case.operation], parse(case.code)
    device = "changer" if case.operation in CHANGER else "drive0"
    done = case.operation is Operation.MOVE_DONE
    rig.library.faults.set(
        [Fault(device=device, op=code[1], sense=tuple(sense), count=count, done=done)]  # type: ignore[arg-type]
    )
    line = rig.line(case.operation)
    line.codes.clear()
    error = None
    try:
        rig.work(case.operation)()
    except HsmError as caught:
        error = caught
    return error, line.codes


def check(rig: Rig, case: Case, outcome: Outcome, count: int) -> None:
    """Error, number of commands, what follows a move, and nothing written that should not be."""
    error, sent = run(rig, case, count)
    assert type(error) is ERRORS.get(outcome, type(None)), error
    times = sent.count(SENT[case.operation][0])
    usual = USUAL.get(case.operation, 1)
    if error is None:
        again = outcome in AGAIN
        assert times == (usual + again if count == ONCE else usual)
        if outcome is Outcome.ALLOWED:
            assert sent == [cdb.START_STOP_UNIT, cdb.PREVENT_ALLOW, cdb.START_STOP_UNIT]
    elif count == ONCE:
        assert times == 1
    if case.operation in MOVES and outcome is not Outcome.DONE:
        at = sent.index(cdb.MOVE_MEDIUM)
        assert sent[at + 1 : at + 5] == [cdb.READ_ELEMENT_STATUS] * 4, "status is read first"
        assert times <= (ATTENTIONS_MAX if outcome is Outcome.REREAD else 2)
    if error is not None:
        assert case.code in str(error) or "in a row" in str(error), error
        assert rig.image == content(CLUSTER)
        if case.operation is Operation.MOVE:
            assert rig.library.state.slots[1] == "HSM00002"
    counts[outcome.value] += 1


@pytest.mark.allow_warnings
@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_code_ends_in_the_documented_action(case: Case, tmp_path: Path) -> None:
    check(Rig(tmp_path / "once"), case, case.once, ONCE)
    check(Rig(tmp_path / "always"), case, case.always, FOREVER)


def test_the_document_has_the_table() -> None:
    found, expected = document()
    assert found == expected, "run: .venv/bin/python tests/support/sensetable.py"


def test_every_operation_and_every_outcome_occurs() -> None:
    every = cases()
    assert {case.operation for case in every} == set(Operation)
    assert {case.once for case in every} | {case.always for case in every} == set(Outcome)


def test_counts_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Last of the module: how many ended how."""
    lines = "\n".join(f"  {number:4d} {words}" for words, number in counts.most_common())
    with capsys.disabled():
        print(
            f"\nsense table: {len(ROWS)} codes, {len(Operation)} operations, {len(cases())} cases, "
            f"each once and for ever, {sum(counts.values())} tried:\n{lines}"
        )
