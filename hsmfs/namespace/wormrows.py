"""Rows of write-once trees, holds and the audit log in the namespace's store.

======  =====================  ==================================================
prefix  key after the prefix   value
======  =====================  ==================================================
Wt      ino(8)                 msgpack ``Tree``: a directory with a retention
Wi      ino(8)                 msgpack ``Kept``: a file in such a tree
Wp      due(8) ino(8)          empty: files that are not settled, by when they may
We      until(8) ino(8)        empty: settled files, by their date
Wh      ino(8)                 msgpack list of ``Hold``
Wc                             msgpack ``TimeRow``, see trustedtime.py
A       number(8)              an entry of the audit log, JSON, see audit.py
Mlog                           msgpack ``Head``: number and SHA-256 of the last entry
======  =====================  ==================================================

Times are trusted time in nanoseconds since 1970, big endian in keys. A store
that has any of these has version 3 in ``Mversion``: an hsmfs that would not
keep them refuses it. What a record itself knows are three flags (records.py):
WORM, in such a tree; SETTLED, unchangeable; HELD.
"""

from __future__ import annotations

from typing import Final

import msgspec

from hsmfs.namespace import schema

TIME_KEY: Final = b"Wc"
HEAD_KEY: Final = b"Mlog"
TREES_MAX: Final = 1000
HOLDS_MAX: Final = 100
"""Of one file."""
REASON_BYTES_MAX: Final = 500
TREES: Final = (b"Wt", b"Wu")
KEPT: Final = (b"Wi", b"Wj")
HOLDS: Final = (b"Wh", b"Wi")
PENDING: Final = (b"Wp", b"Wq")
DATES: Final = (b"We", b"Wf")
ENTRIES: Final = (b"A", b"B")


class Tree(msgspec.Struct, array_like=True):
    """What holds below a directory."""

    settle: str
    keep: str
    off: bool = False
    """No further file settles."""
    taking: bool = False
    """What was there before is being taken in."""


class Kept(msgspec.Struct, array_like=True):
    """A file in a tree."""

    tree: int
    base_ns: int
    """When it was last changed."""
    due_ns: int
    """When it may settle: its place in ``Wp`` while it has not."""
    settled_ns: int = 0
    until_ns: int = 0
    """Its date; 0: not settled."""


class Hold(msgspec.Struct, array_like=True):
    """Why a file may not be touched, whatever its date says."""

    reason: str
    by: str
    set_ns: int


class Head(msgspec.Struct, array_like=True):
    """Where the audit log ends."""

    number: int
    sha256: str


def tree_key(ino: int) -> bytes:
    return b"Wt" + schema.U64.pack(ino)


def kept_key(ino: int) -> bytes:
    return b"Wi" + schema.U64.pack(ino)


def hold_key(ino: int) -> bytes:
    return b"Wh" + schema.U64.pack(ino)


def pending_key(due_ns: int, ino: int) -> bytes:
    return b"Wp" + schema.TWO_U64.pack(due_ns, ino)


def date_key(until_ns: int, ino: int) -> bytes:
    return b"We" + schema.TWO_U64.pack(until_ns, ino)


def entry_key(number: int) -> bytes:
    return b"A" + schema.U64.pack(number)


def ino_of(key: bytes) -> int:
    """The inode of any of these keys."""
    return int(schema.U64.unpack(key[-8:])[0])


DAMAGED: Final = (msgspec.MsgspecError, UnicodeDecodeError)
"""What decoding raises for bytes that were not written so."""
encode: Final = msgspec.msgpack.Encoder().encode
decode_tree: Final = msgspec.msgpack.Decoder(Tree).decode
decode_kept: Final = msgspec.msgpack.Decoder(Kept).decode
decode_holds: Final = msgspec.msgpack.Decoder(list[Hold]).decode
decode_head: Final = msgspec.msgpack.Decoder(Head).decode
