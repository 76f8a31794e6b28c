"""The emulator's iSCSI target against initiators that are wrong, mad or gone."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.libraries import CLUSTER, content, new_library, sense_of, settle
from support.tgtd import needs_libiscsi

from hsmfs.changer import cdb
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.changer.emulated.iscsi import IscsiTarget, pdu
from hsmfs.changer.emulated.iscsi.connection import COMMANDS_MAX
from hsmfs.changer.emulated.iscsi.login import Chap, Login, Refused
from hsmfs.changer.emulated.iscsi.pdu import Pdu, PduReader, ProtocolError, new_header, pack
from hsmfs.changer.emulated.iscsi.task import Task, new_task, next_burst, segments, take_data
from hsmfs.changer.emulated.iscsi.text import Parameters, format_text, negotiate, parse_text
from hsmfs.changer.identity import identify
from hsmfs.changer.library import Changer
from hsmfs.changer.transport.interface import GOOD
from hsmfs.changer.transport.iscsi import IscsiAddress, IscsiTransport
from hsmfs.errors import CallerError, TransientError

DATA_MAX = 4096
NAMES = {"InitiatorName": "iqn.test:a", "SessionType": "Normal"}
FULL_FEATURE, OPERATIONAL = 3, 1


def raw(header: bytes | bytearray, data: bytes = b"") -> bytes:
    return b"".join(bytes(part) for part in pack(bytearray(header), data))


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[EmulatedLibrary, IscsiTarget]]:
    library = new_library(tmp_path_factory.mktemp("target"), mailslots=1)
    with IscsiTarget(library) as target:
        yield library, target


def unit(target: IscsiTarget, lun: int = 0, user: str = "", secret: str = "") -> IscsiTransport:
    needs_libiscsi()
    address = IscsiAddress(target.portal, target.name, lun, user, secret)
    return IscsiTransport(address, lambda _seconds: None)


class Initiator:
    """Bytes by hand."""

    def __init__(self, target: IscsiTarget, isid: int = 1) -> None:
        host, port = target.portal.rsplit(":", 1)
        self.target, self.isid = target, isid
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.reader, self.units = PduReader(1 << 20), list[Pdu]()

    def send(self, header: bytes | bytearray, data: bytes = b"") -> None:
        self.socket.sendall(raw(header, data))

    def receive(self) -> Pdu | None:
        """The next unit; None once the target has closed the connection."""
        while not self.units:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.units += self.reader.feed(data)
        return self.units.pop(0)

    def log_in(self, **keys: str) -> Pdu | None:
        header = new_header(pdu.LOGIN_REQUEST | 0x40, 0x80 | OPERATIONAL << 2 | FULL_FEATURE, 7)
        header[8:14] = self.isid.to_bytes(6, "big")
        text = {**NAMES, "TargetName": self.target.name, **keys}
        self.send(header, format_text(text))
        return self.receive()

    def command(
        self, number: int, cdb_bytes: bytes, length: int = 0, flags: int = 0xC1, lun: int = 0,
        data: bytes = b"", tag: int = 0,
    ) -> None:  # fmt: skip
        header = new_header(pdu.SCSI_COMMAND, flags, tag or number + 100, pdu.lun_bytes(lun))
        struct.pack_into(">II", header, 20, length, number)
        header[32:48] = cdb_bytes.ljust(16, b"\0")
        self.send(header, data)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def initiator(served: tuple[EmulatedLibrary, IscsiTarget]) -> Iterator[Initiator]:
    found = Initiator(served[1])
    yield found
    found.close()


def works(target: IscsiTarget) -> bool:
    device = unit(target)
    try:
        return identify(device).serial == "EMUC0001"
    finally:
        device.close()


# -- units and text ----------------------------------------------------------------------


@given(st.binary(max_size=600), st.data())
def test_any_bytes_are_units_or_an_error_however_they_are_cut(
    data: bytes, draw: st.DataObject
) -> None:
    def outcome(parts: list[bytes]) -> tuple[list[Pdu], bool]:
        reader, found = PduReader(DATA_MAX), list[Pdu]()
        try:
            for part in parts:
                for one in reader.feed(part):
                    found.append(one)
        except ProtocolError:
            return found, True
        return found, False

    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=5)))
    parts = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert outcome([data]) == outcome(parts)


@given(
    st.lists(
        st.tuples(st.binary(min_size=48, max_size=48), st.binary(max_size=DATA_MAX)), max_size=4
    )
)
def test_units_that_were_packed_are_read_again(units: list[tuple[bytes, bytes]]) -> None:
    def plain(header: bytes) -> bytearray:
        return bytearray(header[:4] + b"\0" + header[5:])

    stream = b"".join(raw(plain(header), data) for header, data in units)
    read = list(PduReader(DATA_MAX).feed(stream))
    assert [one.data for one in read] == [data for _header, data in units]
    for one, (header, _data) in zip(read, units, strict=True):
        assert one.header[8:] == header[8:] and one.lun >= -1


@given(st.binary(max_size=400))
def test_any_text_is_pairs_or_an_error(data: bytes) -> None:
    try:
        found = parse_text(data)
    except ProtocolError:
        return
    assert parse_text(format_text(found)) == found


OPERATIONAL_KEYS = st.sampled_from(
    ["MaxBurstLength", "FirstBurstLength", "MaxRecvDataSegmentLength", "InitialR2T",
     "ImmediateData", "MaxOutstandingR2T", "ErrorRecoveryLevel", "HeaderDigest", "X-Else"]
)  # fmt: skip
VALUES = st.one_of(
    st.integers(-9, 1 << 33).map(str), st.sampled_from(["Yes", "No", "None,CRC32C", "", "0x200"])
)


@given(st.dictionaries(OPERATIONAL_KEYS, VALUES))
def test_whatever_is_offered_the_agreed_lengths_can_be_used(offers: dict[str, str]) -> None:
    agreed = Parameters()
    answers = negotiate(offers, agreed)
    assert 512 <= agreed.first_burst_bytes <= agreed.burst_bytes <= 1 << 20
    assert 512 <= agreed.segment_bytes <= 1 << 20
    assert answers.get("X-Else", "NotUnderstood") == "NotUnderstood"
    assert answers.get("HeaderDigest") in (None, "None", "Reject")


@given(st.integers(0, 5 << 20), st.integers(512, 1 << 20), st.integers(512, 1 << 20))
def test_data_in_is_cut_without_gaps(size: int, segment: int, burst: int) -> None:
    agreed = Parameters(segment_bytes=segment, burst_bytes=burst)
    at = run = 0
    for offset, length, ends in segments(size, agreed):
        assert offset == at and 0 < length <= segment
        at, run = at + length, run + length
        assert run <= burst and ends == (run == burst or at == size)
        run = 0 if ends else run
    assert at == size


@given(st.integers(1, 1 << 18), st.booleans(), st.booleans(), st.integers(1, 40_000), st.data())
def test_data_out_arrive_whole(
    size: int, r2t: bool, immediate: bool, step: int, draw: st.DataObject
) -> None:
    agreed = Parameters(
        initial_r2t=r2t, immediate_data=immediate, burst_bytes=65536, first_burst_bytes=8192
    )
    whole = random.Random(size).randbytes(size)
    first = min(size, draw.draw(st.integers(0, 8192))) if immediate else 0
    unsolicited = not r2t and first < min(size, 8192)
    header = new_header(pdu.SCSI_COMMAND, 0x20 | (0 if unsolicited else 0x80), 5)
    struct.pack_into(">I", header, 20, size)
    task = new_task(Pdu(bytes(header), whole[:first]), agreed)
    tag = 0xFFFFFFFF

    def burst(task: Task, end: int) -> None:
        while task.received < end:
            length = min(step, end - task.received)
            out = new_header(pdu.DATA_OUT, 0x80 if task.received + length == end else 0, 5)
            struct.pack_into(">I", out, 20, tag)
            struct.pack_into(">I", out, 40, task.received)
            part = whole[task.received : task.received + length]
            ended = take_data(task, Pdu(bytes(out), part))
            assert ended == (task.received == end)

    if unsolicited:
        burst(task, min(size, 8192))
    while not task.complete:
        tag += 1 - (1 << 32) if tag == 0xFFFFFFFF else 1
        wanted = next_burst(task, agreed, tag)
        assert wanted.offset == task.received
        burst(task, wanted.offset + wanted.length)
    assert bytes(task.data) == whole


# -- the whole target --------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_any_bytes_end_a_connection_and_nothing_else(
    served: tuple[EmulatedLibrary, IscsiTarget], data: bytes
) -> None:
    wrong = Initiator(served[1])
    wrong.socket.sendall(data)
    wrong.socket.shutdown(socket.SHUT_WR)
    while wrong.receive() is not None:
        continue
    wrong.close()
    assert works(served[1])


OPCODES = st.sampled_from([0, 1, 2, 4, 5, 6, 0x10, 0x3F, 0x41, 0x42])
REST = st.binary(min_size=47, max_size=47)


@given(st.lists(st.tuples(OPCODES, REST, st.binary(max_size=64)), max_size=6))
def test_any_units_after_a_login_end_a_connection_and_nothing_else(
    served: tuple[EmulatedLibrary, IscsiTarget], units: list[tuple[int, bytes, bytes]]
) -> None:
    wrong = Initiator(served[1])
    assert wrong.log_in() is not None
    try:
        for number, (opcode, rest, data) in enumerate(units):
            header = bytearray(bytes([opcode]) + rest)
            header[4] = 0
            struct.pack_into(">I", header, 24, number)
            wrong.send(header, data)
        wrong.socket.shutdown(socket.SHUT_WR)
        while wrong.receive() is not None:
            continue
    except OSError:
        pass  # the target was faster
    wrong.close()
    assert works(served[1])


def test_the_command_window_is_kept(initiator: Initiator) -> None:
    answer = initiator.log_in()
    assert answer is not None and answer.header[36] == 0
    assert answer.word(32) - answer.word(28) == COMMANDS_MAX - 1
    initiator.command(COMMANDS_MAX + 5, cdb.inquiry(36), 36)  # beyond: ignored
    initiator.command(0, cdb.inquiry(36), 36)
    data, response = initiator.receive(), initiator.receive()
    assert data is not None and data.opcode == pdu.DATA_IN and data.tag == 100
    assert response is not None and response.header[3] == GOOD and response.word(28) == 1


def test_a_skipped_command_number_ends_the_connection(initiator: Initiator) -> None:
    assert initiator.log_in() is not None
    initiator.command(1, cdb.inquiry(36), 36)
    assert initiator.receive() is None


def test_pings_and_logout(initiator: Initiator) -> None:
    assert initiator.log_in() is not None
    header = new_header(pdu.NOP_OUT | 0x40, 0x80, 9)
    initiator.send(header, b"hello")
    answer = initiator.receive()
    assert answer is not None and (answer.opcode, answer.tag, answer.data) == (
        pdu.NOP_IN,
        9,
        b"hello",
    )
    initiator.send(new_header(pdu.LOGOUT_REQUEST | 0x40, 0x80, 10))
    answer = initiator.receive()
    assert answer is not None and answer.opcode == pdu.LOGOUT_RESPONSE
    assert initiator.receive() is None


def test_a_command_in_wait_can_be_aborted(initiator: Initiator) -> None:
    assert initiator.log_in(InitialR2T="Yes", ImmediateData="No") is not None
    initiator.command(0, cdb.write_12(0, 1), 2048, flags=0xA1, lun=1)
    ready = initiator.receive()
    assert ready is not None and ready.opcode == pdu.READY_TO_TRANSFER
    for wanted, response in ((100, 0), (100, 1)):
        header = new_header(pdu.TASK_REQUEST | 0x40, 0x81, 50, pdu.lun_bytes(1))
        struct.pack_into(">I", header, 20, wanted)
        initiator.send(header)
        answer = initiator.receive()
        assert answer is not None and answer.opcode == pdu.TASK_RESPONSE
        assert answer.header[2] == response


def test_a_reset_is_an_attention_to_all(
    served: tuple[EmulatedLibrary, IscsiTarget], initiator: Initiator
) -> None:
    other = unit(served[1], 1)
    settle(other)
    assert sense_of(other, cdb.prevent_allow(True)) is None
    assert initiator.log_in() is not None
    header = new_header(pdu.TASK_REQUEST | 0x40, 0x85, 50, pdu.lun_bytes(1))
    initiator.send(header)
    answer = initiator.receive()
    assert answer is not None and answer.header[2] == 0
    assert settle(other) == [(6, 0x29, 3)] and not served[0].drives[0].prevented
    other.close()


def test_units_that_are_not_there(served: tuple[EmulatedLibrary, IscsiTarget]) -> None:
    absent = unit(served[1], 77)
    assert absent.execute(cdb.inquiry(36), b"", 36).data[0] == 0x7F
    assert sense_of(absent, cdb.test_unit_ready()) == (5, 0x25, 0)
    report = bytes([cdb.REPORT_LUNS]) + bytes(5) + (64).to_bytes(4, "big") + bytes(2)
    data = absent.execute(report, b"", 64).data
    assert data[:4] == (24).to_bytes(4, "big") and [data[9], data[17], data[25]] == [0, 1, 2]
    absent.close()


def test_attentions_and_prevention_are_of_each_initiator(
    served: tuple[EmulatedLibrary, IscsiTarget],
) -> None:
    first, second = unit(served[1], 1), unit(served[1], 1)
    assert settle(first) == settle(second) == [(6, 0x29, 0)]
    assert sense_of(first, cdb.prevent_allow(True)) is None
    assert sense_of(second, cdb.prevent_allow(False)) is None
    assert served[0].drives[0].prevented
    first.close()
    while served[0].drives[0].prevented:
        sense_of(second, cdb.test_unit_ready())
    second.close()


# -- our own initiator -------------------------------------------------------------------


def test_a_session_that_was_cut_is_opened_anew(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    with IscsiTarget(library) as target:
        device = unit(target)
        settle(device)
        for connection in list(target._connections):
            connection.close()
        assert settle(device) == [(6, 0x29, 0)]
        assert device.logins == 2
        device.close()


def test_a_command_that_lost_its_answer_is_not_sent_again(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    with IscsiTarget(library) as target:
        changer = unit(target)
        inventory = Changer(changer).inventory()
        real, moves = library.changer.command, list[bytes]()

        def move_and_cut(command: bytes, data: bytes | memoryview) -> bytes:
            answer = real(command, data)
            if command[0] == cdb.MOVE_MEDIUM:
                moves.append(command)
                for connection in list(target._connections):
                    connection.close()
            return answer

        library.changer.command = move_and_cut  # type: ignore[method-assign]
        with pytest.raises(TransientError, match="a5h"):
            changer.execute(
                cdb.move_medium(0, inventory.slots[0].address, inventory.drives[0].address)
            )
        assert len(moves) == 1
        assert Changer(changer).inventory().drives[0].barcode == "HSM00001"
        changer.close()


@pytest.mark.allow_warnings
def test_a_move_whose_session_was_cut_is_judged_by_element_status(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    with IscsiTarget(library) as target:
        transport = unit(target)
        changer = Changer(transport)
        inventory = changer.inventory()
        real = library.changer.command

        def move_and_cut(command: bytes, data: bytes | memoryview) -> bytes:
            answer = real(command, data)
            if command[0] == cdb.MOVE_MEDIUM:
                for connection in list(target._connections):
                    connection.close()
            return answer

        library.changer.command = move_and_cut  # type: ignore[method-assign]
        changer.move(inventory.slots[0].address, inventory.drives[0].address)
        assert library.state.drive_discs[0] == "HSM00001"
        transport.close()


def test_a_late_answer_is_no_answer(tmp_path: Path) -> None:
    library, let_go = new_library(tmp_path), threading.Event()
    real = library.drives[0].command

    def late(command: bytes, data: bytes | memoryview) -> bytes:
        if command[0] == cdb.READ_CAPACITY_10:
            let_go.wait(20)
        return real(command, data)

    library.drives[0].command = late  # type: ignore[method-assign]
    with IscsiTarget(library) as target:
        device = unit(target, 1)
        settle(device)
        with pytest.raises(TransientError, match=r"25h: no answer in 0.2 s"):
            device.execute(cdb.read_capacity(), b"", 8, 0.2)
        let_go.set()
        assert settle(device) == [(6, 0x29, 0)]
        device.close()


def test_large_writes_go_by_bursts(served: tuple[EmulatedLibrary, IscsiTarget]) -> None:
    changer, device = unit(served[1]), unit(served[1], 2)
    inventory = Changer(changer).inventory()
    Changer(changer).move(inventory.slots[5].address, inventory.drives[1].address)
    drive = Drive(device)
    drive.ready()
    data = content(16 * CLUSTER)
    drive.write(0, data)
    assert drive.read(0, 16 * CLUSTER) == data
    for transport in (changer, device):
        transport.close()


# -- who may log in ----------------------------------------------------------------------


def test_chap_lets_in_who_knows_the_secret(tmp_path: Path) -> None:
    library = new_library(tmp_path)
    with IscsiTarget(library, chap=Chap("robot", "a long secret")) as target:
        good = unit(target, 0, "robot", "a long secret")
        assert identify(good).serial == "EMUC0001"
        good.close()
        for user, secret in (("robot", "wrong"), ("other", "a long secret"), ("", "")):
            bad = unit(target, 0, user, secret)
            with pytest.raises(TransientError, match="no login"):
                bad.execute(cdb.inquiry(36), b"", 36)
            bad.close()


def test_chap_answers_are_those_of_rfc_1994() -> None:
    login = Login("iqn.t", Chap("u", "s"), challenge=lambda size: bytes(range(size)))

    def step(flags: int, **keys: str) -> dict[str, str]:
        header = new_header(pdu.LOGIN_REQUEST, flags, 1)
        return parse_text(login.step(Pdu(bytes(header), format_text(keys)))[1])

    assert (
        step(0, InitiatorName="i", TargetName="iqn.t", AuthMethod="CHAP,None")["AuthMethod"]
        == "CHAP"
    )
    asked = step(0, CHAP_A="5")
    assert asked == {"CHAP_A": "5", "CHAP_I": "0", "CHAP_C": "0x" + bytes(range(16)).hex()}
    proof = hashlib.md5(b"\0" + b"s" + bytes(range(16))).hexdigest()
    assert step(0x81, CHAP_N="u", CHAP_R="0x" + proof) == {} and login.stage == OPERATIONAL


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({"InitiatorName": ""}, 0x0207),
        ({"TargetName": "iqn.else"}, 0x0203),
    ],
)
def test_logins_that_are_refused(initiator: Initiator, keys: dict[str, str], status: int) -> None:
    answer = initiator.log_in(**keys)
    assert answer is not None and answer.opcode == pdu.LOGIN_RESPONSE
    assert int.from_bytes(answer.header[36:38], "big") == status
    assert initiator.receive() is None


@pytest.mark.parametrize(
    ("byte", "value", "status"), [(3, 1, 0x0205), (15, 9, 0x020A), (1, 0x8F, 0x020B)]
)
def test_login_headers_that_are_refused(byte: int, value: int, status: int) -> None:
    header = new_header(pdu.LOGIN_REQUEST, 0x87, 1)
    header[byte] = value
    with pytest.raises(Refused) as refused:
        Login("iqn.t").step(Pdu(bytes(header), b""))
    assert refused.value.status == status


def test_strangers_need_a_secret(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="CHAP"):
        IscsiTarget(new_library(tmp_path), "0.0.0.0")


def test_what_is_no_drive_or_not_there_is_told(
    served: tuple[EmulatedLibrary, IscsiTarget],
) -> None:
    changer, drive, absent = unit(served[1]), unit(served[1], 1), unit(served[1], 77)
    with pytest.raises(CallerError, match=r"device type 8, expected 5 \(a disc drive\)"):
        Drive(changer).identity()
    with pytest.raises(CallerError, match=r"device type 5, expected 8"):
        Changer(drive).inquiry()
    with pytest.raises(TransientError, match="no device at this logical unit"):
        Drive(absent).identity()
    for device in (changer, drive, absent):
        device.close()
