"""Messages between hsmd (which calls) and hsmfs (which answers and notifies).

A frame is a 4-byte big-endian length and one msgpack body of at most
``FRAME_BYTES_MAX``. Bodies are tagged arrays: see ``Request``, ``Reply`` and
``Notice``. hsmd connects to hsmfs's socket; either side may be restarted.
"""

from __future__ import annotations

from typing import Final

import msgspec

from hsmfs.rpc.adoptmessages import (
    AdoptBegin,
    AdoptBegun,
    AdoptBlock,
    AdoptEnd,
    AdoptLook,
    AdoptMade,
    AdoptMake,
    AdoptNumbers,
    AdoptSeen,
)
from hsmfs.rpc.wormmessages import WormAnswer, WormCall
from hsmfs.types import ByteRange, FileVersion

PROTOCOL_VERSION: Final = 2
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
BATCH_FILES_MAX: Final = 10_000
IMPORT_BATCH_MAX: Final = 500
"""Entries made or removed in one call: about 10 ms of the engine's thread."""


class Hello(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """First call: hsmd says its version and which claims it still holds.

    hsmfs drops every other claim, and notifies ``Wanted`` again for each
    recall that still waits.
    """

    protocol: int
    claims: list[FileVersion]


class Claim(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Freeze these versions for a burn; durable when answered."""

    files: list[FileVersion]


class Unclaim(msgspec.Struct, frozen=True, tag=True, array_like=True):
    files: list[FileVersion]


class CopiedFile(msgspec.Struct, frozen=True, array_like=True):
    file: FileVersion
    copies: int
    enough: bool
    pool: str
    volumes: list[str]


class Copied(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Verified copies exist; with ``enough`` the file becomes premigrated."""

    files: list[CopiedFile]


class Release(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Drop cached data beyond ``head_bytes``; copies were just re-proved."""

    files: list[FileVersion]
    head_bytes: int


class RecallBegin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Open (or go on with) the recall file of this version."""

    file: FileVersion


class Landed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """This range was proved and written to the recall file."""

    file: FileVersion
    range: ByteRange


class Recalled(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The recall file is whole and fsynced: put it in the stub's place."""

    file: FileVersion


class Failed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The recall ends without data: readers get ``errno``."""

    file: FileVersion
    errno: int
    why: str


class RecallNote(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What a recall waits for, in words, for ``user.hsm.recall``."""

    file: FileVersion
    text: str


class Pin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    inodes: list[int]
    pinned: bool


class Sync(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Commit everything, so that a reader of the store sees it."""


class ImportBegin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Have a directory for the tree of a foreign volume; answered by ``ImportRoot``.

    It is made, or is there and empty; the one that this label has already is taken again.
    """

    label: str
    path: bytes
    """From the root of the mount."""
    again: bool = False
    """Entries are added to one that is done, too: hsmd has lost where they lie."""


class ImportEntry(msgspec.Struct, frozen=True, array_like=True):
    """One name of the tree."""

    path: bytes
    """Below the tree's root."""
    mode: int
    """With its type: a directory, a regular file (a stub of one copy) or a symlink."""
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    target: bytes


class ImportAdd(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Entries, at most IMPORT_BATCH_MAX, directories first; answered by one result for each.

    What is there already is answered as if it were made now.
    """

    label: str
    entries: list[ImportEntry]


class ImportEnd(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """All entries are there: from now on files may be opened."""

    label: str


class ImportForget(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Remove a batch of the tree's entries, at last its root; answered by ``ImportLeft``."""

    label: str


class Status(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Ask for a ``StatusReply``."""


Call = (
    Hello
    | Claim
    | Unclaim
    | Copied
    | Release
    | RecallBegin
    | Landed
    | Recalled
    | Failed
    | RecallNote
    | Pin
    | Sync
    | ImportBegin
    | ImportAdd
    | ImportEnd
    | ImportForget
    | Status
    | AdoptBegin
    | AdoptNumbers
    | AdoptLook
    | AdoptMake
    | AdoptEnd
    | WormCall
)


class FileResult(msgspec.Struct, frozen=True, array_like=True):
    """Per file: empty ``refused`` means done; else the reason in words."""

    file: FileVersion
    refused: str = ""
    cache_path: str = ""
    """For ``Claim``: the cache file; see ``hsmfs.cache`` for opening it."""


class FileResults(msgspec.Struct, frozen=True, tag=True, array_like=True):
    results: list[FileResult]


class RecallFile(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Where to write, how long the file is, what has already landed."""

    path: str
    size: int
    landed: list[ByteRange]


class ImportRoot(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The root of an imported tree."""

    ino: int
    done: bool


class ImportLeft(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Whether entries are left to be removed."""

    more: bool


class TierStatus(msgspec.Struct, frozen=True, array_like=True):
    name: str
    used_bytes: int
    capacity_bytes: int
    free_bytes: int


class StateCount(msgspec.Struct, frozen=True, array_like=True):
    state: str
    files: int
    bytes: int


class StatusReply(msgspec.Struct, frozen=True, tag=True, array_like=True):
    states: list[StateCount]
    tiers: list[TierStatus]
    waiting_readers: int
    open_files: int
    claims: int


class Done(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Nothing to say."""


class Refused(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The call as a whole was refused (stale version, unknown file)."""

    errno: int
    why: str


Answer = (
    FileResults
    | RecallFile
    | ImportRoot
    | ImportLeft
    | StatusReply
    | Done
    | Refused
    | AdoptBegun
    | AdoptBlock
    | AdoptSeen
    | AdoptMade
    | WormAnswer
)


class Wanted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A reader waits for this range of a stub."""

    file: FileVersion
    range: ByteRange
    path: str
    uid: int
    pid: int
    program: str


class NoLongerWanted(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The recall was dropped: truncated, removed, or all readers left."""

    file: FileVersion
    dropped: bool


Event = Wanted | NoLongerWanted


class Request(msgspec.Struct, frozen=True, tag=True, array_like=True):
    id: int
    call: Call


class Reply(msgspec.Struct, frozen=True, tag=True, array_like=True):
    id: int
    answer: Answer


class Notice(msgspec.Struct, frozen=True, tag=True, array_like=True):
    event: Event


Frame = Request | Reply | Notice
