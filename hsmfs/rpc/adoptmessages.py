"""Messages of ``hsm adopt``, which takes files that lie on the cache's disk into the namespace.

The command does all work on the disk: it gives the files a second name in the
cache tier, under numbers that it was given, and takes the old name away when
the namespace durably has the new one. hsmfs makes the records. One adoption at
a time; its connection's end ends it, and what it was given and did not use is
taken back.
"""

from __future__ import annotations

from typing import Final

import msgspec

ADOPT_ITEMS_MAX: Final = 500
"""Names of one call: bounds what a call costs."""


class AdoptAttr(msgspec.Struct, frozen=True, array_like=True):
    """What an inode is like in its old place."""

    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    """Of 512 bytes."""
    atime_ns: int
    mtime_ns: int
    btime_ns: int
    target: bytes
    """Of a symbolic link."""
    xattrs: list[tuple[bytes, bytes]]


class AdoptName(msgspec.Struct, frozen=True, array_like=True):
    """A name below the directory that is adopted."""

    folder: bytes
    """Path from that directory, without slashes at its ends; empty: itself."""
    name: bytes


class AdoptItem(msgspec.Struct, frozen=True, array_like=True):
    """What is to be made. A regular file has the number whose cache file it is;
    the first name of a file with several makes it, the others link to it."""

    at: AdoptName
    number: int
    is_link: bool
    attr: AdoptAttr


class AdoptBegin(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Make the top directory, or go on with an adoption that was cut."""

    source: bytes
    disk_ino: int
    """Inode number of the source directory: the same source is known again by both."""
    target: bytes
    """Path from the mount's root, without a leading slash."""
    attr: AdoptAttr
    files: int
    """Inodes that are to come, for quotas."""
    data_bytes: int


class AdoptNumbers(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Ask for a block of inode numbers for regular files."""


class AdoptLook(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What the namespace has under these names."""

    names: list[AdoptName]


class AdoptMake(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Take these in; durable when answered. The links to the cache files are on disk."""

    items: list[AdoptItem]


class AdoptEnd(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """No more to come; with ``finished`` there is nothing left to go on with."""

    finished: bool


AdoptCall = AdoptBegin | AdoptNumbers | AdoptLook | AdoptMake | AdoptEnd
ADOPT_CALLS: Final = (AdoptBegin, AdoptNumbers, AdoptLook, AdoptMake, AdoptEnd)


class AdoptBegun(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Where cache files are, and whether this goes on with an earlier adoption."""

    tier: str
    resumed: bool


class AdoptBlock(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Numbers ``[start, stop)``; cache files under them go at a crash, until they are made."""

    start: int
    stop: int


class AdoptFound(msgspec.Struct, frozen=True, array_like=True):
    """What has a name; inode 0: nothing has."""

    ino: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    mtime_ns: int = 0
    target: bytes = b""


class AdoptSeen(msgspec.Struct, frozen=True, tag=True, array_like=True):
    found: list[AdoptFound]


class AdoptMade(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """For each item its inode, and empty or why it was refused."""

    inodes: list[int]
    refused: list[str]


AdoptAnswer = AdoptBegun | AdoptBlock | AdoptSeen | AdoptMade
