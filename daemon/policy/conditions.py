"""Compiles conditions to closures: files are tested by millions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, assert_never

from hsmfs.config import did_you_mean
from hsmfs.daemon.policy.facts import (
    DURATION_UNITS_S,
    FACTS,
    OPERATORS_OF_KIND,
    SECOND_NS,
    SIZE_UNITS_BYTES,
    STATES,
    Fact,
    FactKind,
    Facts,
    scaled,
    show_duration,
    show_size,
)
from hsmfs.daemon.policy.glob import GlobError, Matcher, name_matcher, path_matcher
from hsmfs.daemon.policy.lexer import PolicyError, Source, quote, shown
from hsmfs.daemon.policy.syntax import (
    Always,
    And,
    Comparison,
    Condition,
    Not,
    Or,
    Quantity,
    Text,
    Word,
)

Test = Callable[[Facts, int], bool]
Show = Callable[[Facts, int], str]

COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


class Explained(NamedTuple):
    """One comparison of a rule for one file: its text, the file's value, whether it holds."""

    condition: str
    value: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Leaf:
    """One comparison, compiled; a ``not`` right before it belongs to it."""

    text: str
    test: Test
    show: Show


@dataclass(frozen=True, slots=True)
class Compiled:
    """A condition as one test, and its comparisons for explaining."""

    text: str
    test: Test
    leaves: tuple[Leaf, ...]

    def explain(self, facts: Facts, now_ns: int) -> list[Explained]:
        """Each comparison with the file's value."""
        return [
            Explained(leaf.text, leaf.show(facts, now_ns), leaf.test(facts, now_ns))
            for leaf in self.leaves
        ]


def compile_condition(condition: Condition, source: Source) -> Compiled:
    """Check a condition's facts, signs and units, and make it callable."""
    test, leaves = _compile(condition, source)
    return Compiled(str(condition), test, tuple(leaves))


def _compile(condition: Condition, source: Source) -> tuple[Test, list[Leaf]]:
    match condition:
        case Comparison():
            leaf = _leaf(condition, source)
            return leaf.test, [leaf]
        case Always():
            return _always, [Leaf("always", _always, lambda facts, now_ns: "")]
        case Not():
            return _compile_not(condition, source)
        case And():
            return _compile_parts(condition.parts, _both, source)
        case Or():
            return _compile_parts(condition.parts, _either, source)
        case _:
            assert_never(condition)


def _compile_not(condition: Not, source: Source) -> tuple[Test, list[Leaf]]:
    inner, leaves = _compile(condition.inner, source)
    test = _negated(inner)
    if isinstance(condition.inner, Comparison | Always):
        return test, [Leaf(str(condition), test, leaves[0].show)]
    return test, leaves


def _compile_parts(
    parts: tuple[Condition, ...], join: Callable[[Test, Test], Test], source: Source
) -> tuple[Test, list[Leaf]]:
    compiled = [_compile(part, source) for part in parts]
    return (
        _balanced([test for test, _ in compiled], join),
        [leaf for _, leaves in compiled for leaf in leaves],
    )


def _balanced(tests: list[Test], join: Callable[[Test, Test], Test]) -> Test:
    """One test of many, as a tree: a chain of a thousand would exhaust the stack."""
    if len(tests) == 1:
        return tests[0]
    middle = len(tests) // 2
    return join(_balanced(tests[:middle], join), _balanced(tests[middle:], join))


def _both(left: Test, right: Test) -> Test:
    return lambda facts, now_ns: left(facts, now_ns) and right(facts, now_ns)


def _either(left: Test, right: Test) -> Test:
    return lambda facts, now_ns: left(facts, now_ns) or right(facts, now_ns)


def _negated(inner: Test) -> Test:
    return lambda facts, now_ns: not inner(facts, now_ns)


def _always(facts: Facts, now_ns: int) -> bool:
    return True


# Comparisons


def _leaf(node: Comparison, source: Source) -> Leaf:
    fact = find_fact(node.fact, source)
    sign = node.operator.text
    if sign not in OPERATORS_OF_KIND[fact.kind]:
        raise _wrong_sign(node, fact, source)
    if fact.kind is FactKind.STATE:
        return Leaf(str(node), _state_test(node, source), lambda facts, now_ns: facts.state)
    if fact.text is not None:
        return Leaf(str(node), _text_test(node, fact, source), _show_text(fact.text, fact.kind))
    assert fact.number is not None
    limit = _limit(node, fact, source)
    if fact.kind is FactKind.DURATION:
        return Leaf(str(node), _age_test(fact.number, sign, limit), _show_age(fact.number))
    return Leaf(
        str(node), _number_test(fact.number, sign, limit), _show_number(fact.number, fact.kind)
    )


def find_fact(word: Word, source: Source) -> Fact:
    """The fact of that name."""
    fact = FACTS.get(word.text)
    if fact is not None:
        return fact
    todo = did_you_mean(word.text, FACTS)
    raise source.error(word.span, shown(word.text), f"a fact: one of {', '.join(FACTS)}", todo)


def _wrong_sign(node: Comparison, fact: Fact, source: Source) -> PolicyError:
    sign = node.operator.text
    if sign == "=" and fact.kind in (FactKind.DURATION, FactKind.NUMBER):
        todo = "no file has exactly that value; write > or <"
    elif sign == "~":
        todo = "~ compares path and name with a pattern"
    else:
        todo = ""
    expected = f"one of {' '.join(OPERATORS_OF_KIND[fact.kind])} behind '{node.fact}'"
    return source.error(node.operator.span, shown(sign), expected, todo)


