"""What rules can ask of a file: the facts, their kinds and units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Final

import msgspec

from hsmfs.daemon.policy.mime import mime_of
from hsmfs.types import Residency

SECOND_NS: Final = 1_000_000_000
DAY_S: Final = 86_400
DURATION_UNITS_S: Final = {
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86_400,
    "w": 7 * 86_400,
    "y": 365 * 86_400,
}
SIZE_UNITS_BYTES: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
STATES: Final = tuple(state.word for state in Residency)


class Facts(msgspec.Struct, frozen=True, gc=False):
    """One file as rules see it.

    ``path`` stands with or without its leading slash; ``state`` is the word
    of a ``Residency``.
    """

    path: bytes
    name: bytes
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    uid: int
    gid: int
    heat: float
    state: str
    copies: int
    ino: int
    tier: int = 0
    """Index of the cache tier."""
    xattrs: Mapping[bytes, bytes] = {}


class FactKind(Enum):
    """What a fact is compared with; the value is what error messages ask for."""

    DURATION = "a duration such as 30d (units s m h d w y)"
    SIZE = "a size such as 64KiB (units B kB MB GB TB KiB MiB GiB TiB)"
    NUMBER = "a number such as 0.5"
    COUNT = "a whole number"
    PATH = 'a path between quotes such as "/pacs/**"'
    NAME = 'a name between quotes such as "*.dcm"'
    STATE = "one of resident, premigrated, migrated, recalling"
    USER = "the name of a user"
    GROUP = "the name of a group"
    TIER = "the name of a tier"
    MIME = 'a MIME type between quotes such as "image/*"'
    XATTR = "a value between quotes"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. A duration is the time since ``number``, which is in nanoseconds."""

    kind: FactKind
    number: Callable[[Facts], float] | None = None
    text: Callable[[Facts], bytes] | None = None


FACTS: Final[dict[str, Fact]] = {
    "age": Fact(FactKind.DURATION, lambda facts: max(facts.atime_ns, facts.mtime_ns)),
    "atime_age": Fact(FactKind.DURATION, lambda facts: facts.atime_ns),
    "mtime_age": Fact(FactKind.DURATION, lambda facts: facts.mtime_ns),
    "ctime_age": Fact(FactKind.DURATION, lambda facts: facts.ctime_ns),
    "size": Fact(FactKind.SIZE, lambda facts: facts.size),
    "heat": Fact(FactKind.NUMBER, lambda facts: facts.heat),
    "uid": Fact(FactKind.COUNT, lambda facts: facts.uid),
    "gid": Fact(FactKind.COUNT, lambda facts: facts.gid),
    "owner": Fact(FactKind.USER, lambda facts: facts.uid),
    "group": Fact(FactKind.GROUP, lambda facts: facts.gid),
    "copies": Fact(FactKind.COUNT, lambda facts: facts.copies),
    "tier": Fact(FactKind.TIER, lambda facts: facts.tier),
    "state": Fact(FactKind.STATE),
    "residency": Fact(FactKind.STATE),
    "path": Fact(FactKind.PATH, text=lambda facts: facts.path.removeprefix(b"/")),
    "name": Fact(FactKind.NAME, text=lambda facts: facts.name),
    "mime": Fact(FactKind.MIME, text=lambda facts: mime_of(facts.name)),
    "xattr": Fact(FactKind.XATTR),
}
OPERATORS_OF_KIND: Final = {
    FactKind.DURATION: ("<", "<=", ">", ">="),
    FactKind.SIZE: ("<", "<=", ">", ">=", "=", "!="),
    FactKind.NUMBER: ("<", "<=", ">", ">="),
    FactKind.COUNT: ("<", "<=", ">", ">=", "=", "!="),
    FactKind.PATH: ("~", "=", "!="),
    FactKind.NAME: ("~", "=", "!="),
    FactKind.STATE: ("=", "!="),
    FactKind.USER: ("=", "!="),
    FactKind.GROUP: ("=", "!="),
    FactKind.TIER: ("=", "!="),
    FactKind.MIME: ("~", "=", "!="),
    FactKind.XATTR: ("~", "=", "!="),
}


def scaled(number: str, factor: int) -> int:
    """A decimal number times a whole factor, exact, cut to a whole number."""
    return int(Fraction(number) * factor)


def show_duration(duration_ns: int) -> str:
    """A duration for people, in the widest unit that it fills."""
    sign = "-" if duration_ns < 0 else ""
    seconds = abs(duration_ns) / SECOND_NS
    for unit in ("y", "d", "h", "m"):
        if seconds >= DURATION_UNITS_S[unit]:
            return f"{sign}{seconds / DURATION_UNITS_S[unit]:.1f}{unit}"
    return f"{sign}{seconds:.1f}s"


def show_size(size: int) -> str:
    """A size for people, in the widest binary unit that it fills."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= SIZE_UNITS_BYTES[unit]:
            return f"{size / SIZE_UNITS_BYTES[unit]:.1f}{unit}"
    return f"{size}B"
