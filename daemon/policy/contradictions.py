"""Rules that contradict each other, and conditions that can never hold.

A condition becomes a list of cases (its disjunctive form); each case says for
every fact what range, states or patterns it asks for. One rule covers another
if each case of the other lies within one of its own. What cannot be seen that
way is left alone: nothing is reported that is not certain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Final

from hsmfs.daemon.policy.conditions import Compiled, Leaf, Node
from hsmfs.daemon.policy.facts import FACTS, STATES
from hsmfs.daemon.policy.lexer import Source, Span, shown
from hsmfs.daemon.policy.rules import FileRule, Policy

CASES_MAX: Final = 64
"""Cases of one condition; one with more is not examined."""
LEAVES_MAX: Final = 256
LOW_WATERMARK: Final = 0.10
"""Release below it leaves next to nothing in the cache."""
SAME: Final = {"owner": "uid", "group": "gid", "residency": "state"}
WILD: Final = frozenset("*?[\\{}")

Literal = tuple[Leaf, bool]


@dataclass(slots=True)
class Range:
    """Numbers that a case allows; ends are pairs of the number and 1 where it is left out."""

    low: tuple[float, int] = (-math.inf, 0)
    high: tuple[float, int] = (math.inf, 0)
    """With -1 where it is left out, so that ends compare."""
    without: set[float] = field(default_factory=set)

    def add(self, sign: str, limit: float) -> None:
        """One more comparison."""
        if sign in (">", ">=", "="):
            self.low = max(self.low, (limit, int(sign == ">")))
        if sign in ("<", "<=", "="):
            self.high = min(self.high, (limit, -int(sign == "<")))
        if sign == "!=":
            self.without.add(limit)

    @property
    def is_empty(self) -> bool:
        if self.low[0] != self.high[0]:
            return self.low[0] > self.high[0]
        return bool(self.low[1] or self.high[1]) or self.low[0] in self.without

    def is_within(self, other: Range) -> bool:
        """Whether all its numbers are numbers of the other."""
        if self.low < other.low or self.high > other.high:
            return False
        return all(hole in self.without or not self._has(hole) for hole in other.without)

    def _has(self, number: float) -> bool:
        return self.low <= (number, 0) <= self.high


@dataclass(slots=True)
class Case:
    """What must hold all together."""

    ranges: dict[str, Range] = field(default_factory=dict)
    states: frozenset[str] = frozenset(STATES)
    texts: set[tuple[str, bool]] = field(default_factory=set)
    """Comparisons of texts as written without their negation, and whether they hold."""
    literals: dict[tuple[str, bool], Leaf] = field(default_factory=dict)

    @property
    def is_everything(self) -> bool:
        return not self.ranges and not self.texts and self.states == frozenset(STATES)

    @property
    def is_impossible(self) -> bool:
        if not self.states or any(one.is_empty for one in self.ranges.values()):
            return True
        return any((text, not holds) in self.texts for text, holds in self.texts)

    def is_within(self, other: Case) -> bool:
        """Whether each file of this case is one of the other."""
        if not self.states <= other.states:
            return False
        for fact, bounds in other.ranges.items():
            if not self.ranges.get(fact, Range()).is_within(bounds):
                return False
        wanted = [other.literals[text] for text in other.texts - self.texts if text[1]]
        if len(wanted) < len(other.texts - self.texts):
            return False
        own = [leaf for (_, holds), leaf in self.literals.items() if holds]
        return all(any(_follows(leaf, one) for one in own) for leaf in wanted)


def _follows(wanted: Leaf, known: Leaf) -> bool:
    """Whether one text comparison holds wherever another does: a folder in a folder, a text
    that the pattern matches."""
    if wanted.fact != known.fact or wanted.key != known.key or wanted.match is None:
        return False
    if known.sign in ("=", "!="):
        text = known.pattern.removeprefix("/") if known.fact == "path" else known.pattern
        return wanted.match(text.encode("utf-8", "surrogateescape"))
    folder = wanted.pattern.removesuffix("**")
    if wanted.sign != "~" or folder == wanted.pattern or WILD & set(folder):
        return False
    return folder.endswith("/") and known.pattern.startswith(folder)


OPPOSITE: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "!=", "!=": "="}


def cases_of(condition: Compiled) -> list[Case] | None:
    """The cases; those that can never hold are left out. None: too many."""
    if len(condition.leaves) > LEAVES_MAX:
        return None
    found = _cases(condition.tree, True)
    if found is None:
        return None
    made = [_case(literals) for literals in found]
    return [case for case in made if case is not None and not case.is_impossible]


def _cases(node: Node, holds: bool) -> list[tuple[Literal, ...]] | None:
    if isinstance(node, Leaf):
        return [((node, holds),)]
    if node.kind == "not":
        return _cases(node.parts[0], not holds)
    parts = [_cases(part, holds) for part in node.parts]
    if (node.kind == "or") == holds:
        return _joined(parts)
    return _multiplied(parts)


Cases = list[tuple[Literal, ...]]


def _joined(parts: Sequence[Cases | None]) -> Cases | None:
    found: Cases = []
    for part in parts:
        if part is None or len(found) + len(part) > CASES_MAX:
            return None
        found += part
    return found


def _multiplied(parts: Sequence[Cases | None]) -> Cases | None:
    found: Cases = [()]
    for part in parts:
        if part is None or len(found) * len(part) > CASES_MAX:
            return None
        found = [left + right for left, right in product(found, part)]
    return found


def _case(literals: tuple[Literal, ...]) -> Case | None:
    """None: it holds a comparison that is never true."""
    case = Case()
    for leaf, holds in literals:
        if not leaf.fact:
            if not holds:
                return None
            continue
        name = SAME.get(leaf.fact, leaf.fact)
        if name == "state":
            is_it = (leaf.sign == "=") is holds
            word = frozenset({STATES[int(leaf.limit)]})
            case.states &= word if is_it else frozenset(STATES) - word
        elif FACTS[leaf.fact].number is not None:
            sign = leaf.sign if holds else OPPOSITE[leaf.sign]
            case.ranges.setdefault(name, Range()).add(sign, leaf.limit)
        else:
            written = leaf.text.replace(" != ", " = ", 1) if leaf.sign == "!=" else leaf.text
            case.texts.add((written, holds is (leaf.sign != "!=")))
            case.literals[written, holds is (leaf.sign != "!=")] = leaf
    return case


def _covers(one: list[Case] | None, other: list[Case] | None) -> bool:
    if one is None or not other:
        return False
    return all(any(case.is_within(place) for place in one) for case in other)


def examine(policy: Policy, source: Source) -> Iterator[str]:
    """PolicyError at the first contradiction; else what is probably not meant."""
    places = {
        statement.name.text: statement.name.span
        for statement in policy.syntax.statements
        if not type(statement).__name__.startswith("Pool")
    }
    examiner = _Examiner(source, places)
    rules: tuple[tuple[FileRule, ...], ...] = (
        policy.migrate,
        policy.demote,
        policy.retain,
        policy.pin,
        policy.recall_ahead,
    )
    for kind in rules:
        yield from examiner.kind(kind)
    yield from examiner.never(policy.limit)
    yield from examiner.migrate(policy)
    yield from examiner.release(policy)


class _Examiner:
    def __init__(self, source: Source, places: dict[str, Span]) -> None:
        self._source = source
        self._places = places
        self._cases: dict[str, list[Case] | None] = {}

    def cases(self, rule: FileRule) -> list[Case] | None:
        if rule.name not in self._cases:
            self._cases[rule.name] = cases_of(rule.condition)
        return self._cases[rule.name]

    def never(self, rules: Sequence[FileRule]) -> Iterator[str]:
        """Conditions that hold for no file."""
        for rule in rules:
            if self.cases(rule) == []:
                yield f"line {rule.line}: rule {rule.name!r} can never match: {rule.condition.text}"

    def kind(self, rules: Sequence[FileRule]) -> Iterator[str]:
        """Rules of one kind: the first that matches decides."""
        yield from self.never(rules)
        for at, rule in enumerate(rules):
            for earlier in rules[:at]:
                if _covers(self.cases(earlier), self.cases(rule)):
                    if _does(earlier) != _does(rule):
                        raise self._contradiction(earlier, rule)
                    yield (
                        f"line {rule.line}: rule {rule.name!r} decides for no file: rule "
                        f"{earlier.name!r} of line {earlier.line} matches all that it does"
                    )
                    break

    def _contradiction(self, earlier: FileRule, rule: FileRule) -> Exception:
        return self._source.error(
            self._places[rule.name],
            f"rule {shown(rule.name)}, which contradicts rule {shown(earlier.name)} of line "
            f"{earlier.line}: that one matches all its files before and does something else",
            "rules that each decide for some files",
            "put the narrower rule first, or change one of them",
        )

    def migrate(self, policy: Policy) -> Iterator[str]:
        """Only files that are resident are migrated."""
        for rule in policy.migrate:
            cases = self.cases(rule)
            if cases and not any("resident" in case.states for case in cases):
                yield (
                    f"line {rule.line}: rule {rule.name!r} can never match: only files in state "
                    "resident are migrated"
                )

    def release(self, policy: Policy) -> Iterator[str]:
        """Rules that drop nearly all, or can drop nothing."""
        for rule in policy.release:
            if rule.stop_fraction <= LOW_WATERMARK:
                yield (
                    f"line {rule.line}: rule {rule.name!r} releases nearly everything that is on "
                    f"discs: it goes on until tier {rule.tier!r} is filled by less than "
                    f"{100 * rule.stop_fraction:g}%"
                )
        everything = (
            pin for pin in policy.pin if any(c.is_everything for c in self.cases(pin) or ())
        )
        pin = next(everything, None)
        if pin is not None and policy.release:
            rule = policy.release[0]
            raise self._source.error(
                self._places[rule.name],
                f"rule {shown(rule.name)}, which contradicts rule {shown(pin.name)} of line "
                f"{pin.line}: that one pins every file",
                "files that may be released",
                "give the pin a condition, or remove one of them",
            )


def _does(rule: FileRule) -> tuple[object, ...]:
    """What it does to a file, but for its name, condition, line and pace."""
    names = ("pool", "tier", "to", "bytes_max", "period_s", "settle_s")
    return tuple(getattr(rule, name, None) for name in names)
