"""The syntax of a policy as plain values, and how it is printed.

Places (``span``) take no part in comparisons, so parsing what was printed
gives an equal syntax.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hsmfs.daemon.policy.lexer import Span, quote

NOWHERE = Span(1, 1)


@dataclass(frozen=True, slots=True)
class Word:
    """A bare word: a fact, a state."""

    text: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted string, or the name of a rule, pool or tier."""

    text: str
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def __str__(self) -> str:
        return quote(self.text)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, both as written."""

    number: str
    unit: str = ""
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def __str__(self) -> str:
        return self.number + self.unit


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """Hours and minutes of the local clock, in minutes since midnight."""

    minutes: int
    span: Span = field(default=NOWHERE, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.minutes // 60:02d}:{self.minutes % 60:02d}"


Value = Word | Text | Quantity


@dataclass(frozen=True, slots=True)
class Comparison:
    """``fact operator value``, such as ``age > 30d``; ``key`` names an extended attribute."""

    fact: Word
    operator: Word
    value: Value
    key: Text | None = None

    def __str__(self) -> str:
        key = "" if self.key is None else f" {self.key}"
        return f"{self.fact}{key} {self.operator} {self.value}"


@dataclass(frozen=True, slots=True)
class Always:
    """The condition that holds for every file."""

    def __str__(self) -> str:
        return "always"


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of a condition."""

    inner: Condition

    def __str__(self) -> str:
        return f"not {_wrapped(self.inner, And, Or)}"


