"""Trusted time and the audit log of a namespace, from the first retention or hold on."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog

from hsmfs.errors import CallerError
from hsmfs.namespace import schema
from hsmfs.namespace.audit import AuditLog, parsed
from hsmfs.namespace.tables import Tables
from hsmfs.namespace.trustedtime import Jump, TimeRow, TrustedTime
from hsmfs.namespace.wormrows import DAMAGED, ENTRIES, HEAD_KEY, TIME_KEY, encode

log = structlog.get_logger(__name__)
VERSION_KEY: Final = b"Mversion"
SAVE_NS: Final = 60 * 10**9
"""How often the row is stored when nothing happens."""
STEP_TOLD_NS: Final = 600 * 10**9
"""Steps after a start of the machine that are longer are told in the audit log."""
_WORDS: Final = {
    "ahead": "the clock is ahead of trusted time: dates of retention come later than it shows; "
    "if the clock is right: hsm retention time --accept",
    "behind": "the clock is behind trusted time: was it set back?",
    "together": "the clock and trusted time agree again",
    "stepped": "trusted time stepped to the clock after a start of the machine",
}


def time_row(value: bytes | None) -> TimeRow | None:
    """The stored row; CallerError where it cannot be read."""
    if value is None:
        return None
    try:
        return msgspec.msgpack.decode(value, type=TimeRow)
    except DAMAGED as error:
        raise CallerError(
            f"namespace: row {TIME_KEY!r} of trusted time: {error}; hsm fsck --repair"
        ) from None


class WormClock:
    """Now, as dates count it, and what happened when."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.clock = tables.clock
        self.audit = AuditLog(tables.kv)
        row = time_row(tables.kv.get(TIME_KEY))
        if row is None and self.audit.head.number:
            row = self._from_last_entry()
        self._time = TrustedTime(row) if row is not None else None
        self._saved_ns = row.trusted_ns if row is not None else 0

    def _from_last_entry(self) -> TimeRow | None:
        """The row is lost: time was at least so late."""
        for _, entry in self.tables.kv.scan(*ENTRIES, reverse=True, limit=1):
            told = (parsed(entry) or {}).get("time_ns")
            return TimeRow(told, "", 0) if isinstance(told, int) else None
        return None

    @property
    def is_running(self) -> bool:
        return self._time is not None

    def begin(self) -> None:
        """Nothing is done where it runs already."""
        if self._time is not None:
            return
        self._time = TrustedTime.begin(self.clock.now_ns(), *self.clock.boot())
        self.tables.kv.put(VERSION_KEY, b"%d" % schema.WORM_VERSION)
        if self.audit.head.number == 0:
            self.tables.kv.put(HEAD_KEY, encode(self.audit.head))
        self._save()
        self.tell("begin", credit_ns=self._time.row.credit_ns)

    def now_ns(self) -> int:
        """Trusted time."""
        assert self._time is not None
        return self._time.now_ns(*self.clock.boot())

    def look(self) -> None:
        """Compare with the clock; alarms and the log have what differs."""
        assert self._time is not None
        jumps = self._time.look(self.clock.now_ns(), *self.clock.boot())
        for jump in jumps:
            self._tell_jump(jump)
        if jumps or self._time.row.trusted_ns - self._saved_ns > SAVE_NS:
            self._save()

    def _tell_jump(self, jump: Jump) -> None:
        if jump.what == "stepped" and jump.by_ns < STEP_TOLD_NS:
            return
        self.tell("clock", what=jump.what, by_ns=jump.by_ns)
        tell = log.error if jump.what in ("ahead", "behind") else log.info
        tell(_WORDS[jump.what], seconds=jump.by_ns // 10**9)

    def accept(self, by: str) -> int:
        """The clock is right; by how much trusted time went forward."""
        assert self._time is not None
        lead_ns = self._time.accept(self.clock.now_ns(), *self.clock.boot())
        self.tell("accept", by_ns=lead_ns, by=by)
        self._save()
        return lead_ns

    def _save(self) -> None:
        assert self._time is not None
        self._saved_ns = self._time.row.trusted_ns
        self.tables.kv.put(TIME_KEY, encode(self._time.row))

    def tell(self, op: str, **facts: Any) -> None:
        """An entry of the audit log, in the batch of what it tells of."""
        journal = self.tables.journal_next
        self.audit.append(op, self.now_ns(), self.clock.now_ns(), journal, **facts)
