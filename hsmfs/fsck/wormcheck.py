"""Retention and holds: nothing that is settled or held gets free by damage or repair.

The audit log tells which files are settled and until when; rows tell it of
each file; the flags of records are what operations look at. Each is made right
from the one before it, and where all that is left is a flag, the file is kept.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import numpy as np

from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.subject import Subject
from hsmfs.namespace import keeping, schema
from hsmfs.namespace.audit import head_of, is_whole, parsed
from hsmfs.namespace.recovery import VERSION_KEY
from hsmfs.namespace.trustedtime import TimeRow
from hsmfs.namespace.wormrows import (
    DAMAGED,
    DATES,
    ENTRIES,
    HEAD_KEY,
    HOLDS,
    KEPT,
    PENDING,
    TIME_KEY,
    TREES,
    Hold,
    Kept,
    Tree,
    date_key,
    decode_holds,
    decode_kept,
    decode_tree,
    encode,
    hold_key,
    ino_of,
    kept_key,
    pending_key,
    tree_key,
)
from hsmfs.namespace.wormview import apply_entry
from hsmfs.records import DTYPE, FLAG_HELD, FLAG_SETTLED, FLAG_WORM

LONGEST: Final = "30y"
"""How long a settled file is kept from now on whose date is lost."""
UNKNOWN: Final = "unknown: its reason was lost"
KEY_BYTES: Final = {b"Wt": 10, b"Wi": 10, b"Wp": 18, b"We": 18, b"Wh": 10, b"Wc": 2}


def check_worm(subject: Subject) -> Iterator[Finding]:
    """All of it; nothing to do in a namespace that never had a retention or hold."""
    version = subject.work.get(VERSION_KEY)
    has_any = subject.work.has(b"W", b"X") or subject.work.has(*ENTRIES)
    if not has_any and version != b"%d" % schema.WORM_VERSION:
        return
    check = _WormCheck(subject)
    yield from check.log()
    yield from check.rows()
    yield from check.kept()
    yield from check.order()
    yield from check.flags()


def _records(subject: Subject) -> Iterator[Any]:
    for items in subject.work.chunks(b"I", b"J"):
        yield np.frombuffer(b"".join(value for _, value in items), dtype=DTYPE)


class _WormCheck:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.work = subject.work
        self.dates: dict[int, int] = {}
        """What the log tells of settled files that are not removed."""
        self.holds: dict[int, list[Hold]] = {}
        self.trees: dict[int, Tree] = {}
        self.last_ns = 0

    def _finding(self, ino: int, found: str, expected: str, repair: str) -> Finding:
        where = "audit log" if not ino else ""
        return self.subject.finding(Kind.WORM, ino, found, expected, repair, where)

    # -- the log -----------------------------------------------------------------------

    def log(self) -> Iterator[Finding]:
        """Told, never changed: a log that is repaired proves nothing."""
        if not is_whole(self.work.scan(*ENTRIES), head_of(self.work.get(HEAD_KEY))):
            found, expected = "a chain that is broken", "each entry's hash in the next"
            yield self._finding(0, found + "; hsm log verify tells where", expected, "")
        for _, value in self.work.scan(*ENTRIES):
            entry = parsed(value) or {}
            apply_entry(self.dates, entry)
            self._replay(entry)
        yield from self._time()

    def _replay(self, entry: dict[str, Any]) -> None:
        op, ino = entry.get("op"), entry.get("ino")
        time_ns = entry.get("time_ns")
        if isinstance(time_ns, int):
            self.last_ns = max(self.last_ns, time_ns)
        if op == "retention" and isinstance(ino, int):
            self.trees[ino] = Tree(str(entry.get("settle")), str(entry.get("keep")))
        elif op == "retention-off" and ino in self.trees:
            self.trees[ino].off = True
        elif op in ("hold", "hold-clear", "delete"):
            for file in entry.get("files") or []:
                self._replay_hold(op, file[0], entry)

    def _replay_hold(self, op: str, ino: int, entry: dict[str, Any]) -> None:
        reason, known = str(entry.get("reason", "")), self.holds.pop(ino, [])
        rest = [one for one in known if reason and one.reason != reason]
        if op == "hold":
            rest = [*known, Hold(reason, str(entry.get("by")), int(entry.get("time_ns") or 0))]
        if rest and op != "delete":
            self.holds[ino] = rest

    def _time(self) -> Iterator[Finding]:
        value = self.work.get(TIME_KEY)
        try:
            if value is not None:
                msgspec.msgpack.decode(value, type=TimeRow)
                return
        except DAMAGED:
            pass
        self.work.put(TIME_KEY, encode(TimeRow(self.last_ns or self.subject.now_ns, "", 0)))
        found = "none" if value is None else "a row that cannot be read"
        yield self._finding(0, f"trusted time: {found}", "its row", "set to the log's last entry")

    # -- rows --------------------------------------------------------------------------

    def rows(self) -> Iterator[Finding]:
        """Trees and holds, and keys of no known shape."""
        for key, _ in self.work.scan(b"W", b"X"):
            if KEY_BYTES.get(key[:2]) != len(key):
                self.work.delete(key)
                found = f"key {key[:40]!r}"
                yield self._finding(0, found, "a key of table W", "removed; it is in the backup")
        yield from self._trees()
        yield from self._holds()

    def _trees(self) -> Iterator[Finding]:
        stored: dict[int, Tree | None] = {}
        for key, value in self.work.scan(*TREES):
            stored[ino_of(key)] = _decoded(decode_tree, value)
        for ino in sorted(stored.keys() | self.trees.keys()):
            tree = stored.get(ino)
            if not stat.S_ISDIR(self.subject.kind_of(ino)):
                if ino in stored:
                    self.work.delete(tree_key(ino))
                    found = "a retention of a directory that is gone"
                    yield self._finding(ino, found, "a directory", "removed; settled files stay")
                continue
            if tree is None:
                made = self.trees.get(ino, Tree("1d", LONGEST))
                made.taking = not made.off
                self.work.put(tree_key(ino), encode(made))
                todo = f"kept {made.keep}, as the log tells, or the longest"
                yield self._finding(ino, "no retention that can be read", "its row", todo)

    def _holds(self) -> Iterator[Finding]:
        stored = {ino_of(key): _decoded(decode_holds, value) for key, value in
                  self.work.scan(*HOLDS)}  # fmt: skip
        for ino in sorted(stored.keys() | self.holds.keys()):
            if not self.subject.kind_of(ino):
                if ino in stored:
                    self.work.delete(hold_key(ino))
                    yield self._finding(ino, "a hold of a missing inode", "its inode", "removed")
            elif not stored.get(ino):
                holds = self.holds.get(ino) or [Hold(UNKNOWN, "hsm fsck", self.subject.now_ns)]
                self.work.put(hold_key(ino), encode(holds))
                yield self._finding(ino, "no hold that can be read", "its hold", "written anew")

    def kept(self) -> Iterator[Finding]:
        """The rows of files."""
        for key, value in self.work.scan(*KEPT):
            ino, kept = ino_of(key), _decoded(decode_kept, value)
            kind = self.subject.kind_of(ino)
            if not kind or stat.S_ISDIR(kind):
                self.work.delete(key)
                yield self._finding(ino, "a date of a missing file", "its inode", "removed")
            elif kept is None:
                yield self._restore(ino, "a row that cannot be read")
            elif ino in self.dates and kept.until_ns < self.dates[ino]:
                yield self._restore(ino, f"kept until {_shown(kept.until_ns)}")
        for ino in self.dates:
            if self.work.get(kept_key(ino)) is None and self.subject.kind_of(ino):
                yield self._restore(ino, "no date")

    def _restore(self, ino: int, found: str) -> Finding:
        """From the log; a file that it does not know waits to settle, or is kept long."""
        record = self.subject.record(ino)
        settled = record is not None and record.flags & FLAG_SETTLED
        now_ns = max(self.last_ns, 0) or self.subject.now_ns
        until_ns = self.dates.get(ino, keeping.after(now_ns, LONGEST) if settled else 0)
        row = Kept(0, now_ns, 0 if until_ns else now_ns, now_ns if until_ns else 0, until_ns)
        row.tree = self._tree_of(ino)
        self.work.put(kept_key(ino), encode(row))
        expected = f"until {_shown(until_ns)}" if until_ns else "waiting to settle"
        return self._finding(ino, found, expected, "written anew")

    def _tree_of(self, ino: int) -> int:
        for _ in range(keeping.YEARS_MAX * 20):
            if self.work.get(tree_key(ino)) is not None:
                return ino
            place = next(self.work.scan(*schema.link_range(ino), chunk=1), None)
            if place is None or len(place[0]) < 18:
                return 0
            ino = schema.U64.unpack_from(place[0], 9)[0]
        return 0

    def order(self) -> Iterator[Finding]:
        """What sums up the rows: those that are due, and dates."""
        wrong = 0
        for table in (PENDING, DATES):
            for key, _ in self.work.scan(*table):
                value = self.work.get(kept_key(ino_of(key)))
                kept = _decoded(decode_kept, value) if value is not None else None
                if kept is None or _place(ino_of(key), kept) != key:
                    self.work.delete(key)
                    wrong += 1
        for key, value in self.work.scan(*KEPT):
            kept = _decoded(decode_kept, value)
            if kept is not None and self.work.get(_place(ino_of(key), kept)) is None:
                self.work.put(_place(ino_of(key), kept), b"")
                wrong += 1
        if wrong and not self.subject.summary.found:
            yield self._finding(0, f"{wrong} files in no order of dates", "all", "put in order")

    # -- flags -------------------------------------------------------------------------

    def flags(self) -> Iterator[Finding]:
        """Records have the flags that their rows tell, and none loses one."""
        for key, value in self.work.scan(*KEPT):
            kept = _decoded(decode_kept, value)
            if kept is not None:
                flags = FLAG_WORM | (FLAG_SETTLED if kept.until_ns else 0)
                yield from self._have(ino_of(key), flags, "a settled file without its flag")
        for key, _ in self.work.scan(*HOLDS):
            yield from self._have(ino_of(key), FLAG_HELD, "a held file without its flag")
        for key, _ in self.work.scan(*TREES):
            yield from self._have(ino_of(key), FLAG_WORM, "a tree without its flag")
        for records in _records(self.subject):
            for flag, key_of in ((FLAG_SETTLED, kept_key), (FLAG_HELD, hold_key)):
                for ino in records["ino"][records["flags"] & flag > 0].tolist():
                    if self.work.get(key_of(ino)) is None:
                        yield self._alone(ino, flag)
            yield from self._lost_tops(records)
        for records in _records(self.subject):
            yield from self._lost_waiting(records)

    def _lost_tops(self, records: Any) -> Iterator[Finding]:
        """Directories in a tree of which nobody knows any more."""
        folders = records["mode"] & 0o170000 == stat.S_IFDIR
        for ino in records["ino"][folders & (records["flags"] & FLAG_WORM > 0)].tolist():
            place = next(self.work.scan(*schema.link_range(ino), chunk=1), None)
            above = schema.U64.unpack_from(place[0], 9)[0] if place is not None else 0
            record = self.subject.record(above)
            if self._tree_of(ino) or (record is not None and record.flags & FLAG_WORM):
                continue
            self.work.put(tree_key(ino), encode(Tree("1d", LONGEST, taking=True)))
            found = "in a tree with a retention that is lost"
            yield self._finding(ino, found, "a retention", f"a tree of its own, kept {LONGEST}")

    def _lost_waiting(self, records: Any) -> Iterator[Finding]:
        """Files in a tree of which nobody knows that they wait."""
        files = records["mode"] & 0o170000 != stat.S_IFDIR
        files &= records["flags"] & (FLAG_WORM | FLAG_SETTLED) == FLAG_WORM
        for ino in records["ino"][files & (records["nlink"] > 0)].tolist():
            if self.work.get(kept_key(ino)) is not None:
                continue
            value = self.work.get(tree_key(self._tree_of(ino)))
            tree = _decoded(decode_tree, value) if value is not None else None
            if tree is not None and not tree.off:
                finding = self._restore(ino, "in a tree, but it would never settle")
                self._put_place(ino)
                yield finding

    def _have(self, ino: int, flags: int, found: str) -> Iterator[Finding]:
        record = self.subject.record(ino)
        if record is not None and record.flags & flags != flags:
            record.flags |= flags
            self.subject.save(record)
            yield self._finding(ino, found, "nobody may change it", "set")

    def _alone(self, ino: int, flag: int) -> Finding:
        if flag == FLAG_HELD:
            hold = Hold(UNKNOWN, "hsm fsck", self.subject.now_ns)
            self.work.put(hold_key(ino), encode([hold]))
            return self._finding(ino, "a flag of a hold", "a hold", "held until it is cleared")
        finding = self._restore(ino, "a flag of a settled file without a date")
        self._put_place(ino)
        return finding

    def _put_place(self, ino: int) -> None:
        kept = decode_kept(self.work.get(kept_key(ino)) or b"")
        self.work.put(_place(ino, kept), b"")


def _decoded(decode: Any, value: bytes) -> Any:
    try:
        return decode(value)
    except DAMAGED:
        return None


def _shown(until_ns: int) -> str:
    return keeping.shown(until_ns) if until_ns else "no date"


def _place(ino: int, kept: Kept) -> bytes:
    if kept.until_ns:
        return date_key(min(kept.until_ns, (1 << 64) - 1), ino)
    return pending_key(kept.due_ns, ino)
