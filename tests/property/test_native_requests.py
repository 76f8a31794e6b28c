"""Whatever comes from the device, the loop goes on and serves the next request."""

from __future__ import annotations

import errno
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.wire import Wire, init_body, request, wire

from hsmfs.session.native import protocol as p
from hsmfs.session.native.protocol import Init, Op
from hsmfs.session.native.shapes import UNANSWERED

REFUSALS = {errno.ENOSYS, errno.EINVAL, errno.EIO}

pytestmark = pytest.mark.allow_warnings

small = st.integers(0, 6)
edges = st.sampled_from([0, 1, 2, 16, 255, 256, 4095, 4096, 1 << 20, (1 << 20) + 1])
tops = st.integers(0, 3).map(lambda n: -1 - n)
u32 = st.one_of(small, edges, st.integers(0, 0xFFFFFFFF), tops.map(lambda n: n & 0xFFFFFFFF))
FILE, FOLDER, LINK = 1024, 2048, 2049
"""Inode numbers of what ``furnish`` makes; it opens handles 1, 2 (file) and 3, 4 (root, folder)."""
known = st.sampled_from([1, FILE, FOLDER, LINK])
u64 = st.one_of(
    small, known, edges, st.integers(0, (1 << 64) - 1), tops.map(lambda n: n & (1 << 64) - 1)
)
names = st.one_of(
    st.sampled_from([b"a", b"b", b"d", b".", b"..", b"", b"a/b", b"n" * 255, b"n" * 256]),
    st.binary(max_size=20),
)
ends = st.sampled_from([b"\0", b"\0", b"", b"\0\0", b"\0x"])
closed = st.tuples(names, ends).map(b"".join)
HEADS = {
    Op.LOOKUP: "",
    Op.FORGET: "Q",
    Op.GETATTR: "IIQ",
    Op.SETATTR: "IIQQQQQQIIIIIIII",
    Op.READLINK: "",
    Op.SYMLINK: "",
    Op.MKNOD: "IIII",
    Op.MKDIR: "II",
    Op.UNLINK: "",
    Op.RMDIR: "",
    Op.RENAME: "Q",
    Op.LINK: "Q",
    Op.OPEN: "II",
    Op.READ: "QQIIQII",
    Op.WRITE: "QQIIQII",
    Op.STATFS: "",
    Op.RELEASE: "QIIQ",
    Op.FSYNC: "QII",
    Op.SETXATTR: "IIII",
    Op.GETXATTR: "II",
    Op.LISTXATTR: "II",
    Op.REMOVEXATTR: "",
    Op.FLUSH: "QIIQ",
    Op.INIT: "IIIIIIIIIIIIIIII",
    Op.OPENDIR: "II",
    Op.READDIR: "QQIIQII",
    Op.RELEASEDIR: "QIIQ",
    Op.FSYNCDIR: "QII",
    Op.ACCESS: "II",
    Op.CREATE: "IIII",
    Op.INTERRUPT: "Q",
    Op.DESTROY: "",
    Op.IOCTL: "QIIQII",
    Op.BATCH_FORGET: "II",
    Op.FALLOCATE: "QQQII",
    Op.READDIRPLUS: "QQIIQII",
    Op.RENAME2: "QII",
    Op.LSEEK: "QQII",
    Op.COPY_FILE_RANGE: "QQQQQQQ",
    Op.SYNCFS: "Q",
    Op.TMPFILE: "IIII",
    Op.STATX: "IIQII",
}


@st.composite
def shaped(draw: st.DrawFn) -> bytes:
    """Nearly right: fields of the right sizes with any values, names, a cut, a lie."""
    op, layout = draw(st.sampled_from(sorted(HEADS.items())))
    fields = [draw(u64 if kind == "Q" else u32) for kind in layout]
    if layout.startswith("Q") and draw(st.integers(0, 3)):
        fields[0] = draw(st.integers(1, 4))  # a handle
    body = struct.pack("<" + layout, *fields)
    body += b"".join(draw(st.lists(closed, max_size=3)))
    if draw(st.integers(0, 3)) == 0:
        body = body[: draw(st.integers(0, len(body)))]
    lie = draw(st.sampled_from([0, 0, 0, 0, 1, -1, 4096, -40]))
    unique = draw(st.integers(2, 9))
    node = draw(st.one_of(known, known, known, u64))
    return request(op, unique, node, body, lie, draw(st.one_of(st.just(0), u32)), draw(u32))


@st.composite
def any_opcode(draw: st.DrawFn) -> bytes:
    return request(draw(u32), draw(u64), draw(u64), draw(st.binary(max_size=300)))


requests = st.one_of(
    shaped(), shaped(), shaped(), any_opcode(), st.binary(min_size=1, max_size=200)
)


def furnish(session: Wire) -> None:
    """Something to be hit."""
    flags = struct.pack("<IIII", os.O_RDWR, 0o100644, 0, 0)
    made = session.done(Op.CREATE, flags + b"a\0")
    assert p.U64.unpack_from(made)[0] == FILE
    made = session.done(Op.MKDIR, struct.pack("<II", 0o755, 0) + b"d\0")
    assert p.U64.unpack_from(made)[0] == FOLDER
    made = session.done(Op.SYMLINK, b"s\0target\0")
    assert p.U64.unpack_from(made)[0] == LINK
    session.done(Op.OPEN, struct.pack("<II", os.O_RDWR, 0), FILE)
    session.done(Op.OPENDIR, bytes(8), 1)
    session.done(Op.OPENDIR, bytes(8), FOLDER)
    session.done(Op.WRITE, struct.pack("<QQIIQII", 1, 0, 5, 0, 0, 0, 0) + b"hello", FILE)
    session.done(Op.SETXATTR, struct.pack("<IIII", 5, 0, 0, 0) + b"user.a\0value", FILE)


