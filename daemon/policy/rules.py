"""Rules of a loaded policy: what each is about and when it works."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from hsmfs.daemon.policy.conditions import NO_NAMES, Compiled, Explained, Names
from hsmfs.daemon.policy.facts import Facts
from hsmfs.daemon.policy.syntax import PolicySyntax

MINUTES_OF_DAY: Final = 24 * 60
YEAR_S: Final = 365 * 86_400.0
ERRORS_DEFAULT: Final = 0.1
"""Share of failing files above which a rule is suspended, where it does not say."""

OrderKey = Callable[[Facts], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class PoolDefaults:
    """What a pool gets that does not say it."""

    burn_max_wait_s: float | None = 604_800.0
    head_bytes: int = 64 * 1024
    parity: int = 0
    scrub_s: float = 2 * YEAR_S
    """0: never."""
    scrub_percent: float = 100.0
    recovery_percent: float = 0.0


@dataclass(frozen=True, slots=True)
class Pool:
    """A volume pool: how files are burned."""

    name: str
    copies: int
    spread: str
    burn_when_full: bool
    burn_max_wait_s: float | None
    """How long a file waits for a full volume; None: for ever."""
    head_bytes: int
    line: int
    offsite: int = 0
    """Of the copies, how many are taken off-site."""
    parity: int = 0
    """Parity discs of each magazine over volumes of this pool."""
    scrub_s: float = 0.0
    """Discs are read again once in so long; 0: never."""
    scrub_percent: float = 100.0
    """So much of a disc's data each time."""
    reclaim_dead: float | None = None
    """Volumes with a greater dead share are reclaimed; None: only by hand."""
    recovery_percent: float = 0.0
    """Recovery data on each disc, as a share of its data."""


@dataclass(frozen=True, slots=True)
class Window:
    """A time of day, in minutes since midnight; it may go over midnight."""

    start: int
    stop: int

    def is_open(self, minute: int) -> bool:
        """Whether it is open in this minute of the day."""
        if self.start < self.stop:
            return self.start <= minute < self.stop
        return minute >= self.start or minute < self.stop

    def wait_minutes(self, minute: int) -> int:
        """Minutes until it opens; 0: it is open."""
        return 0 if self.is_open(minute) else (self.start - minute) % MINUTES_OF_DAY


@dataclass(frozen=True, slots=True)
class Pace:
    """When a rule works, how fast, and at which share of errors it stops."""

    window: Window | None = None
    files_per_s: float = 0.0
    """0: without bound."""
    bytes_per_s: float = 0.0
    """0: without bound."""
    at_once: int = 0
    """0: without bound."""
    errors: float = ERRORS_DEFAULT

    def is_open(self, minute: int) -> bool:
        """Whether the rule works in this minute of the day."""
        return self.window is None or self.window.is_open(minute)


ALWAYS_OPEN: Final = Pace()


@dataclass(frozen=True, slots=True)
class FileRule:
    """A rule about single files."""

    name: str
    condition: Compiled
    line: int

    def matches(self, facts: Facts, now_ns: int) -> bool:
        """Whether the rule's condition holds for the file."""
        return self.condition.test(facts, now_ns)

    def explain(self, facts: Facts, now_ns: int) -> list[Explained]:
        """Each comparison of the rule, with the file's value and whether it holds."""
        return self.condition.explain(facts, now_ns)


@dataclass(frozen=True, slots=True)
class MigrateRule(FileRule):
    """Files that are to be copied to a pool."""

    pool: str
    pace: Pace = ALWAYS_OPEN


@dataclass(frozen=True, slots=True)
class PinRule(FileRule):
    """Files that are never released."""


@dataclass(frozen=True, slots=True)
class DemoteRule(FileRule):
    """Files whose data is to go to a slower tier."""

    tier: str
    to: str
    pace: Pace = ALWAYS_OPEN


@dataclass(frozen=True, slots=True)
class RecallAheadRule(FileRule):
    """Files whose siblings come back along with them, up to so many bytes."""

    bytes_max: int


@dataclass(frozen=True, slots=True)
class RetainRule(FileRule):
    """Files that are kept for so long, and may not be changed after they settled."""

    period_s: float
    settle_s: float | None
    """None: they may be changed."""


@dataclass(frozen=True, slots=True)
class LimitRule(FileRule):
    """How fast files are recalled for a user or a program (empty: for all)."""

    user: str
    program: str
    pace: Pace


@dataclass(frozen=True, slots=True)
class ReleaseRule:
    """When a tier is emptied, how far, and which files go first."""

    name: str
    tier: str
    start_fraction: float
    stop_fraction: float
    order: tuple[tuple[str, bool], ...]
    """Pairs of a fact and whether its greatest value comes first."""
    order_key: OrderKey
    """The sort key of a file: the smallest is released first."""
    line: int
    pace: Pace = ALWAYS_OPEN

    def should_start(self, used_fraction: float) -> bool:
        """Whether the tier is so full that release begins."""
        return used_fraction > self.start_fraction

    def should_stop(self, used_fraction: float) -> bool:
        """Whether enough has been released."""
        return used_fraction < self.stop_fraction

    def ordered(self, files: Iterable[Facts]) -> list[Facts]:
        """The files in the order in which they are released."""
        return sorted(files, key=self.order_key)


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules of one file, in order; the first that matches decides."""

    file_name: str
    syntax: PolicySyntax
    pools: dict[str, Pool]
    migrate: tuple[MigrateRule, ...]
    release: tuple[ReleaseRule, ...]
    pin: tuple[PinRule, ...]
    demote: tuple[DemoteRule, ...] = ()
    recall_ahead: tuple[RecallAheadRule, ...] = ()
    retain: tuple[RetainRule, ...] = ()
    limit: tuple[LimitRule, ...] = ()
    warnings: tuple[str, ...] = ()
    """What is allowed and probably not meant, each with its line."""
    names: Names = field(default=NO_NAMES, compare=False, repr=False)

    def migrate_rule_for(self, facts: Facts, now_ns: int) -> MigrateRule | None:
        """The first rule that sends the file to a pool."""
        for rule in self.migrate:
            if rule.condition.test(facts, now_ns):
                return rule
        return None

    def is_pinned(self, facts: Facts, now_ns: int) -> PinRule | None:
        """The first rule that forbids the file's release."""
        for rule in self.pin:
            if rule.condition.test(facts, now_ns):
                return rule
        return None

    def not_carried_out(self) -> list[str]:
        """Rules that hsmd does not act upon yet, in words."""
        kinds: list[tuple[str, tuple[FileRule, ...], str]] = [
            ("demote", self.demote, "data stays in its tier"),
            ("retain", self.retain, "hsm retention set DIR makes a tree write-once"),
            ("limit", self.limit, "recalls have no limit"),
        ]
        return [
            f"line {rule.line}: {kind} {rule.name!r} is checked but not carried out yet: {so}"
            for kind, rules, so in kinds
            for rule in rules
        ]

    def release_rule_for(self, tier: str) -> ReleaseRule | None:
        """The rule that keeps a tier from filling up."""
        return next((rule for rule in self.release if rule.tier == tier), None)
