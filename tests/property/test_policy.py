"""Policies survive printing and parsing; globs agree with a plain reference."""

from __future__ import annotations

import functools
import string

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hsmfs.daemon.policy.conditions import Names, compile_condition
from hsmfs.daemon.policy.cursor import RESERVED
from hsmfs.daemon.policy.evaluate import load_policy
from hsmfs.daemon.policy.facts import (
    DURATION_UNITS_S,
    FACTS,
    SIZE_UNITS_BYTES,
    STATES,
    FactKind,
    Facts,
)
from hsmfs.daemon.policy.glob import name_matcher, path_matcher
from hsmfs.daemon.policy.lexer import PolicyError, Source, TokenKind, quote, tokenize
from hsmfs.daemon.policy.parser import parse
from hsmfs.daemon.policy.syntax import (
    Always,
    And,
    Between,
    BurnClause,
    Comparison,
    Condition,
    DemoteStatement,
    LimitStatement,
    MigrateStatement,
    Not,
    Options,
    Or,
    OrderItem,
    PinStatement,
    PolicySyntax,
    PoolStatement,
    Quantity,
    RecallAheadStatement,
    ReleaseStatement,
    RetainStatement,
    ScrubClause,
    Text,
    TimeOfDay,
    Word,
)

EXAMPLES = settings(max_examples=50, deadline=None)

# Syntax

texts = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
names = st.text(string.ascii_letters + string.digits + ' "\\#\u00e4', min_size=1, max_size=9)
numbers = st.from_regex(r"[0-9]{1,6}(\.[0-9]{1,3})?", fullmatch=True)
UNITS = {
    FactKind.DURATION: list(DURATION_UNITS_S),
    FactKind.SIZE: list(SIZE_UNITS_BYTES),
}


def quantities(kind: FactKind) -> st.SearchStrategy[Quantity]:
    if kind is FactKind.COUNT:
        return st.builds(Quantity, st.integers(0, 10**6).map(str))
    return st.builds(Quantity, numbers, st.sampled_from(UNITS.get(kind, [""])))


NAMED = {
    FactKind.USER: ["ann", "bob"],
    FactKind.GROUP: ["staff"],
    FactKind.TIER: ["ssd", "raid"],
}
NAMES = Names(("ssd", "raid"), {"ann": 1, "bob": 2}.get, {"staff": 3}.get)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    fact = draw(st.sampled_from(list(FACTS)))
    kind = FACTS[fact].kind
    if kind is FactKind.STATE:
        state = draw(st.sampled_from(["resident", "premigrated", "migrated", "recalling"]))
        return Comparison(Word(fact), Word(draw(st.sampled_from(["=", "!="]))), Word(state))
    if kind in (FactKind.PATH, FactKind.NAME, FactKind.MIME, FactKind.XATTR):
        root = "/" if kind is FactKind.PATH else ""
        text = root + draw(st.text("ab*?. \u00e4", min_size=1, max_size=6))
        key = Text(draw(st.sampled_from(["user.a", "user.\u00e4"])))
        return Comparison(
            Word(fact), Word("~"), Text(text), key if kind is FactKind.XATTR else None
        )
    if kind in NAMED:
        sign = Word(draw(st.sampled_from(["=", "!="])))
        return Comparison(Word(fact), sign, Text(draw(st.sampled_from(NAMED[kind]))))
    sign = draw(st.sampled_from(["<", "<=", ">", ">="]))
    return Comparison(Word(fact), Word(sign), draw(quantities(kind)))


