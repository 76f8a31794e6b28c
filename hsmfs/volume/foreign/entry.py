"""What a foreign disc holds, in one shape for all formats."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from hsmfs.errors import MediumError

Kind = Literal["dir", "file", "symlink"]
Run = tuple[int, int]
"""Byte on the disc (``HOLE``: none, zeros) and length."""
HOLE: Final = -1
NAME_BYTES_MAX: Final = 255
RUNS_MAX: Final = 65_536
"""Of one file."""
FILE_BYTES_MAX: Final = 1 << 40
"""No disc holds so much; a file of holes could say so."""
DEPTH_MAX: Final = 200
"""Directories above one another."""
TARGET_BYTES_MAX: Final = 4095
DIRECTORY_MODE: Final = 0o555
FILE_MODE: Final = 0o444
"""Where a format has no modes."""
_MARK_BYTES: Final = 17


@dataclass(frozen=True, slots=True)
class Facts:
    """Attributes as far as the disc tells them."""

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0


@dataclass(frozen=True, slots=True)
class ForeignEntry:
    """One name; a directory comes before what is in it."""

    path: bytes
    kind: Kind
    facts: Facts
    size: int = 0
    runs: tuple[Run, ...] = ()
    """In file order; they hold exactly ``size`` bytes."""
    target: bytes = b""
    """Of a symlink."""


class Problem(NamedTuple):
    """A name that cannot be taken over, and why."""

    path: bytes
    why: str


Found = ForeignEntry | Problem
Names = Callable[[str | bytes], bytes]


class ForeignVolume(Protocol):
    """One disc of others. Everything may raise MediumError, with sector and descriptor."""

    format: str
    """In words."""
    label: str
    created_ns: int
    fingerprint: str
    """Differs from disc to disc: of descriptors and the root directory."""

    def walk(self) -> Iterator[Found]:
        """All names, depth first."""


def namer() -> Names:
    """Names of one directory as a file system can have them, each once."""
    taken: set[bytes] = set()

    def name_of(raw: str | bytes) -> bytes:
        name = plain(raw)
        wanted, number = name, 1
        while name in taken:
            number += 1
            name = _cut(wanted, b"~%d" % number)
        taken.add(name)
        return name

    return name_of


def plain(raw: str | bytes) -> bytes:
    """As a file system can have it; not yet unlike the others of its directory."""
    name = raw if isinstance(raw, bytes) else raw.encode("utf-8", "replace")
    name = name.replace(b"/", b"_").replace(b"\0", b"_")
    if name in (b"", b".", b".."):
        name = b"_" * max(1, len(name))
    if len(name) > NAME_BYTES_MAX:
        name = _cut(name, b"~" + hashlib.sha256(name).hexdigest()[: _MARK_BYTES - 1].encode())
    return name


def _cut(name: bytes, mark: bytes) -> bytes:
    """The mark before the suffix, and no half of a character."""
    stem, dot, suffix = name.rpartition(b".")
    if not stem or len(suffix) > 8:
        stem, dot, suffix = name, b"", b""
    room = NAME_BYTES_MAX - len(mark) - len(dot) - len(suffix)
    if len(stem) > room:
        stem = stem[:room].decode("utf-8", "ignore").encode() or stem[:room]
    return stem + mark + dot + suffix


def merged(runs: Iterable[Run], where: str) -> tuple[Run, ...]:
    """Runs that follow one another as one; MediumError for too many."""
    out: list[Run] = []
    for at, length in runs:
        if length <= 0:
            continue
        if out:
            last, before = out[-1]
            if (at == HOLE and last == HOLE) or (HOLE not in (at, last) and last + before == at):
                out[-1] = (last, before + length)
                continue
        out.append((at, length))
        if len(out) > RUNS_MAX:
            raise MediumError(f"{where}: file is in more than {RUNS_MAX} pieces")
    return tuple(out)


def cut_to(runs: Iterable[Run], size: int, where: str) -> tuple[Run, ...]:
    """The first ``size`` bytes; MediumError where there are fewer."""
    if not 0 <= size <= FILE_BYTES_MAX:
        raise MediumError(f"{where}: file of {size} bytes, expected at most {FILE_BYTES_MAX}")
    out, left = [], size
    for at, length in runs:
        if left <= 0:
            break
        out.append((at, min(length, left)))
        left -= length
    if left > 0:
        raise MediumError(f"{where}: extents hold {size - left} bytes, the file says {size}")
    return merged(out, where)
