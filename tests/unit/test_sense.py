"""The sense table, row by row."""

from __future__ import annotations

import pytest
from support.sensetable import ROWS, parse

from hsmfs.changer import sense as senses
from hsmfs.changer.command import ATTENTIONS_MAX, run
from hsmfs.changer.sense import ANY, TABLE, Action, Sense
from hsmfs.changer.transport.interface import BUSY, CHECK_CONDITION, GOOD, Reply
from hsmfs.errors import HsmError, MediumError, TransientError


@pytest.mark.parametrize(("code", "error", "action"), ROWS, ids=[row[0] for row in ROWS])
def test_a_code_has_its_error_and_action(code: str, error: type[HsmError], action: Action) -> None:
    row = senses.look_up(parse(code))
    assert (row.error, row.action) == (error, action)


def test_every_row_of_the_table_is_tested() -> None:
    hit = set()
    for code, _, _ in ROWS:
        key, asc, ascq = parse(code)
        keys = ((key, asc, ascq), (key, asc, ANY), (key, ANY, ANY))
        hit.update(next(([row] for row in keys if row in TABLE), []))
    assert hit == set(TABLE)


@pytest.mark.parametrize("code", [row[0] for row in ROWS])
def test_fixed_format_is_read_as_it_was_written(code: str) -> None:
    assert senses.decode(senses.encode(parse(code))) == parse(code)


def test_other_formats_and_short_data() -> None:
    assert senses.decode(bytes([0x72, 0x03, 0x11, 0x05, 0, 0, 0, 0])) == (3, 0x11, 5)
    assert senses.decode(bytes([0xF0, 0, 0x23]) + bytes(9) + bytes([0x11, 5])) == (3, 0x11, 5)
    assert senses.look_up(senses.decode(b"")).action is Action.RETRY
    assert senses.look_up(senses.decode(b"\x70\0\x05")).action is Action.RETRY


def test_the_message_says_what_was_tried_and_what_to_do() -> None:
    error = senses.error_of(Sense(3, 0x11, 5), "READ of sectors 7 to 8")
    assert isinstance(error, MediumError)
    assert str(error) == (
        "READ of sectors 7 to 8: unreadable sector (sense 03/11/05); "
        "another copy, charge drive and disc"
    )


class Scripted:
    """A device that answers what it was told to, then GOOD."""

    def __init__(self, *codes: str) -> None:
        self.replies = [Reply(CHECK_CONDITION, senses.encode(parse(code)), b"") for code in codes]
        self.commands = 0

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        self.commands += 1
        return self.replies.pop(0) if self.replies else Reply(GOOD, b"", b"data")

    def close(self) -> None:
        """Nothing to give back."""


def test_unit_attentions_are_consumed_and_the_command_repeated() -> None:
    device = Scripted("06/29/00", "06/28/00")
    assert run(device, "READ", bytes(6)) == b"data"
    assert device.commands == 3


def test_unit_attentions_without_end_are_given_up() -> None:
    device = Scripted(*["06/29/00"] * 100)
    with pytest.raises(TransientError, match="in a row"):
        run(device, "READ", bytes(6))
    assert device.commands == ATTENTIONS_MAX


def test_a_recovered_error_is_no_error() -> None:
    device = Scripted("01/17/01")
    device.replies[0] = device.replies[0]._replace(data=b"recovered")
    assert run(device, "READ", bytes(6)) == b"recovered"
    assert device.commands == 1


def test_what_may_not_be_sent_twice_is_not() -> None:
    device = Scripted("0B/00/00")
    with pytest.raises(TransientError):
        run(device, "WRITE", bytes(6), repeat_aborted=False)
    assert device.commands == 1
    assert run(Scripted("0B/00/00"), "READ", bytes(6)) == b"data"


def test_a_changed_disc_is_told_to_those_who_ask() -> None:
    with pytest.raises(MediumError, match="changed"):
        run(Scripted("06/28/00"), "READ", bytes(6), medium_attention=True)


def test_a_busy_device_is_transient() -> None:
    device = Scripted("00/00/00")
    device.replies[0] = Reply(BUSY, b"", b"")
    with pytest.raises(TransientError, match="busy"):
        run(device, "READ", bytes(6))