def _number_test(number: Callable[[Facts], float], sign: str, limit: float) -> Test:
    compare = COMPARE[sign]
    return lambda facts, now_ns: compare(number(facts), limit)


def _age_test(since_ns: Callable[[Facts], float], sign: str, limit: float) -> Test:
    compare = COMPARE[sign]
    return lambda facts, now_ns: compare(now_ns - since_ns(facts), limit)


def _show_age(since_ns: Callable[[Facts], float]) -> Show:
    return lambda facts, now_ns: show_duration(int(now_ns - since_ns(facts)))


def _show_number(number: Callable[[Facts], float], kind: FactKind) -> Show:
    if kind is FactKind.SIZE:
        return lambda facts, now_ns: show_size(int(number(facts)))
    return lambda facts, now_ns: f"{number(facts):g}"


def _show_text(text: Callable[[Facts], bytes], kind: FactKind) -> Show:
    root = "/" if kind is FactKind.PATH else ""
    return lambda facts, now_ns: quote(root + text(facts).decode("utf-8", "surrogateescape"))


def _limit(node: Comparison, fact: Fact, source: Source) -> float:
    """The number that a fact is compared with, in the fact's own unit."""
    value = node.value
    if not isinstance(value, Quantity):
        raise source.error(value.span, shown(str(value)), fact.kind.value)
    if fact.kind is FactKind.DURATION:
        return duration_ns(value, source)
    if fact.kind is FactKind.SIZE:
        return size_bytes(value, source)
    if fact.kind is FactKind.COUNT:
        return count(value, source)
    if value.unit:
        raise source.error(value.span, shown(str(value)), fact.kind.value, "heat has no unit")
    return float(value.number)


def _state_test(node: Comparison, source: Source) -> Test:
    value = node.value
    if not isinstance(value, Word) or value.text not in STATES:
        todo = did_you_mean(value.text, STATES) if isinstance(value, Word | Text) else ""
        raise source.error(value.span, shown(str(value)), FactKind.STATE.value, todo)
    state = value.text
    if node.operator.text == "=":
        return lambda facts, now_ns: facts.state == state
    return lambda facts, now_ns: facts.state != state


def duration_ns(value: Quantity, source: Source) -> int:
    """A duration in nanoseconds; zero needs no unit."""
    return _scaled(value, source, DURATION_UNITS_S, SECOND_NS, FactKind.DURATION)


def size_bytes(value: Quantity, source: Source) -> int:
    """A size in bytes; zero needs no unit."""
    return _scaled(value, source, SIZE_UNITS_BYTES, 1, FactKind.SIZE)


def _scaled(
    value: Quantity, source: Source, units: dict[str, int], factor: int, kind: FactKind
) -> int:
    if value.unit in units:
        return scaled(value.number, units[value.unit] * factor)
    if not value.unit and float(value.number) == 0:
        return 0
    todo = _unit_hint(value.unit, units) if value.unit else f"{value.number} has no unit"
    raise source.error(value.span, shown(str(value)), kind.value, todo)


def _unit_hint(unit: str, units: dict[str, int]) -> str:
    """Units differ by case only (KB), or are words (days): did_you_mean finds neither."""
    near = [known for known in units if known.lower().replace("i", "") == unit.lower()]
    if unit.lower() in ("k", "m", "g", "t") and "KiB" in units:
        near = [known for known in units if known[0].lower() == unit.lower()]
    if not near and len(unit) > 2 and "d" in units:
        near = [known for known in units if known == unit[0].lower() and unit[:2] != "mo"]
    return f"did you mean {' or '.join(repr(word) for word in near)}?" if near else ""


def count(value: Quantity, source: Source) -> int:
    """A whole number without a unit."""
    if value.unit or "." in value.number:
        raise source.error(value.span, shown(str(value)), FactKind.COUNT.value)
    return int(value.number)


def _text_test(node: Comparison, fact: Fact, source: Source) -> Test:
    value = node.value
    if not isinstance(value, Text):
        raise source.error(value.span, shown(str(value)), fact.kind.value)
    text = fact.text
    assert text is not None
    if node.operator.text == "~":
        matches = _matcher(value, fact, source)
        return lambda facts, now_ns: matches(text(facts))
    wanted = _literal(value, fact, source)
    if node.operator.text == "=":
        return lambda facts, now_ns: text(facts) == wanted
    return lambda facts, now_ns: text(facts) != wanted


def _matcher(value: Text, fact: Fact, source: Source) -> Matcher:
    make = path_matcher if fact.kind is FactKind.PATH else name_matcher
    try:
        return make(value.text)
    except GlobError as error:
        raise source.error(value.span, str(value), "a pattern", str(error)) from None


def _literal(value: Text, fact: Fact, source: Source) -> bytes:
    is_path = fact.kind is FactKind.PATH
    if is_path and not value.text.startswith("/"):
        raise source.error(value.span, str(value), 'a path from the root such as "/pacs/a"')
    if not is_path and ("/" in value.text or not value.text):
        raise source.error(value.span, str(value), "a name without '/'")
    return value.text.removeprefix("/").encode("utf-8", "surrogateescape")
