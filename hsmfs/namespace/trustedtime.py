"""Time that nobody sets: what dates of retention count from.

Trusted time begins as the clock's and goes on with the machine's own count of
seconds since its start (CLOCK_BOOTTIME), which no program can set. The clock is
looked at only where that count began anew, after a start of the machine: then
trusted time steps forward to it, within a credit that is at most ``STEP_MAX_NS``
and grows by one part in ``CREDIT_PART`` of the time that the system ran. So a
clock set forward by years frees nothing, and one set back stops nothing. Beyond
the credit trusted time stays behind (files are kept longer) until an
administrator accepts the clock, which the log tells for ever.
"""

from __future__ import annotations

from typing import Final

import msgspec

DAY_NS: Final = 86_400 * 10**9
STEP_MAX_NS: Final = 7 * DAY_NS
CREDIT_PART: Final = 100
ALARM_NS: Final = 3_600 * 10**9
"""A clock that differs by more is told of."""


class TimeRow(msgspec.Struct, array_like=True):
    """What is kept: trusted time when the machine had run ``boot_ns`` of its run ``boot``."""

    trusted_ns: int
    boot: str
    boot_ns: int
    credit_ns: int = STEP_MAX_NS
    apart: str = ""
    """``ahead`` or ``behind``: the clock differs from trusted time, and that was told."""


class Jump(msgspec.Struct, frozen=True):
    """Something that must be told: ``stepped``, ``ahead``, ``behind``, ``together``."""

    what: str
    by_ns: int
    """The clock's lead before trusted time; of a step, its length."""


class TrustedTime:
    """Goes on by itself; ``look`` compares it with the clock."""

    def __init__(self, row: TimeRow) -> None:
        self.row = row

    @classmethod
    def begin(cls, clock_ns: int, boot: str, boot_ns: int) -> TrustedTime:
        """From the clock, which must be right this once."""
        return cls(TimeRow(clock_ns, boot, boot_ns))

    def now_ns(self, boot: str, boot_ns: int) -> int:
        """As of now; stands still over a start of the machine until ``look``."""
        row = self.row
        if boot != row.boot:
            return row.trusted_ns
        return row.trusted_ns + max(0, boot_ns - row.boot_ns)

    def look(self, clock_ns: int, boot: str, boot_ns: int) -> list[Jump]:
        """Bring the row up to date; what has to be told."""
        row, jumps = self.row, []
        now_ns = self.now_ns(boot, boot_ns)
        grown = (now_ns - row.trusted_ns) // CREDIT_PART
        row.credit_ns = min(STEP_MAX_NS, row.credit_ns + grown)
        if boot != row.boot and clock_ns > now_ns:
            step_ns = min(clock_ns - now_ns, row.credit_ns)
            row.credit_ns -= step_ns
            now_ns += step_ns
            jumps.append(Jump("stepped", step_ns))
        row.trusted_ns, row.boot, row.boot_ns = now_ns, boot, boot_ns
        return jumps + self._apart(clock_ns - now_ns)

    def _apart(self, lead_ns: int) -> list[Jump]:
        """Told once, when it begins and when it ends."""
        apart = ""
        if abs(lead_ns) > ALARM_NS:
            apart = "ahead" if lead_ns > 0 else "behind"
        if apart == self.row.apart:
            return []
        self.row.apart = apart
        return [Jump(apart or "together", lead_ns)]

    def accept(self, clock_ns: int, boot: str, boot_ns: int) -> int:
        """Go forward to the clock, as an administrator says it is right; by how much.

        Never back: dates that were given would come later than they should.
        """
        self.look(clock_ns, boot, boot_ns)
        lead_ns = max(0, clock_ns - self.row.trusted_ns)
        self.row.trusted_ns += lead_ns
        self._apart(clock_ns - self.row.trusted_ns)
        return lead_ns
