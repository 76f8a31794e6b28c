"""Compiles conditions to closures: files are tested by millions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
from hsmfs.daemon.policy.glob import (
    GlobError,
    Matcher,
    name_matcher,
    path_matcher,
    text_matcher,
)
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
class Names:
    """What policies name outside of themselves: tiers in order, users, groups."""

    tiers: tuple[str, ...] = ()
    uid_of: Callable[[str], int | None] = lambda name: None
    gid_of: Callable[[str], int | None] = lambda name: None


NO_NAMES: Final = Names()


@dataclass(frozen=True, slots=True)
class Leaf:
    """One comparison, compiled; for explaining, a ``not`` right before it belongs to it."""

    text: str
    test: Test
    show: Show
    fact: str = ""
    """Empty: ``always``."""
    sign: str = ""
    limit: float = 0
    """What a number is compared with; of a duration in nanoseconds, of a state its number."""
    match: Matcher | None = None
    """The test of a text, for ``=`` and ``!=`` too."""
    pattern: str = ""
    key: bytes = b""
    """Name of an extended attribute."""


@dataclass(frozen=True, slots=True)
class Branch:
    """``and``, ``or`` or ``not`` of what is below."""

    kind: str
    parts: tuple[Node, ...]


Node = Leaf | Branch


@dataclass(frozen=True, slots=True)
class Compiled:
    """A condition as one test, its comparisons for explaining, and as a tree."""

    text: str
    test: Test
    leaves: tuple[Leaf, ...]
    tree: Node
    syntax: Condition = field(repr=False, compare=False)

    def explain(self, facts: Facts, now_ns: int) -> list[Explained]:
        """Each comparison with the file's value."""
        return [
            Explained(leaf.text, leaf.show(facts, now_ns), leaf.test(facts, now_ns))
            for leaf in self.leaves
        ]


def compile_condition(condition: Condition, source: Source, names: Names = NO_NAMES) -> Compiled:
    """Check a condition's facts, signs and units, and make it callable."""
    test, leaves, tree = _Compiler(source, names).compile(condition)
    return Compiled(str(condition), test, tuple(leaves), tree, condition)


