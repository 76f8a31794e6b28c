"""What a check may find, as plain values."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Protocol

import msgspec


class Kind(StrEnum):
    """The sort of a finding; docs/operate.md has a row for each."""

    META = "meta"
    UNKNOWN_KEY = "unknown-key"
    JOURNAL = "journal"
    RECORD = "record"
    ENTRY = "entry"
    ENTRY_TYPE = "entry-type"
    COOKIE = "cookie"
    LISTING = "listing"
    LINK = "link"
    LINK_COUNT = "link-count"
    TREE = "tree"
    NAMELESS = "nameless"
    MARK = "mark"
    SYMLINK = "symlink"
    XATTR = "xattr"
    INDEX = "index"
    COUNTERS = "counters"
    STATE = "state"
    VERSION = "version"
    CACHE_FILE = "cache-file"
    CACHE_SIZE = "cache-size"
    HEAD = "head"
    STRAY = "stray"
    LEFTOVER = "leftover"
    COPIES = "copies"
    VOLUMES = "volumes"
    AT_RISK = "at-risk"
    LOST = "lost"
    CATALOG_RECORD = "catalog-record"
    EXTENT = "extent"
    CONTENTS = "contents"
    DISC = "disc"
    WORM = "worm"


NEVER_REPAIRED: Final = frozenset({Kind.AT_RISK, Kind.LOST})
"""Data that is gone or may go: no change of a record brings it back."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be."""

    kind: Kind
    ino: int
    """0 where it is about no inode."""
    where: str
    found: str
    expected: str
    repair: str
    """What ``--repair`` does about it; empty: nothing can."""


class KnownCopies(msgspec.Struct, frozen=True):
    """What the catalog has of one version of a file."""

    data_version: int
    size: int
    """Bytes on the volumes; -1 where they do not agree."""
    copies: int
    """Verified discs."""
    labels: tuple[str, ...]


class Copies(Protocol):
    """The catalog, as far as files ask for it."""

    def of(self, ino: int) -> list[KnownCopies]:
        """All versions of a file that are on volumes, oldest first."""


class NoCopies:
    """Of a system that never burned."""

    def of(self, ino: int) -> list[KnownCopies]:
        """None."""
        return []


class Summary(msgspec.Struct):
    """Totals of a run."""

    inodes: int = 0
    entries: int = 0
    cache_files: int = 0
    pending: int = 0
    """Interrupted work that the next start settles; nothing is wrong with it."""
    found: int = 0
    repaired: int = 0
    backup: str = ""
