"""INIT with kernels older and newer than what is spoken here, and without each feature."""

from __future__ import annotations

import errno
import os
import struct

import pytest
import trio
from support.wire import ALL, init_body, wire

from hsmfs.errors import LibraryError
from hsmfs.session.native import protocol as p
from hsmfs.session.native.negotiation import agree
from hsmfs.session.native.protocol import Init, Op

FEATURES = [feature for feature in Init if feature in ALL]
EVERYTHING = Init((1 << 63) - 1)


def fields(reply: bytes) -> tuple[int, ...]:
    return p.INIT_OUT.unpack(reply)


def test_a_newer_kernel_gets_our_version_and_no_feature_that_we_do_not_know():
    agreed = agree(init_body(p.MINOR + 7, EVERYTHING))
    assert agreed.features == ALL
    reply = fields(agreed.reply)
    assert reply[:2] == (p.MAJOR, p.MINOR)
    assert reply[3] | reply[10] << 32 == ALL


@pytest.mark.parametrize("minor", range(p.MINOR_MIN, p.MINOR))
def test_an_older_kernel_is_spoken_to_as_it_speaks(minor):
    agreed = agree(init_body(minor))
    assert agreed.version == f"7.{minor}"
    assert fields(agreed.reply)[:2] == (7, minor)
    assert len(agreed.reply) == 64


@pytest.mark.parametrize(
    ("major", "minor"), [(7, p.MINOR_MIN - 1), (7, 1), (7, 0), (6, 45), (0, 0)]
)
def test_a_kernel_that_is_too_old_is_refused(major, minor):
    with pytest.raises(LibraryError) as refused:
        agree(init_body(minor, major=major))
    said = str(refused.value)
    for word in (f"FUSE {major}.{minor}", f"expected 7.{p.MINOR_MIN}", "Linux 5.2"):
        assert word in said


def test_another_major_version_is_asked_to_begin_again():
    agreed = agree(init_body(0, major=8))
    assert not agreed.settled
    assert fields(agreed.reply)[:2] == (7, p.MINOR)
    assert fields(agreed.reply)[3] == 0


def test_the_short_form_of_linux_before_5_17_has_no_second_half_of_flags():
    low = struct.pack("<IIII", 7, 31, 1 << 17, 0xFFFFFFFF)
    agreed = agree(low)
    assert not agreed.has(Init.PASSTHROUGH)
    assert not agreed.has(Init.INIT_EXT)
    assert fields(agreed.reply)[10] == 0
    unmarked = agree(init_body(features=ALL & ~Init.INIT_EXT))
    assert not unmarked.features >> 32


@pytest.mark.parametrize("feature", FEATURES)
def test_each_feature_may_be_missing(feature):
    agreed = agree(init_body(features=ALL & ~feature))
    missing = feature if feature is not Init.INIT_EXT else Init(~0xBFFFFFFF & (1 << 63) - 1)
    assert agreed.features == ALL & ~missing
    assert fields(agreed.reply)[11] == int(agreed.has(Init.PASSTHROUGH))


def test_readahead_of_the_kernel_is_not_made_smaller():
    assert fields(agree(init_body(readahead=1 << 22)).reply)[2] == 1 << 22
    assert fields(agree(init_body(readahead=1)).reply)[2] == 1 << 20


# -- a session without each of them ---------------------------------------------------


def work(session, extended: bool) -> None:
    """Create, write, read, list, attributes, rename, remove."""
    flags = struct.pack("<IIII", os.O_RDWR, 0o100644, 0, 0)
    made = session.done(Op.CREATE, flags + b"f\0")
    ino = p.U64.unpack_from(made)[0]
    fh = p.U64.unpack_from(made, p.ENTRY_OUT.size)[0]
    write = struct.pack("<QQIIQII", fh, 0, 5, 0, 0, 0, 0)
    assert session.done(Op.WRITE, write + b"hello", ino)[:4] == b"\5\0\0\0"
    read = struct.pack("<QQIIQII", fh, 0, 100, 0, 0, 0, 0)
    assert session.done(Op.READ, read, ino) == b"hello"
    head = struct.pack("<IIII", 5, 0, 0, 0) if extended else struct.pack("<II", 5, 0)
    session.done(Op.SETXATTR, head + b"user.a\0value", ino)
    asked = struct.pack("<II", 100, 0) + b"user.a\0"
    assert session.done(Op.GETXATTR, asked, ino) == b"value"
    session.done(Op.FSYNC, struct.pack("<QII", fh, 0, 0), ino)
    session.done(Op.FLUSH, struct.pack("<QIIQ", fh, 0, 0, 0), ino)
    session.done(Op.RELEASE, struct.pack("<QIIQ", fh, 0, 0, 0), ino)
    folder = p.U64.unpack_from(session.done(Op.OPENDIR, bytes(8)))[0]
    listing = struct.pack("<QQIIQII", folder, 0, 4096, 0, 0, 0, 0)
    for op in (Op.READDIR, Op.READDIRPLUS):
        assert b"f" in session.done(op, listing)
    session.done(Op.RELEASEDIR, struct.pack("<QIIQ", folder, 0, 0, 0))
    session.done(Op.RENAME, struct.pack("<Q", 1) + b"f\0g\0")
    session.done(Op.UNLINK, b"g\0")
    assert p.U64.unpack_from(session.done(Op.LOOKUP, b"g\0"))[0] == 0


@pytest.mark.allow_warnings
@pytest.mark.parametrize("feature", [Init(0), *FEATURES, ALL])
@pytest.mark.parametrize("minor", [p.MINOR_MIN, p.MINOR])
def test_a_session_works_without_it(tmp_path, feature, minor, capsys):
    with wire(tmp_path / "t") as session:
        agreed = session.begin(minor, ALL & ~feature)
        work(session, bool(agreed & Init.SETXATTR_EXT))
        assert session.bugs == 0
    said = capsys.readouterr().out
    assert said.count("the kernel does not offer it") == (not agreed & Init.PASSTHROUGH)


def test_a_session_that_is_refused_says_so(tmp_path):
    with wire(tmp_path / "t") as session:
        number, _ = session.ask(Op.INIT, init_body(minor=p.MINOR_MIN - 1), 0)
        assert number == errno.EPROTO
        with pytest.raises(LibraryError, match=r"fuse.mount: .*: found a kernel that speaks"):
            trio.run(session.session.wait_ready)


@pytest.mark.allow_warnings
def test_a_newer_major_version_begins_again(tmp_path):
    with wire(tmp_path / "t") as session:
        assert fields(session.done(Op.INIT, init_body(0, major=8), 0))[0] == p.MAJOR
        assert session.begin() == ALL
        work(session, True)