class _Compiler:
    def __init__(self, source: Source, names: Names) -> None:
        self._source = source
        self._names = names

    def compile(self, condition: Condition) -> tuple[Test, list[Leaf], Node]:
        """The test, what explains it, and the tree."""
        match condition:
            case Comparison():
                leaf = _leaf(condition, self._source, self._names)
                return leaf.test, [leaf], leaf
            case Always():
                leaf = Leaf("always", _always, lambda facts, now_ns: "")
                return _always, [leaf], leaf
            case Not():
                return self._not(condition)
            case And():
                return self._parts(condition.parts, "and", _both)
            case Or():
                return self._parts(condition.parts, "or", _either)
            case _:
                assert_never(condition)

    def _not(self, condition: Not) -> tuple[Test, list[Leaf], Node]:
        inner, leaves, tree = self.compile(condition.inner)
        test = _negated(inner)
        if isinstance(condition.inner, Comparison | Always):
            leaves = [replace(leaves[0], text=str(condition), test=test)]
        return test, leaves, Branch("not", (tree,))

    def _parts(
        self, parts: tuple[Condition, ...], kind: str, join: Callable[[Test, Test], Test]
    ) -> tuple[Test, list[Leaf], Node]:
        compiled = [self.compile(part) for part in parts]
        return (
            _balanced([test for test, _, _ in compiled], join),
            [leaf for _, leaves, _ in compiled for leaf in leaves],
            Branch(kind, tuple(tree for _, _, tree in compiled)),
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


def _leaf(node: Comparison, source: Source, names: Names) -> Leaf:
    fact = find_fact(node.fact, source)
    sign = node.operator.text
    if sign not in OPERATORS_OF_KIND[fact.kind]:
        raise _wrong_sign(node, fact, source)
    match fact.kind:
        case FactKind.STATE:
            return _state_leaf(node, source)
        case FactKind.USER | FactKind.GROUP | FactKind.TIER:
            return _named_leaf(node, fact, source, names)
        case FactKind.XATTR:
            return _xattr_leaf(node, source)
    if fact.text is not None:
        test, match = _text_test(node, fact.text, fact.kind, source)
        show = _show_text(fact.text, fact.kind)
        pattern = node.value.text if isinstance(node.value, Text) else ""
        return Leaf(str(node), test, show, node.fact.text, sign, match=match, pattern=pattern)
    assert fact.number is not None
    limit = _limit(node, fact, source)
    if fact.kind is FactKind.DURATION:
        test, show = _age_test(fact.number, sign, limit), _show_age(fact.number)
    else:
        test = _number_test(fact.number, sign, limit)
        show = _show_number(fact.number, fact.kind)
    return Leaf(str(node), test, show, node.fact.text, sign, limit)


def _named_leaf(node: Comparison, fact: Fact, source: Source, names: Names) -> Leaf:
    """Of a user, group or tier: by its number."""
    value = node.value
    if not isinstance(value, Word | Text):
        raise source.error(value.span, shown(str(value)), fact.kind.value)
    if fact.kind is FactKind.TIER:
        known = {name: at for at, name in enumerate(names.tiers)}
        number = known.get(value.text)
        todo = did_you_mean(value.text, known) or "tiers are named in the configuration"
        expected = f"a tier that exists: {', '.join(known) or 'there is none'}"
    else:
        number = (names.uid_of if fact.kind is FactKind.USER else names.gid_of)(value.text)
        what, short = ("user", "uid") if fact.kind is FactKind.USER else ("group", "gid")
        expected = f"a {what} that this machine knows"
        todo = f"compare {short} with a number where it does not"
    if number is None:
        raise source.error(value.span, shown(value.text), expected, todo)
    assert fact.number is not None
    test = _number_test(fact.number, node.operator.text, number)
    show = _show_tier(names.tiers) if fact.kind is FactKind.TIER else _show_id(fact.number)
    return Leaf(str(node), test, show, node.fact.text, node.operator.text, number)


def _show_tier(tiers: tuple[str, ...]) -> Show:
    return lambda facts, now_ns: tiers[facts.tier] if facts.tier < len(tiers) else str(facts.tier)


def _show_id(number: Callable[[Facts], float]) -> Show:
    return lambda facts, now_ns: f"number {number(facts):g}"


def _xattr_leaf(node: Comparison, source: Source) -> Leaf:
    """A missing attribute is the empty text."""
    assert node.key is not None
    key = node.key.text.encode("utf-8", "surrogateescape")

    def text(facts: Facts) -> bytes:
        return facts.xattrs.get(key, b"")

    test, match = _text_test(node, text, FactKind.XATTR, source)
    show = _show_text(text, FactKind.XATTR)
    pattern = node.value.text if isinstance(node.value, Text) else ""
    sign = node.operator.text
    return Leaf(str(node), test, show, "xattr", sign, match=match, pattern=pattern, key=key)


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


def _state_leaf(node: Comparison, source: Source) -> Leaf:
    value = node.value
    if not isinstance(value, Word) or value.text not in STATES:
        todo = did_you_mean(value.text, STATES) if isinstance(value, Word | Text) else ""
        raise source.error(value.span, shown(str(value)), FactKind.STATE.value, todo)
    state, sign = value.text, node.operator.text
    wanted = sign == "="
    return Leaf(
        str(node),
        lambda facts, now_ns: (facts.state == state) is wanted,
        lambda facts, now_ns: facts.state,
        "state",
        sign,
        STATES.index(state),
    )


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


def _text_test(
    node: Comparison, text: Callable[[Facts], bytes], kind: FactKind, source: Source
) -> tuple[Test, Matcher]:
    value = node.value
    if not isinstance(value, Text):
        raise source.error(value.span, shown(str(value)), kind.value)
    if node.operator.text == "~":
        matches = _matcher(value, kind, source)
        return (lambda facts, now_ns: matches(text(facts))), matches
    wanted = _literal(value, kind, source)
    if node.operator.text == "=":
        return (lambda facts, now_ns: text(facts) == wanted), wanted.__eq__
    return (lambda facts, now_ns: text(facts) != wanted), wanted.__eq__


def _matcher(value: Text, kind: FactKind, source: Source) -> Matcher:
    make = {FactKind.PATH: path_matcher, FactKind.NAME: name_matcher}.get(kind, text_matcher)
    try:
        return make(value.text)
    except GlobError as error:
        raise source.error(value.span, str(value), "a pattern", str(error)) from None


def _literal(value: Text, kind: FactKind, source: Source) -> bytes:
    if kind is FactKind.PATH and not value.text.startswith("/"):
        raise source.error(value.span, str(value), 'a path from the root such as "/pacs/a"')
    if kind is FactKind.NAME and ("/" in value.text or not value.text):
        raise source.error(value.span, str(value), "a name without '/'")
    text = value.text.removeprefix("/") if kind is FactKind.PATH else value.text
    return text.encode("utf-8", "surrogateescape")
