"""How fast each rule may work, how much of it is under way, and whether it is suspended.

Rates are buckets that fill by the clock; a rule of which too many files fail
is suspended with one alarm, until its time is over or a person runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hsmfs.clock import Clock
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found
from hsmfs.daemon.policy.rules import MigrateRule, Pace, ReleaseRule

BURST_S: Final = 60.0
"""A rate saves up for so long."""
SUSPENDED_S: Final = 3_600.0
SAMPLE_MIN: Final = 50
"""Files of which at least so many ended before their errors count as a rate."""
WINDOW_FILES: Final = 10_000
"""The rate is that of about so many files."""
HELD: Final = "stays queued"
"""Beginning of why a file still waits (for people, for the library): no error of a rule."""


class RulePace:
    """One rule at work."""

    def __init__(self, name: str, pace: Pace, clock: Clock, alarms: Alarms) -> None:
        self.name = name
        self.pace = pace
        self.under_way = 0
        self._clock = clock
        self._alarms = alarms
        self._done = self._failed = 0.0
        self._suspended_until_s = 0.0
        self._files = pace.files_per_s * BURST_S
        self._bytes = pace.bytes_per_s * BURST_S
        self._filled_s = clock.monotonic_s()

    def may_work(self) -> bool:
        """Whether it is not suspended."""
        if self._suspended_until_s and self._clock.monotonic_s() >= self._suspended_until_s:
            self.resume()
        return not self._suspended_until_s

    def resume(self) -> None:
        """By hand, or because its time is over."""
        if self._suspended_until_s:
            self._alarms.clear(self._alarm)
        self._suspended_until_s = self._done = self._failed = 0.0

    @property
    def _alarm(self) -> str:
        return f"rule {self.name}"

    def take(self, files: Sequence[Found], *, bounded: bool = True) -> list[Found]:
        """The first of these that may begin now."""
        if not bounded:
            return list(files)
        self._fill()
        pace, taken = self.pace, []
        room = pace.at_once - self.under_way if pace.at_once else len(files)
        for item in files[: max(0, room)]:
            if (pace.files_per_s and self._files < 1) or (pace.bytes_per_s and self._bytes <= 0):
                break
            self._files -= 1
            self._bytes -= item.size
            taken.append(item)
        return taken

    def _fill(self) -> None:
        now_s, pace = self._clock.monotonic_s(), self.pace
        passed_s, self._filled_s = now_s - self._filled_s, now_s
        self._files = _filled(self._files, pace.files_per_s, passed_s, 1)
        self._bytes = _filled(self._bytes, pace.bytes_per_s, passed_s, 1)

    def job(self, parent: Job) -> RuleJob:
        """A job whose files this rule counts, and that tells the parent."""
        return RuleJob(parent.id, parent.kind, pace=self, parent=parent)

    def let_go(self) -> None:
        """One file that is no longer told of."""
        self.under_way = max(0, self.under_way - 1)

    def ended(self, *, well: bool) -> None:
        """One file; the rule is suspended when too many do not end well."""
        self.let_go()
        if self._done + self._failed >= WINDOW_FILES:
            self._done, self._failed = self._done / 2, self._failed / 2
        self._done += well
        self._failed += not well
        total = self._done + self._failed
        if total < SAMPLE_MIN or self._failed <= self.pace.errors * total:
            return
        if not self._suspended_until_s:
            self._suspended_until_s = self._clock.monotonic_s() + SUSPENDED_S
            self._alarms.raise_(
                self._alarm,
                f"rule {self.name!r} is suspended for an hour: {self._failed:.0f} of its last "
                f"{total:.0f} files failed, more than {self.pace.errors:.0%}; hsm policy run "
                "tries again at once",
            )


def _filled(have: float, per_s: float, passed_s: float, least: float) -> float:
    return min(max(per_s * BURST_S, least), have + per_s * passed_s) if per_s else 0.0


@dataclass(slots=True)
class RuleJob(Job):
    """Counts for a rule and for the job that was asked for."""

    pace: RulePace | None = None
    parent: Job | None = None

    def done(self, size: int) -> None:
        """One file went well."""
        assert self.pace is not None and self.parent is not None
        self.pace.ended(well=True)
        self.parent.done(size)

    def fail(self, why: str) -> None:
        """One file did not; or it goes on waiting, which is no error."""
        assert self.pace is not None and self.parent is not None
        if HELD in why:
            self.pace.let_go()
        else:
            self.pace.ended(well=False)
        self.parent.fail(why)


class Paces:
    """All rules of a policy."""

    def __init__(self, clock: Clock, alarms: Alarms) -> None:
        self._clock = clock
        self._alarms = alarms
        self._rules: dict[str, RulePace] = {}

    def of(self, rule: MigrateRule | ReleaseRule) -> RulePace:
        """One of them."""
        known = self._rules.get(rule.name)
        if known is None:
            known = RulePace(rule.name, rule.pace, self._clock, self._alarms)
            self._rules[rule.name] = known
        return known

    def resume(self) -> None:
        """By hand: none is suspended any more."""
        for one in self._rules.values():
            one.resume()
