"""The audit log: entries of which each carries the hash of the one before.

An entry is one line of JSON: ``n`` its number from 1, ``op`` what happened,
facts of that, ``time_ns`` trusted time, ``clock_ns`` the clock, ``journal`` the
number of the namespace's journal that came next, ``prev`` the SHA-256 (hex) of
the entry before (64 zeros in the first). The head has number and hash of the
last. Entries are put into the same batch as what they tell of: after a crash
both are there or neither. Who changes a byte of an entry changes its hash, which
the next one or the head tells; the head itself is on each disc that is burned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol

import msgspec

from hsmfs.namespace import schema
from hsmfs.namespace.wormrows import DAMAGED, HEAD_KEY, Head, decode_head, encode, entry_key

NONE: Final = "0" * 64
FAULTS_MAX: Final = 1000
"""So many faults are told one by one."""
_json: Final = msgspec.json.Encoder(order="sorted").encode


class Kv(Protocol):
    """Where the log is kept."""

    def get(self, key: bytes) -> bytes | None:
        """A value."""

    def put(self, key: bytes, value: bytes) -> None:
        """Store or replace."""


class Fault(msgspec.Struct, frozen=True):
    """An entry that is not as it was written."""

    number: int
    why: str


def digest(entry: bytes) -> str:
    """What the next entry says of this one."""
    return hashlib.sha256(entry).hexdigest()


def head_of(value: bytes | None) -> Head | None:
    """The stored head; None where there is none that can be read."""
    try:
        return decode_head(value) if value is not None else None
    except DAMAGED:
        return None


class AuditLog:
    """Appends; one writer."""

    def __init__(self, kv: Kv) -> None:
        self.kv = kv
        self.head = head_of(kv.get(HEAD_KEY)) or Head(0, NONE)

    def append(self, op: str, time_ns: int, clock_ns: int, journal: int, **facts: Any) -> None:
        """One more entry."""
        number = self.head.number + 1
        entry = _json(
            {
                **facts,
                "n": number,
                "op": op,
                "time_ns": time_ns,
                "clock_ns": clock_ns,
                "journal": journal,
                "prev": self.head.sha256,
            }
        )
        self.kv.put(entry_key(number), entry)
        self.head = Head(number, digest(entry))
        self.kv.put(HEAD_KEY, encode(self.head))


def parsed(entry: bytes) -> dict[str, Any] | None:
    """An entry's fields; None for what is no JSON object."""
    try:
        found = msgspec.json.decode(entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def verify(backwards: Iterable[tuple[bytes, bytes]], head: Head | None) -> Iterator[Fault]:
    """All faults, from the last entry to the first; items come in falling order of keys.

    An entry is right if its hash is what the one after it says, and that is
    right itself; the last one's hash is in the head. So each change is told by
    the number of the entry that was changed, cut or put in.
    """
    if head is None:
        yield Fault(0, "the head is missing or damaged: whether entries are cut off is not known")
    expected = head.number if head is not None else -1
    wanted = head.sha256 if head is not None else ""
    doubtful = False
    for key, entry in backwards:
        number = schema.U64.unpack_from(key, 1)[0] if len(key) == 9 else -1
        if expected < 0 and head is None and number > 0:
            expected = number
        if number < 1 or number > expected:
            yield Fault(max(number, 0), "was put in: no such number was written")
            continue
        if number < expected:
            yield _missing(number + 1, expected)
            wanted = ""
            doubtful = False
        why = _fault(entry, number, wanted, doubtful)
        if why:
            yield Fault(number, why)
        fields = parsed(entry) or {}
        prev = fields.get("prev")
        expected, wanted = number - 1, prev if isinstance(prev, str) else ""
        doubtful = bool(why)
    if expected > 0:
        yield _missing(1, expected)
    elif wanted not in ("", NONE) and not doubtful:
        yield Fault(1, "was changed: it tells of an entry before the first")


def _fault(entry: bytes, number: int, wanted: str, doubtful: bool) -> str:
    """What is wrong with an entry; ``doubtful``: so is who says which hash it should have."""
    if wanted and digest(entry) != wanted:
        if doubtful:
            return "is not proved: the entry after it was changed"
        return "was changed: its hash is not what the log tells after it"
    fields = parsed(entry)
    if fields is None or fields.get("n") != number or not isinstance(fields.get("prev"), str):
        return "was changed: it is no entry of this number"
    return ""


def _missing(first: int, last: int) -> Fault:
    return Fault(first, "is missing" if first == last else f"to {last} are missing")


def is_whole(entries: Iterable[tuple[bytes, bytes]], head: Head | None) -> bool:
    """Whether ``verify`` would find nothing, from the first entry to the last."""
    number, last = 0, NONE
    for key, entry in entries:
        number += 1
        fields = parsed(entry) or {}
        if key != entry_key(number) or fields.get("n") != number or fields.get("prev") != last:
            return False
        last = digest(entry)
    return head == Head(number, last)
