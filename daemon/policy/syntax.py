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


Value = Word | Text | Quantity


@dataclass(frozen=True, slots=True)
class Comparison:
    """``fact operator value``, such as ``age > 30d``."""

    fact: Word
    operator: Word
    value: Value

    def __str__(self) -> str:
        return f"{self.fact} {self.operator} {self.value}"


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
        return f"pool {self.name} {{ {'; '.join(clauses)} }}"


@dataclass(frozen=True, slots=True)
class MigrateStatement:
    """``migrate NAME to POOL when CONDITION``."""

    name: Text
    pool: Text
    condition: Condition

    def __str__(self) -> str:
        return f"migrate {self.name} to {self.pool} when {self.condition}"


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

    def __str__(self) -> str:
        order = f" order by {', '.join(map(str, self.order))}" if self.order else ""
        return (
            f"release {self.name} from tier {self.tier} "
            f"when tier.used > {self.start} until tier.used < {self.stop}{order}"
        )


@dataclass(frozen=True, slots=True)
class PinStatement:
    """``pin NAME when CONDITION``."""

    name: Text
    condition: Condition

    def __str__(self) -> str:
        return f"pin {self.name} when {self.condition}"


Statement = PoolStatement | MigrateStatement | ReleaseStatement | PinStatement


@dataclass(frozen=True, slots=True)
class PolicySyntax:
    """All statements of a policy, in order."""

    statements: tuple[Statement, ...] = ()

    def __str__(self) -> str:
        return "".join(f"{statement}\n" for statement in self.statements)