@dataclass(frozen=True, slots=True)
class And:
    """Two conditions or more that must all hold."""

    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return " and ".join(_wrapped(part, And, Or) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    """Two conditions or more of which one must hold."""

    parts: tuple[Condition, ...]

    def __str__(self) -> str:
        return " or ".join(_wrapped(part, Or) for part in self.parts)


Condition = Comparison | Always | Not | And | Or


def _wrapped(condition: Condition, *loose: type) -> str:
    """A part of a condition, in parentheses if its kind is one of ``loose``."""
    return f"({condition})" if isinstance(condition, loose) else str(condition)


@dataclass(frozen=True, slots=True)
class BurnClause:
    """When a volume is burned: full, or its oldest file has waited so long."""

    full: bool
    oldest: Quantity | None = None

    def __str__(self) -> str:
        oldest = [] if self.oldest is None else [f"oldest > {self.oldest}"]
        return "burn when " + " or ".join(["full"] * self.full + oldest)


@dataclass(frozen=True, slots=True)
class ScrubClause:
    """How often discs are read again, and how much of them; ``every`` None: never."""

    every: Quantity | None
    sample: Quantity | None = None

    def __str__(self) -> str:
        if self.every is None:
            return "scrub never"
        sample = "" if self.sample is None else f" sample {self.sample}"
        return f"scrub every {self.every}{sample}"


@dataclass(frozen=True, slots=True)
class PoolStatement:
    """``pool NAME { ... }``."""

    name: Text
    copies: Quantity
    spread: Word | None = None
    burn: BurnClause | None = None
    head: Quantity | None = None
    offsite: Quantity | None = None
    parity: Quantity | None = None
    scrub: ScrubClause | None = None
    reclaim: Quantity | None = None
    """Share of dead bytes."""
    recovery: Quantity | None = None
    """Recovery data on each disc, as a share of its data."""

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" spread {self.spread}"
        clauses = [f"copies {self.copies}{spread}"]
        if self.burn is not None:
            clauses.append(str(self.burn))
        if self.head is not None:
            clauses.append(f"head {self.head}")
        if self.offsite is not None:
            clauses.append(f"offsite {self.offsite}")
        if self.parity is not None:
            clauses.append(f"parity {self.parity}")
        if self.scrub is not None:
            clauses.append(str(self.scrub))
        if self.reclaim is not None:
            clauses.append(f"reclaim when dead > {self.reclaim}")
        if self.recovery is not None:
            clauses.append(f"recovery {self.recovery}")
        return f"pool {self.name} {{ {'; '.join(clauses)} }}"


@dataclass(frozen=True, slots=True)
class Between:
    """``between 20:00 and 06:00``."""

    start: TimeOfDay
    stop: TimeOfDay

    def __str__(self) -> str:
        return f" between {self.start} and {self.stop}"


@dataclass(frozen=True, slots=True)
class Options:
    """When, how fast and how far a rule works: what stands behind it."""

    between: Between | None = None
    files: Quantity | None = None
    """Rate of files, ``5/s``."""
    bytes: Quantity | None = None
    """Rate of bytes, ``100MiB/s``."""
    at_once: Quantity | None = None
    errors: Quantity | None = None
    """Share of files that fail, above which the rule is suspended."""

    def __str__(self) -> str:
        between = "" if self.between is None else str(self.between)
        rates = [f" at most {rate}" for rate in (self.files, self.bytes) if rate is not None]
        at_once = "" if self.at_once is None else f" at most {self.at_once} at once"
        errors = "" if self.errors is None else f" suspend at {self.errors}"
        return between + "".join(rates) + at_once + errors


NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class MigrateStatement:
    """``migrate NAME to POOL when CONDITION [options]``."""

    name: Text
    pool: Text
    condition: Condition
    options: Options = NO_OPTIONS

    def __str__(self) -> str:
        return f"migrate {self.name} to {self.pool} when {self.condition}{self.options}"


@dataclass(frozen=True, slots=True)
class DemoteStatement:
    """``demote NAME from tier TIER to tier TIER when CONDITION [options]``."""

    name: Text
    tier: Text
    to: Text
    condition: Condition
    options: Options = NO_OPTIONS

    def __str__(self) -> str:
        return (
            f"demote {self.name} from tier {self.tier} to tier {self.to} "
            f"when {self.condition}{self.options}"
        )


@dataclass(frozen=True, slots=True)
class RecallAheadStatement:
    """``recall-ahead NAME [up to SIZE] when CONDITION``."""

    name: Text
    condition: Condition
    size: Quantity | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f" up to {self.size}"
        return f"recall-ahead {self.name}{size} when {self.condition}"


@dataclass(frozen=True, slots=True)
class RetainStatement:
    """``retain NAME for DURATION [write-once after DURATION] when CONDITION``."""

    name: Text
    period: Quantity
    condition: Condition
    settle: Quantity | None = None

    def __str__(self) -> str:
        settle = "" if self.settle is None else f" write-once after {self.settle}"
        return f"retain {self.name} for {self.period}{settle} when {self.condition}"


@dataclass(frozen=True, slots=True)
class LimitStatement:
    """``limit NAME recalls [by user NAME] [by program NAME] when CONDITION options``."""

    name: Text
    condition: Condition
    options: Options
    user: Text | None = None
    program: Text | None = None

    def __str__(self) -> str:
        user = "" if self.user is None else f" by user {self.user}"
        program = "" if self.program is None else f" by program {self.program}"
        return f"limit {self.name} recalls{user}{program} when {self.condition}{self.options}"


@dataclass(frozen=True, slots=True)
class OrderItem:
    """One fact that files are ordered by at release."""

    fact: Word
    descending: bool = False

    def __str__(self) -> str:
        return f"{self.fact} desc" if self.descending else str(self.fact)


@dataclass(frozen=True, slots=True)
class ReleaseStatement:
    """``release NAME from tier TIER when tier.used > START until tier.used < STOP``."""

    name: Text
    tier: Text
    start: Quantity
    stop: Quantity
    order: tuple[OrderItem, ...] = ()
    options: Options = NO_OPTIONS

    def __str__(self) -> str:
        order = f" order by {', '.join(map(str, self.order))}" if self.order else ""
        return (
            f"release {self.name} from tier {self.tier} "
            f"when tier.used > {self.start} until tier.used < {self.stop}{order}{self.options}"
        )


@dataclass(frozen=True, slots=True)
class PinStatement:
    """``pin NAME when CONDITION``."""

    name: Text
    condition: Condition

    def __str__(self) -> str:
        return f"pin {self.name} when {self.condition}"


Statement = (
    PoolStatement
    | MigrateStatement
    | ReleaseStatement
    | PinStatement
    | DemoteStatement
    | RecallAheadStatement
    | RetainStatement
    | LimitStatement
)


@dataclass(frozen=True, slots=True)
class PolicySyntax:
    """All statements of a policy, in order."""

    statements: tuple[Statement, ...] = ()

    def __str__(self) -> str:
        return "".join(f"{statement}\n" for statement in self.statements)
