"""Retention, holds and the audit log as other processes read them: from a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hsmfs.namespace.audit import Fault, digest, head_of, parsed, verify
from hsmfs.namespace.trustedtime import TimeRow, TrustedTime
from hsmfs.namespace.view import NamespaceView
from hsmfs.namespace.wormrows import (
    DATES,
    ENTRIES,
    HEAD_KEY,
    HOLDS,
    PENDING,
    TIME_KEY,
    TREES,
    Head,
    Hold,
    Tree,
    date_key,
    decode_holds,
    decode_tree,
    entry_key,
    ino_of,
)
from hsmfs.records import FLAG_HELD
from hsmfs.store.interface import Reader


class Dated(msgspec.Struct):
    """A settled file."""

    ino: int
    until_ns: int
    path: bytes
    size: int
    held: bool


class WormView:
    """Questions to one consistent snapshot; changes nothing."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._names = NamespaceView(reader)

    def path(self, ino: int) -> bytes:
        """One of an inode's paths."""
        return next(iter(self._names.paths_of(ino)), b"")

    def trees(self) -> list[tuple[bytes, Tree]]:
        """All directories with a retention, by path."""
        rows = self._reader.scan(*TREES)
        return sorted((self.path(ino_of(key)), decode_tree(value)) for key, value in rows)

    def counts(self) -> tuple[int, int, int]:
        """Files that wait to settle, settled ones, held ones."""
        waiting, settled, held = (
            sum(1 for _ in self._reader.scan(*table)) for table in (PENDING, DATES, HOLDS)
        )
        return waiting, settled, held

    def time(self, boot: str, boot_ns: int) -> tuple[int, TimeRow] | None:
        """Trusted time now, and the row; None without any retention or hold."""
        value = self._reader.get(TIME_KEY)
        if value is None:
            return None
        row = msgspec.msgpack.decode(value, type=TimeRow)
        return TrustedTime(row).now_ns(boot, boot_ns), row

    def expired(self, now_ns: int) -> Iterator[Dated]:
        """Settled files whose date has passed, the oldest date first."""
        for key, _ in self._reader.scan(DATES[0], date_key(now_ns + 1, 0)):
            ino = ino_of(key)
            record = self._names.inode(ino)
            if record is not None:
                until_ns = int.from_bytes(key[2:10], "big")
                held = bool(record.flags & FLAG_HELD)
                yield Dated(ino, until_ns, self.path(ino), record.size, held)

    def holds(self) -> Iterator[tuple[int, bytes, list[Hold]]]:
        """All held files: inode, path, holds."""
        for key, value in self._reader.scan(*HOLDS):
            ino = ino_of(key)
            yield ino, self.path(ino), decode_holds(value)

    # -- the audit log -----------------------------------------------------------------

    def head(self) -> Head | None:
        """Where the log ends; None where there is none."""
        return head_of(self._reader.get(HEAD_KEY))

    def has_log(self) -> bool:
        """Whether there is, or was, a log."""
        some = next(iter(self._reader.scan(*ENTRIES, limit=1)), None)
        return some is not None or self._reader.get(HEAD_KEY) is not None

    def entries(self, since: int = 1) -> Iterator[tuple[int, bytes]]:
        """Number and bytes of the entries from a number on."""
        for key, value in self._reader.scan(entry_key(since), ENTRIES[1]):
            yield int.from_bytes(key[1:9], "big"), value

    def faults(self) -> Iterator[Fault]:
        """What is wrong with the log, from its end to its beginning."""
        return verify(self._reader.scan(*ENTRIES, reverse=True), self.head())

    def has_head(self, noted: Head) -> bool:
        """Whether the log goes through a head that was noted elsewhere."""
        entry = self._reader.get(entry_key(noted.number))
        return entry is not None and digest(entry) == noted.sha256

    def settled_in_log(self) -> dict[int, int]:
        """Dates by inode, as the log tells them: settled and not removed."""
        dates: dict[int, int] = {}
        for _, value in self.entries():
            entry = parsed(value) or {}
            apply_entry(dates, entry)
        return dates


def apply_entry(dates: dict[int, int], entry: dict[str, object]) -> None:
    """What an entry of the log says of dates."""
    op, files = entry.get("op"), entry.get("files")
    if not isinstance(files, list):
        return
    for file in files:
        if not isinstance(file, list) or not file or not isinstance(file[0], int):
            continue
        if op == "settle" and len(file) > 4 and isinstance(file[4], int):
            dates[file[0]] = file[4]
        elif op == "extend" and file[0] in dates:
            dates[file[0]] = max(dates[file[0]], int(str(entry.get("until_ns", 0))))
        elif op == "delete":
            dates.pop(file[0], None)
