"""Rules ready to use: compiled from the syntax, every name in them checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from fractions import Fraction

from hsmfs.config import did_you_mean
from hsmfs.daemon.policy.conditions import (
    Compiled,
    Explained,
    Names,
    compile_condition,
    count,
    duration_ns,
    find_fact,
    size_bytes,
)
from hsmfs.daemon.policy.contradictions import examine
from hsmfs.daemon.policy.facts import (
    DURATION_UNITS_S,
    FACTS,
    SECOND_NS,
    SIZE_UNITS_BYTES,
    FactKind,
    Facts,
)
from hsmfs.daemon.policy.lexer import Source, Span, shown
from hsmfs.daemon.policy.parser import parse
from hsmfs.daemon.policy.pools import PoolLoader, fraction_of
from hsmfs.daemon.policy.rules import (
    ALWAYS_OPEN,
    ERRORS_DEFAULT,
    YEAR_S,
    DemoteRule,
    LimitRule,
    MigrateRule,
    OrderKey,
    Pace,
    PinRule,
    Policy,
    Pool,
    PoolDefaults,
    RecallAheadRule,
    ReleaseRule,
    RetainRule,
    Window,
)
from hsmfs.daemon.policy.syntax import (
    NO_OPTIONS,
    Between,
    Condition,
    DemoteStatement,
    LimitStatement,
    MigrateStatement,
    Options,
    OrderItem,
    PinStatement,
    PolicySyntax,
    PoolStatement,
    Quantity,
    RecallAheadStatement,
    ReleaseStatement,
    RetainStatement,
    Statement,
    Text,
)

__all__ = [
    "YEAR_S",
    "Explained",
    "Facts",
    "MigrateRule",
    "Names",
    "PinRule",
    "Policy",
    "Pool",
    "PoolDefaults",
    "ReleaseRule",
    "load_policy",
]

POOL_DEFAULTS = PoolDefaults()
AHEAD_BYTES_DEFAULT = 4 * 2**30
AT_ONCE_MAX = 1_000_000
ORDERED = (FactKind.DURATION, FactKind.SIZE, FactKind.NUMBER, FactKind.COUNT)
"""What files can be put in order by."""


def load_policy(
    text: str,
    file_name: str,
    tiers: Collection[str],
    magazines: int | None,
    defaults: PoolDefaults = POOL_DEFAULTS,
    names: Names | None = None,
) -> Policy:
    """Parse, check and compile a policy.

    ``tiers`` are those of the configuration, in order of speed; ``magazines``
    is how many the library has, None if that is not known yet; ``names`` knows
    users and groups.
    """
    syntax = parse(text, file_name)
    ordered = tuple(sorted(tiers) if isinstance(tiers, set) else tiers)
    known = replace(names or Names(), tiers=ordered)
    source = Source(text, file_name)
    loader = _Loader(source, known, PoolLoader(source, magazines, defaults))
    loader.check_names(syntax.statements)
    policy = loader.policy(syntax)
    return replace(policy, warnings=tuple(examine(policy, source)))


class _Loader:
    def __init__(self, source: Source, names: Names, pools: PoolLoader) -> None:
        self._source = source
        self._names = names
        self._loader = pools
        self._pools: set[str] = set()

    def policy(self, syntax: PolicySyntax) -> Policy:
        statements = syntax.statements
        return Policy(
            self._source.file_name,
            syntax,
            {s.name.text: self._loader.pool(s) for s in statements if isinstance(s, PoolStatement)},
            tuple(self._migrate(s) for s in statements if isinstance(s, MigrateStatement)),
            tuple(self._release(s) for s in statements if isinstance(s, ReleaseStatement)),
            tuple(self._pin(s) for s in statements if isinstance(s, PinStatement)),
            tuple(self._demote(s) for s in statements if isinstance(s, DemoteStatement)),
            tuple(self._ahead(s) for s in statements if isinstance(s, RecallAheadStatement)),
            tuple(self._retain(s) for s in statements if isinstance(s, RetainStatement)),
            tuple(self._limit(s) for s in statements if isinstance(s, LimitStatement)),
            names=self._names,
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

    def _migrate(self, statement: MigrateStatement) -> MigrateRule:
        pool = statement.pool
        if pool.text not in self._pools:
            raise self._unknown(pool, "pool", self._pools, "write a 'pool' statement for it")
        rule = self._basics(statement.name, statement.condition)
        return MigrateRule(*rule, pool.text, self._pace(statement.options))

    def _basics(self, name: Text, condition: Condition) -> tuple[str, Compiled, int]:
        compiled = compile_condition(condition, self._source, self._names)
        return name.text, compiled, name.span.line

    def _demote(self, statement: DemoteStatement) -> DemoteRule:
        tiers = self._names.tiers
        for tier in (statement.tier, statement.to):
            self._check_tier(tier)
        if tiers.index(statement.to.text) <= tiers.index(statement.tier.text):
            found = f"tier {statement.to}, which is not slower than tier {statement.tier}"
            todo = "the order of tiers in the configuration is that of their speed"
            raise self._source.error(statement.to.span, found, "a slower tier", todo)
        rule = self._basics(statement.name, statement.condition)
        pace = self._pace(statement.options)
        return DemoteRule(*rule, statement.tier.text, statement.to.text, pace)

    def _ahead(self, statement: RecallAheadStatement) -> RecallAheadRule:
        size = statement.size
        bytes_max = AHEAD_BYTES_DEFAULT if size is None else size_bytes(size, self._source)
        if size is not None and not bytes_max:
            raise self._nothing(size)
        return RecallAheadRule(*self._basics(statement.name, statement.condition), bytes_max)

    def _retain(self, statement: RetainStatement) -> RetainRule:
        period_s = duration_ns(statement.period, self._source) / SECOND_NS
        if not period_s:
            raise self._nothing(statement.period)
        settle = statement.settle
        settle_s = None if settle is None else duration_ns(settle, self._source) / SECOND_NS
        rule = self._basics(statement.name, statement.condition)
        return RetainRule(*rule, period_s, settle_s)

    def _limit(self, statement: LimitStatement) -> LimitRule:
        user, program = statement.user, statement.program
        if user is not None and self._names.uid_of(user.text) is None:
            expected = "a user that this machine knows"
            raise self._source.error(user.span, shown(user.text), expected)
        return LimitRule(
            *self._basics(statement.name, statement.condition),
            user.text if user else "",
            program.text if program else "",
            self._pace(statement.options),
        )

    def _pace(self, options: Options) -> Pace:
        if options == NO_OPTIONS:
            return ALWAYS_OPEN
        return Pace(
            self._window(options.between),
            self._rate(options.files, {"": 1}, "a rate such as 5/s"),
            self._rate(options.bytes, SIZE_UNITS_BYTES, "a rate such as 100MiB/s"),
            self._at_once(options.at_once),
            ERRORS_DEFAULT if options.errors is None else self._errors(options.errors),
        )

    def _window(self, between: Between | None) -> Window | None:
        if between is None:
            return None
        if between.start.minutes % (24 * 60) == between.stop.minutes % (24 * 60):
            todo = "leave 'between' away where the rule always works"
            expected = "another time than it starts at"
            raise self._source.error(between.stop.span, shown(str(between.stop)), expected, todo)
        return Window(between.start.minutes % (24 * 60), between.stop.minutes)

    def _rate(self, value: Quantity | None, units: dict[str, int], expected: str) -> float:
        """A number for each second; 0: without bound."""
        if value is None:
            return 0.0
        unit, _, per = value.unit.partition("/")
        if unit not in units or per not in DURATION_UNITS_S:
            todo = did_you_mean(unit, units) if unit not in units else did_you_mean(per, "smhd")
            raise self._source.error(value.span, shown(str(value)), expected, todo)
        rate = Fraction(value.number) * units[unit] / DURATION_UNITS_S[per]
        if not rate:
            raise self._nothing(value)
        return float(rate)

    def _at_once(self, value: Quantity | None) -> int:
        if value is None:
            return 0
        number = count(value, self._source)
        if not number:
            raise self._nothing(value)
        if number > AT_ONCE_MAX:
            raise self._source.error(value.span, shown(str(value)), f"at most {AT_ONCE_MAX}")
        return number

    def _nothing(self, value: Quantity) -> Exception:
        todo = "leave the rule away where nothing is to be done"
        return self._source.error(value.span, shown(str(value)), "more than nothing", todo)

    def _errors(self, value: Quantity) -> float:
        return fraction_of(value, self._source)

    def _pin(self, statement: PinStatement) -> PinRule:
        return PinRule(*self._basics(statement.name, statement.condition))

    def _check_tier(self, tier: Text) -> None:
        tiers = set(self._names.tiers)
        if tier.text not in tiers:
            raise self._unknown(tier, "tier", tiers, "tiers are named in the configuration")

    def _release(self, statement: ReleaseStatement) -> ReleaseRule:
        tier = statement.tier
        self._check_tier(tier)
        start = fraction_of(statement.start, self._source)
        stop = fraction_of(statement.stop, self._source)
        if stop >= start:
            raise self._source.error(
                statement.stop.span,
                shown(str(statement.stop)),
                f"less than {statement.start}, at which release starts",
            )
        order = self._order(statement.order)
        key = _order_key(order)
        name = statement.name
        pace = self._pace(statement.options)
        return ReleaseRule(name.text, tier.text, start, stop, order, key, name.span.line, pace)

    def _unknown(self, name: Text, what: str, known: set[str], todo: str) -> Exception:
        names = ", ".join(sorted(known)) or "there is none"
        todo = did_you_mean(name.text, known) or todo
        expected = f"a {what} that exists: {names}"
        return self._source.error(name.span, f"{what} {name}", expected, todo)

    def _order(self, items: tuple[OrderItem, ...]) -> tuple[tuple[str, bool], ...]:
        for item in items:
            if find_fact(item.fact, self._source).kind not in ORDERED:
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