def _composed(inner: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    parts = st.lists(inner, min_size=2, max_size=4).map(tuple)
    return st.builds(Not, inner) | st.builds(And, parts) | st.builds(Or, parts)


conditions: st.SearchStrategy[Condition] = st.recursive(
    comparisons() | st.just(Always()), _composed, max_leaves=12
)
shares = st.builds(Quantity, numbers, st.just("%"))
times = st.builds(TimeOfDay, st.integers(0, 24 * 60))
rates = st.builds(Quantity, numbers, st.sampled_from(["/s", "/m", "/h", "/d"]))
byte_rates = st.builds(Quantity, numbers, st.sampled_from(["B/s", "MiB/s", "GB/h"]))
options = st.builds(
    Options,
    st.none() | st.builds(Between, times, times),
    st.none() | rates,
    st.none() | byte_rates,
    st.none() | quantities(FactKind.COUNT),
    st.none() | shares,
)
statements = st.one_of(
    st.builds(
        PoolStatement,
        st.builds(Text, names),
        quantities(FactKind.COUNT),
        st.none() | st.just(Word("magazine")),
        st.none()
        | st.just(BurnClause(full=True))
        | st.builds(BurnClause, st.booleans(), quantities(FactKind.DURATION)),
        st.none() | quantities(FactKind.SIZE),
        st.none() | quantities(FactKind.COUNT),
        st.none() | quantities(FactKind.COUNT),
        st.none()
        | st.just(ScrubClause(None))
        | st.builds(ScrubClause, quantities(FactKind.DURATION), st.none() | shares),
        st.none() | shares,
        st.none() | shares,
    ),
    st.builds(
        MigrateStatement, st.builds(Text, names), st.builds(Text, names), conditions, options
    ),
    st.builds(
        DemoteStatement,
        st.builds(Text, names),
        st.builds(Text, names),
        st.builds(Text, names),
        conditions,
        options,
    ),
    st.builds(
        RecallAheadStatement,
        st.builds(Text, names),
        conditions,
        st.none() | quantities(FactKind.SIZE),
    ),
    st.builds(
        RetainStatement,
        st.builds(Text, names),
        quantities(FactKind.DURATION),
        conditions,
        st.none() | quantities(FactKind.DURATION),
    ),
    st.builds(
        LimitStatement,
        st.builds(Text, names),
        conditions,
        st.builds(Options, st.none(), rates, st.none() | byte_rates),
        st.none() | st.builds(Text, names),
        st.none() | st.builds(Text, names),
    ),
    st.builds(PinStatement, st.builds(Text, names), conditions),
    st.builds(
        ReleaseStatement,
        st.builds(Text, names),
        st.builds(Text, names),
        shares,
        shares,
        st.lists(
            st.builds(OrderItem, st.builds(Word, st.sampled_from(list(FACTS))), st.booleans()),
            max_size=3,
        ).map(tuple),
        options,
    ),
)


@EXAMPLES
@given(st.lists(statements, max_size=4).map(lambda items: PolicySyntax(tuple(items))))
def test_what_is_printed_parses_to_the_same(syntax: PolicySyntax) -> None:
    printed = str(syntax)
    assert parse(printed, "p") == syntax
    assert str(parse(printed, "p")) == printed


@EXAMPLES
@given(texts)
def test_every_byte_can_be_quoted(text: str) -> None:
    token, end = tokenize(Source(quote(text), "p"))
    assert (token.kind, token.value, end.kind) == (TokenKind.STRING, text, TokenKind.END)


WORDS = [
    *sorted(RESERVED),
    *["copies", "spread", "magazine", "burn", "full", "oldest", "head", "age", "size", "path", "a"],
    *[
        "{",
        "}",
        "(",
        ")",
        ";",
        ",",
        "<",
        ">",
        "<=",
        "=",
        "~",
        "!=",
        "tier.used",
        "heat",
        "20:00",
        "5/s",
        "at most",
        "once",
        "up",
        "for",
        "recalls",
    ],
    *["1", "2d", "64KiB", "85%", '"x"', '"/a/**"', "#", "\n"],
]


@EXAMPLES
@given(st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join) | st.text(max_size=30))
def test_any_text_is_a_policy_or_an_error_with_a_place(text: str) -> None:
    try:
        load_policy(text, "p", {"a"}, 2)
    except PolicyError as error:
        lines = text.split("\n")
        assert 1 <= error.line <= len(lines)
        assert 1 <= error.column <= len(lines[error.line - 1]) + 1


# Conditions

files = st.builds(
    Facts,
    path=st.sampled_from([b"/a", b"a/b", "\u00e4/b.a".encode(), b"\xff"]),
    name=st.sampled_from([b"a", b"b", b"b.a", b"\xff"]),
    size=st.integers(0, 2**50),
    atime_ns=st.integers(0, 2**62),
    mtime_ns=st.integers(0, 2**62),
    ctime_ns=st.integers(0, 2**62),
    uid=st.integers(0, 10**6),
    gid=st.integers(0, 10**6),
    heat=st.floats(0, 1e6),
    state=st.sampled_from(STATES),
    copies=st.integers(0, 9),
    ino=st.integers(1, 2**40),
    tier=st.integers(0, 1),
    xattrs=st.dictionaries(st.just(b"user.a"), st.sampled_from([b"a", b""])),
)


