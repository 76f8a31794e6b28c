"""Rules ready to use: compiled from the syntax, every name in them checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from hsmfs.config import did_you_mean
from hsmfs.daemon.policy.conditions import (
    Compiled,
    Explained,
    compile_condition,
    count,
    duration_ns,
    find_fact,
    size_bytes,
)
from hsmfs.daemon.policy.facts import FACTS, SECOND_NS, FactKind, Facts
from hsmfs.daemon.policy.lexer import Source, Span, shown
from hsmfs.daemon.policy.parser import parse
from hsmfs.daemon.policy.syntax import (
    MigrateStatement,
    OrderItem,
    PinStatement,
    PolicySyntax,
    PoolStatement,
    Quantity,
    ReleaseStatement,
    ScrubClause,
    Statement,
    Text,
    Word,
)

__all__ = [
    "Explained",
    "Facts",
    "MigrateRule",
    "PinRule",
    "Policy",
    "Pool",
    "PoolDefaults",
    "ReleaseRule",
    "load_policy",
]

COPIES_MAX: Final = 16
HEAD_BYTES_MAX: Final = 2**30
PARITY_MAX: Final = 2
YEAR_S: Final = 365 * 86_400.0
SPREADS: Final = ("magazine",)

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


@dataclass(frozen=True, slots=True)
class PinRule(FileRule):
    """Files that are never released."""


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

    def release_rule_for(self, tier: str) -> ReleaseRule | None:
        """The rule that keeps a tier from filling up."""
        return next((rule for rule in self.release if rule.tier == tier), None)


def load_policy(
    text: str,
    file_name: str,
    tiers: set[str],
    magazines: int | None,
    defaults: PoolDefaults = PoolDefaults(),
) -> Policy:
    """Parse, check and compile a policy.

    ``tiers`` are those of the configuration; ``magazines`` is how many the
    library has, None if that is not known yet.
    """
    syntax = parse(text, file_name)
    loader = _Loader(Source(text, file_name), tiers, magazines, defaults)
    loader.check_names(syntax.statements)
    return loader.policy(syntax)


class _Loader:
    def __init__(
        self, source: Source, tiers: set[str], magazines: int | None, defaults: PoolDefaults
    ) -> None:
        self._source = source
        self._tiers = tiers
        self._magazines = magazines
        self._defaults = defaults
        self._pools: set[str] = set()

    def policy(self, syntax: PolicySyntax) -> Policy:
        statements = syntax.statements
        return Policy(
            self._source.file_name,
            syntax,
            {s.name.text: self._pool(s) for s in statements if isinstance(s, PoolStatement)},
            tuple(self._migrate(s) for s in statements if isinstance(s, MigrateStatement)),
            tuple(self._release(s) for s in statements if isinstance(s, ReleaseStatement)),
            tuple(self._pin(s) for s in statements if isinstance(s, PinStatement)),
        )

    def check_names(self, statements: Iterable[Statement]) -> None:
        """Refuse two pools, two rules of one name, and two release rules of one tier."""
        pools: dict[str, Span] = {}
        rules: dict[str, Span] = {}
        released: dict[str, Span] = {}
        for statement in statements:
            if isinstance(statement, PoolStatement):
                self._once(statement.name, pools, "pool", "give each pool a name of its own")
                continue
            self._once(statement.name, rules, "rule", "give each rule a name of its own")
            if isinstance(statement, ReleaseStatement):
                self._once(statement.tier, released, "release rule for tier", "join them to one")
        self._pools = set(pools)

    def _once(self, name: Text, seen: dict[str, Span], what: str, todo: str) -> None:
        first = seen.setdefault(name.text, name.span)
        if first != name.span:
            found = f"a second {what} {name}"
            expected = f"only the one of line {first.line}"
            raise self._source.error(name.span, found, expected, todo)

    def _pool(self, statement: PoolStatement) -> Pool:
        burn = statement.burn
        if burn is None:
            wait_s = self._defaults.burn_max_wait_s
        elif burn.oldest is None:
            wait_s = None
        else:
            wait_s = duration_ns(burn.oldest, self._source) / SECOND_NS
        copies = self._copies(statement.copies)
        scrub_s, percent = self._scrub(statement.scrub)
        dead = statement.reclaim
        return Pool(
            name=statement.name.text,
            copies=copies,
            spread=self._spread(statement.spread),
            burn_when_full=burn is None or burn.full,
            burn_max_wait_s=wait_s,
            head_bytes=self._head(statement.head),
            line=statement.name.span.line,
            offsite=self._offsite(statement.offsite, copies),
            parity=self._parity(statement.parity),
            scrub_s=scrub_s,
            scrub_percent=percent,
            reclaim_dead=None if dead is None else self._fraction(dead),
        )

    def _offsite(self, value: Quantity | None, copies: int) -> int:
        if value is None:
            return 0
        offsite = count(value, self._source)
        if offsite >= copies:
            expected = f"fewer than the pool's copies ({copies}): one at least stays at hand"
            raise self._source.error(value.span, shown(str(value)), expected)
        return offsite

    def _parity(self, value: Quantity | None) -> int:
        if value is None:
            return self._defaults.parity
        parity = count(value, self._source)
        if parity > PARITY_MAX:
            expected = f"0 to {PARITY_MAX} parity discs of a magazine"
            raise self._source.error(value.span, shown(str(value)), expected)
        return parity

    def _scrub(self, clause: ScrubClause | None) -> tuple[float, float]:
        """Seconds between two readings (0: never), and percent of the data."""
        if clause is None:
            return self._defaults.scrub_s, self._defaults.scrub_percent
        if clause.every is None:
            return 0.0, self._defaults.scrub_percent
        every_s = duration_ns(clause.every, self._source) / SECOND_NS
        if every_s <= 0:
            todo = "write 'scrub never' to have discs not read again"
            expected = "a duration greater than nothing"
            raise self._source.error(clause.every.span, shown(str(clause.every)), expected, todo)
        return every_s, self._sample(clause.sample)

    def _sample(self, value: Quantity | None) -> float:
        if value is None:
            return self._defaults.scrub_percent
        percent = Fraction(value.number)
        if value.unit != "%" or not 0 < percent <= 100:
            todo = "" if value.unit else f"write {value}%"
            expected = "a share greater than 0%, at most 100%"
            raise self._source.error(value.span, shown(str(value)), expected, todo)
        return float(percent)

    def _copies(self, value: Quantity) -> int:
        copies = count(value, self._source)
        if not 1 <= copies <= COPIES_MAX:
            expected = f"1 to {COPIES_MAX} copies"
            raise self._source.error(value.span, shown(str(value)), expected)
        if self._magazines is not None and copies > self._magazines:
            raise self._source.error(
                value.span,
                f"a pool asking for more copies than magazines ({copies} copies)",
                f"at most {self._magazines}, as many as the library has magazines",
                "each copy goes to a magazine of its own: ask for fewer copies or add magazines",
            )
        return copies

    def _spread(self, word: Word | None) -> str:
        if word is None:
            return SPREADS[0]
        if word.text not in SPREADS:
            todo = did_you_mean(word.text, SPREADS)
            raise self._source.error(word.span, shown(word.text), "'magazine'", todo)
        return word.text

    def _head(self, value: Quantity | None) -> int:
        if value is None:
            return self._defaults.head_bytes
        head_bytes = size_bytes(value, self._source)
        if head_bytes > HEAD_BYTES_MAX:
            raise self._source.error(value.span, shown(str(value)), "a head of at most 1GiB")
        return head_bytes

    def _migrate(self, statement: MigrateStatement) -> MigrateRule:
        pool = statement.pool
        if pool.text not in self._pools:
            raise self._unknown(pool, "pool", self._pools, "write a 'pool' statement for it")
        condition = compile_condition(statement.condition, self._source)
        return MigrateRule(statement.name.text, condition, statement.name.span.line, pool.text)

    def _pin(self, statement: PinStatement) -> PinRule:
        condition = compile_condition(statement.condition, self._source)
        return PinRule(statement.name.text, condition, statement.name.span.line)

    def _release(self, statement: ReleaseStatement) -> ReleaseRule:
        tier = statement.tier
        if tier.text not in self._tiers:
            raise self._unknown(tier, "tier", self._tiers, "tiers are named in the configuration")
        start, stop = self._fraction(statement.start), self._fraction(statement.stop)
        if stop >= start:
            raise self._source.error(
                statement.stop.span,
                shown(str(statement.stop)),
                f"less than {statement.start}, at which release starts",
            )
        order = self._order(statement.order)
        key = _order_key(order)
        name = statement.name
        return ReleaseRule(name.text, tier.text, start, stop, order, key, name.span.line)

    def _unknown(self, name: Text, what: str, known: set[str], todo: str) -> Exception:
        names = ", ".join(sorted(known)) or "there is none"
        todo = did_you_mean(name.text, known) or todo
        expected = f"a {what} that exists: {names}"
        return self._source.error(name.span, f"{what} {name}", expected, todo)

    def _fraction(self, value: Quantity) -> float:
        fraction = Fraction(value.number) / 100
        if value.unit != "%" or not 0 < fraction < 1:
            todo = "" if value.unit else f"write {value}%"
            expected = "a share between 0% and 100%"
            raise self._source.error(value.span, shown(str(value)), expected, todo)
        return float(fraction)

    def _order(self, items: tuple[OrderItem, ...]) -> tuple[tuple[str, bool], ...]:
        for item in items:
            if find_fact(item.fact, self._source).number is None:
                expected = "a fact that is a number or a time"
                raise self._source.error(item.fact.span, shown(item.fact.text), expected)
        order = tuple((item.fact.text, item.descending) for item in items)
        return order or (("heat", False), ("age", True))


def _order_key(order: tuple[tuple[str, bool], ...]) -> OrderKey:
    """Orders by the facts, then by inode, so that two runs agree."""
    parts = [_order_part(fact, descending) for fact, descending in order]
    return lambda facts: (*[part(facts) for part in parts], facts.ino)


def _order_part(name: str, descending: bool) -> Callable[[Facts], float]:
    fact = FACTS[name]
    number = fact.number
    assert number is not None
    # An age is counted from its moment: the later the moment, the smaller the age.
    if descending == (fact.kind is FactKind.DURATION):
        return number
    return lambda facts: -number(facts)