def still_serves(session: Wire, known: bytes) -> None:
    """A correct request is answered, in spite of all before."""
    number, attributes = session.ask(Op.GETATTR, bytes(p.GETATTR_IN.size), 1)
    assert number == 0
    assert len(attributes) == p.ATTR_OUT.size
    number, content = session.ask(Op.LOOKUP, known + b"\0")
    assert (number, len(content)) == (0, p.ENTRY_OUT.size)


@given(st.lists(requests, min_size=1, max_size=40))
def test_the_loop_goes_on(found):
    with tempfile.TemporaryDirectory() as directory, wire(Path(directory) / "t") as session:
        session.begin(features=p.WANTED & ~Init.PASSTHROUGH)
        furnish(session)
        for number, data in enumerate(found):
            if data[12:16] == b"\1\0\0\0" and len(data) >= p.HEADER_BYTES:
                continue  # it would have the number of a request of ours
            session.send(data)
            if number % 8 == 7:
                still_serves(session, b"any")
        still_serves(session, b"any")
        assert session.failure is None
        assert session.bugs == 0


def header_only(op: int) -> bytes:
    return request(op, 7, 1, b"")


@pytest.fixture
def session(tmp_path):
    with wire(tmp_path / "t") as made:
        made.begin(features=p.WANTED & ~Init.PASSTHROUGH)
        yield made


NEEDS_NO_BODY = {Op.READLINK, Op.STATFS, Op.DESTROY, Op.SYNCFS}


@pytest.mark.parametrize("op", [op for op in HEADS if op not in NEEDS_NO_BODY])
def test_a_request_without_its_body_is_refused(session, op):
    session.send(header_only(op))
    if op not in UNANSWERED:
        unique, number, body = session.answer()
        assert (unique, body) == (7, b"")
        assert number in REFUSALS
    still_serves(session, b"x")
    assert session.bugs == 0


@pytest.mark.parametrize(
    "op", [0, 7, 19, 31, 32, 33, 37, 40, 41, 48, 49, 53, 63, 64, 4096, 2**32 - 1]
)
def test_an_unknown_request_gets_enosys(session, op):
    assert session.ask(op, b"whatever") == (errno.ENOSYS, b"")
    still_serves(session, b"x")


@pytest.mark.parametrize("size", [1, 4, 39])
def test_less_than_a_header_is_dropped(session, size):
    session.send(b"\xff" * size)
    still_serves(session, b"x")


@pytest.mark.parametrize("lie", [-40, -1, 1, 1 << 20])
def test_a_size_that_does_not_match_is_refused(session, lie):
    session.send(request(Op.GETATTR, 7, 1, bytes(16), lie))
    assert session.answer()[1] in REFUSALS
    still_serves(session, b"x")


@pytest.mark.parametrize(
    ("op", "body"),
    [
        (Op.LOOKUP, b"name"),
        (Op.MKDIR, bytes(8) + b"name"),
        (Op.MKDIR, bytes(8) + b"\0\0"),
        (Op.MKDIR, bytes(8) + b"a\0b\0"),
        (Op.MKDIR, bytes(8) + b"a/b\0"),
        (Op.MKDIR, bytes(8) + b"..\0"),
        (Op.CREATE, bytes(16) + b"name"),
        (Op.RENAME, struct.pack("<Q", 1) + b"one\0two"),
        (Op.RENAME, struct.pack("<Q", 1) + b"only one\0"),
        (Op.RENAME2, struct.pack("<QII", 1, 0, 0) + b"a\0b\0c\0"),
        (Op.SYMLINK, b"name\0target"),
        (Op.SYMLINK, b"name\0"),
        (Op.SETXATTR, struct.pack("<IIII", 5, 0, 0, 0) + b"user.a\0four"),
        (Op.SETXATTR, struct.pack("<IIII", 5, 0, 0, 0) + b"user.a"),
        (Op.WRITE, struct.pack("<QQIIQII", 1, 0, 100, 0, 0, 0, 0) + b"less"),
        (Op.READ, struct.pack("<QQIIQII", 1, 0, 1 << 31, 0, 0, 0, 0)),
        (Op.READDIR, struct.pack("<QQIIQII", 1, 0, 1 << 31, 0, 0, 0, 0)),
        (Op.RENAME2, struct.pack("<QII", 1, 0xFF, 0) + b"a\0b\0"),
        (Op.SETXATTR, struct.pack("<II", 1, 0) + b"a\0b"),
        (Op.LSEEK, struct.pack("<QQII", 1, 0, 5, 0)),
        (Op.READDIR, struct.pack("<QQIIQII", 2, 1 << 63, 4096, 0, 0, 0, 0)),
    ],
)
def test_what_names_and_sizes_say_must_be_true(session, op, body):
    assert session.ask(op, body) == (errno.EINVAL, b"")
    assert session.bugs == 0
    still_serves(session, b"x")


def test_a_batch_of_forgets_that_is_cut(session):
    session.send(request(Op.BATCH_FORGET, 7, 0, struct.pack("<II", 1000, 0) + bytes(16)))
    still_serves(session, b"x")
    assert session.bugs == 0


def test_a_second_init_changes_nothing(session):
    session.done(Op.INIT, init_body(), 0)
    assert session.ask(Op.INIT, init_body(minor=3), 0)[0] == errno.EPROTO
    still_serves(session, b"x")