def plain(condition: Condition, file: Facts, now_ns: int) -> bool:
    match condition:
        case Not():
            return not plain(condition.inner, file, now_ns)
        case And():
            return all([plain(part, file, now_ns) for part in condition.parts])
        case Or():
            return any([plain(part, file, now_ns) for part in condition.parts])
        case Always():
            return True
    return compile_condition(condition, Source("", "p"), NAMES).test(file, now_ns)


@EXAMPLES
@given(conditions, files, st.integers(0, 2**62))
def test_compiled_conditions_are_what_the_syntax_says(
    condition: Condition, file: Facts, now_ns: int
) -> None:
    compiled = compile_condition(condition, Source("", "p"), NAMES)
    assert compiled.test(file, now_ns) is plain(condition, file, now_ns)


@EXAMPLES
@given(st.lists(comparisons(), min_size=1, max_size=5), files, st.integers(0, 2**62))
def test_a_conjunction_holds_when_all_it_explains_holds(
    parts: list[Comparison], file: Facts, now_ns: int
) -> None:
    compiled = compile_condition(And(tuple(parts)), Source("", "p"), NAMES)
    explained = compiled.explain(file, now_ns)
    assert [item.condition for item in explained] == [str(part) for part in parts]
    assert compiled.test(file, now_ns) is all(item.holds for item in explained)


# Globs


def reference(pattern: str, text: str) -> bool:
    """The rules of docs/policy.md, one character after the other."""

    @functools.cache
    def at(p: int, t: int) -> bool:
        rest = pattern[p:]
        if not rest:
            return t == len(text)
        if rest.startswith("**"):
            stars = len(rest) - len(rest.lstrip("*"))
            after = p + stars
            if pattern[after : after + 1] == "/" and (p == 0 or pattern[p - 1] == "/"):
                starts = [t, *(i + 1 for i in range(t, len(text)) if text[i] == "/")]
                return any(at(after + 1, start) for start in starts)
            return any(at(after, i) for i in range(t, len(text) + 1))
        if rest[0] == "*":
            end = text.find("/", t)
            return any(at(p + 1, i) for i in range(t, (len(text) if end < 0 else end) + 1))
        if t == len(text):
            return False
        if rest[0] == "[":
            close = pattern.index("]", p + 2)
            return text[t] in pattern[p + 1 : close] and at(close + 1, t + 1)
        if rest[0] == "?":
            return text[t] != "/" and at(p + 1, t + 1)
        return rest[0] == text[t] and at(p + 1, t + 1)

    return at(0, 0)


segments = st.lists(st.sampled_from(["a", "b", "*", "?", "[ab]", "**"]), min_size=1, max_size=5)
path_patterns = st.lists(segments.map("".join) | st.just("**"), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
paths = st.lists(st.text("ab\u00e4", min_size=1, max_size=5), min_size=1, max_size=5).map("/".join)


@settings(max_examples=50, deadline=None)
@given(path_patterns, st.lists(paths, min_size=10, max_size=20))
@example("/*/a", ["a"])
def test_globs_agree_with_the_reference(pattern: str, texts: list[str]) -> None:
    matches = path_matcher(pattern)
    for text in texts:
        expected = reference(pattern[1:], text)
        assert matches(text.encode()) is expected, (pattern, text)
        assert matches(b"/" + text.encode()) is expected


@EXAMPLES
@given(
    st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=9).map("".join),
    st.lists(st.text("ab", max_size=9), min_size=5, max_size=10),
)
def test_name_globs_agree_with_the_reference(pattern: str, texts: list[str]) -> None:
    matches = name_matcher(pattern)
    for text in texts:
        assert matches(text.encode()) is reference(pattern, text), (pattern, text)


@EXAMPLES
@given(st.binary(min_size=1, max_size=12))
def test_a_quoted_name_matches_itself_only(name: bytes) -> None:
    name = name.replace(b"/", b"_")
    pattern = "".join("\\" + c for c in name.decode("utf-8", "surrogateescape"))
    matches = name_matcher(pattern)
    assert matches(name)
    assert not matches(name + b"x")


def test_many_stars_take_no_exponential_time() -> None:
    """With a search that goes back over every star, this would take years."""
    text = b"a" * 200
    assert not name_matcher("*a" * 40 + "b")(text)
    assert not path_matcher("/" + "**a" * 40 + "b")(text)
    assert not path_matcher("/" + "**/*a*/" * 20 + "b")(b"/".join([b"aa"] * 60))
