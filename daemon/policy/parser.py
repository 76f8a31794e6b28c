"""Recursive descent over the tokens; the grammar is in docs/policy.md.

Only the form is checked here; facts, units, pools and tiers are checked when
the rules are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from hsmfs.daemon.policy.cursor import (
    OPTION_WORDS,
    STATEMENT_WORDS,
    STATEMENTS_SHOWN,
    Cursor,
)
from hsmfs.daemon.policy.facts import DURATION_UNITS_S, SIZE_UNITS_BYTES
from hsmfs.daemon.policy.lexer import PolicyError, Source, Token, TokenKind, shown, tokenize
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
    Statement,
    Text,
    Value,
    Word,
)

STATEMENTS_MAX: Final = 1000
CONDITIONS_MAX: Final = 1000
NESTING_MAX: Final = 50
CLAUSE_WORDS: Final = (
    "copies",
    "burn",
    "head",
    "offsite",
    "parity",
    "scrub",
    "reclaim",
    "recovery",
)
OPERATORS: Final = ("<", "<=", ">", ">=", "=", "!=", "~")
OPTION_NAMES: Final = {"files": "rate of files", "bytes": "rate of bytes", "at_once": "at once"}
UNIT_WORDS: Final = frozenset((*DURATION_UNITS_S, *SIZE_UNITS_BYTES))


def parse(text: str, file_name: str) -> PolicySyntax:
    """The syntax of a policy's text; ``PolicyError`` at the first thing that is wrong."""
    source = Source(text, file_name)
    return _Parser(source, tokenize(source)).policy()


@dataclass(slots=True)
class _PoolDraft:
    """The settings of a pool as far as they have been read."""

    name: Text
    copies: Quantity | None = None
    spread: Word | None = None
    burn: BurnClause | None = None
    head: Quantity | None = None
    offsite: Quantity | None = None
    parity: Quantity | None = None
    scrub: ScrubClause | None = None
    reclaim: Quantity | None = None
    recovery: Quantity | None = None
    seen: set[str] = field(default_factory=set)


class _Parser(Cursor):
    # Statements

    def policy(self) -> PolicySyntax:
        statements: list[Statement] = []
        while self._token.kind is not TokenKind.END:
            if len(statements) == STATEMENTS_MAX:
                raise self._unexpected(f"at most {STATEMENTS_MAX} statements")
            statements.append(self._statement())
            while self._accept(";"):
                pass
        return PolicySyntax(tuple(statements))

    def _statement(self) -> Statement:
        rules: dict[str, Callable[[], Statement]] = {
            "pool": self._pool,
            "migrate": self._migrate,
            "release": self._release,
            "pin": self._pin,
            "demote": self._demote,
            "recall-ahead": self._recall_ahead,
            "retain": self._retain,
            "limit": self._limit,
        }
        if not self._is(*rules):
            raise self._no_statement()
        return rules[self._next().raw]()

    def _no_statement(self) -> PolicyError:
        token = self._token
        previous = self._tokens[self._at - 1] if self._at else None
        if previous is not None and previous.kind is TokenKind.NUMBER and token.raw in UNIT_WORDS:
            todo = f"write {previous.raw}{token.raw} without a space"
            return self._unexpected("the unit right behind the number", (), todo)
        if self._is("and", "or") and previous is not None:
            todo = "conditions stand before 'between', 'at most' and 'suspend'"
            return self._unexpected(f"a statement ({STATEMENTS_SHOWN})", (), todo)
        if previous is not None:
            expected = f"'and', 'or' or a statement ({STATEMENTS_SHOWN})"
            return self._unexpected(expected, (*STATEMENT_WORDS, *OPTION_WORDS, "and", "or"))
        return self._unexpected(f"a statement ({STATEMENTS_SHOWN})", STATEMENT_WORDS)

    def _pool(self) -> PoolStatement:
        draft = _PoolDraft(self._name("a pool"))
        opening = self._expect("{", "and the pool's settings")
        while not self._is("}"):
            self._clause(draft, self._clause_word(draft, opening))
            if not self._is("}"):
                self._expect(";", "or '}'")
        if draft.copies is None:
            raise self._unexpected(f"'copies' in pool {draft.name}", (), "such as: copies 2")
        self._next()
        return PoolStatement(
            draft.name,
            draft.copies,
            draft.spread,
            draft.burn,
            draft.head,
            draft.offsite,
            draft.parity,
            draft.scrub,
            draft.reclaim,
            draft.recovery,
        )

    def _clause_word(self, draft: _PoolDraft, opening: Token) -> str:
        if self._token.kind is TokenKind.END:
            raise self._source.error(
                opening.span, "a '{' without its '}'", "'}' behind the pool's settings"
            )
        if not self._is(*CLAUSE_WORDS):
            known = ", ".join(shown(word) for word in CLAUSE_WORDS)
            raise self._unexpected(f"{known} or '}}'", CLAUSE_WORDS)
        word = self._token.raw
        if word in draft.seen:
            raise self._source.error(
                self._token.span, f"a second '{word}' in one pool", "each setting once"
            )
        draft.seen.add(word)
        self._next()
        return word

    def _clause(self, draft: _PoolDraft, word: str) -> None:
        match word:
            case "burn":
                draft.burn = self._burn()
            case "head":
                draft.head = self._quantity("a size such as 64KiB")
            case "offsite":
                draft.offsite = self._quantity("the number of copies that leave")
            case "parity":
                draft.parity = self._quantity("the number of parity discs, 0 to 2")
            case "scrub":
                draft.scrub = self._scrub()
            case "reclaim":
                draft.reclaim = self._reclaim()
            case "recovery":
                draft.recovery = self._quantity("a share of a disc such as 1%")
            case _:
                draft.copies = self._quantity("the number of copies")
                if self._accept("spread"):
                    draft.spread = self._word("how copies are spread")

    def _scrub(self) -> ScrubClause:
        if self._accept("never"):
            return ScrubClause(None)
        if not self._accept("every"):
            raise self._unexpected("'every' and a duration, or 'never'", ("every", "never"))
        every = self._quantity("a duration such as 2y")
        if not self._accept("sample"):
            return ScrubClause(every)
        return ScrubClause(every, self._quantity("a share of a disc such as 10%"))

    def _reclaim(self) -> Quantity:
        self._expect("when", "dead > PERCENT")
        self._expect("dead")
        self._expect(">")
        return self._quantity("a share of a volume such as 70%")

    def _burn(self) -> BurnClause:
        self._expect("when")
        full, oldest = self._burn_reason()
        if self._accept("or"):
            place = self._token
            also_full, also_oldest = self._burn_reason()
            if full == also_full:
                raise self._source.error(
                    place.span, f"{place.shown} twice", "'full or oldest > DURATION'"
                )
            full, oldest = True, oldest or also_oldest
        return BurnClause(full, oldest)

    def _burn_reason(self) -> tuple[bool, Quantity | None]:
        if self._accept("full"):
            return True, None
        if not self._accept("oldest"):
            raise self._unexpected("'full' or 'oldest'", ("full", "oldest"))
        self._expect(">")
        return False, self._quantity("a duration such as 7d")

    def _migrate(self) -> MigrateStatement:
        name = self._name("the rule")
        self._expect("to", "and the name of a pool")
        pool = self._name("a pool")
        self._expect("when", "and a condition")
        return MigrateStatement(name, pool, self._condition(), self._options())

    def _demote(self) -> DemoteStatement:
        name = self._name("the rule")
        self._expect("from")
        self._expect("tier", "and the name of a tier")
        tier = self._name("a tier")
        self._expect("to", "tier, and the name of a slower tier")
        self._expect("tier", "and the name of a tier")
        to = self._name("a tier")
        self._expect("when", "and a condition")
        return DemoteStatement(name, tier, to, self._condition(), self._options())

    def _recall_ahead(self) -> RecallAheadStatement:
        name, size = self._name("the rule"), None
        if self._accept("up"):
            self._expect("to", "and a size")
            size = self._quantity("a size such as 2GiB")
        self._expect("when", "and a condition")
        return RecallAheadStatement(name, self._condition(), size)

    def _retain(self) -> RetainStatement:
        name, settle = self._name("the rule"), None
        self._expect("for", "and a duration")
        period = self._quantity("a duration such as 30y")
        if self._accept("write-once"):
            self._expect("after", "and a duration")
            settle = self._quantity("a duration such as 1d")
        self._expect("when", "and a condition")
        return RetainStatement(name, period, self._condition(), settle)

    def _limit(self) -> LimitStatement:
        name = self._name("the rule")
        self._expect("recalls")
        who: dict[str, Text] = {}
        while self._accept("by"):
            word = self._token.raw
            if word in who or not self._is("user", "program"):
                raise self._unexpected("'user' or 'program', each once", ("user", "program"))
            self._next()
            who[word] = self._name(f"a {word}")
        self._expect("when", "and a condition")
        condition = self._condition()
        if not self._is("at"):
            raise self._unexpected("'at' most RATE, or at most NUMBER at once", ("at",))
        return LimitStatement(name, condition, self._options(), who.get("user"), who.get("program"))

    # What stands behind a rule

    def _options(self) -> Options:
        found: dict[str, Between | Quantity] = {}
        while self._is(*OPTION_WORDS):
            place = self._token
            name, value = self._option(self._next().raw)
            if name in found:
                shown_name = OPTION_NAMES.get(name, place.raw)
                what = f"a second {shown(shown_name)} in one rule"
                raise self._source.error(place.span, what, "each once")
            found[name] = value
        between = found.pop("between", None)
        assert between is None or isinstance(between, Between)
        rest = {name: value for name, value in found.items() if isinstance(value, Quantity)}
        return Options(between, **rest)

    def _option(self, word: str) -> tuple[str, Between | Quantity]:
        if word == "between":
            start = self._time()
            self._expect("and", "a time of day")
            return "between", Between(start, self._time())
        if word == "suspend":
            self._expect("at", "PERCENT")
            return "errors", self._quantity("a share of files such as 10%")
        self._expect("most", "RATE, or NUMBER at once")
        value = self._quantity("a rate such as 5/s or 100MiB/s, or NUMBER at once")
        if not value.unit and not self._is("at"):
            raise self._unexpected("'at' once, or a rate such as 5/s", ("at",))
        if not value.unit:
            self._next()
            self._expect("once")
            return "at_once", value
        return ("files" if value.unit.startswith("/") else "bytes"), value

    def _pin(self) -> PinStatement:
        name = self._name("the rule")
        self._expect("when", "and a condition")
        return PinStatement(name, self._condition())

    def _release(self) -> ReleaseStatement:
        name = self._name("the rule")
        self._expect("from")
        self._expect("tier", "and the name of a tier")
        tier = self._name("a tier")
        start = self._watermark("when", ">")
        stop = self._watermark("until", "<")
        order = self._order()
        return ReleaseStatement(name, tier, start, stop, order, self._options())

    def _watermark(self, word: str, sign: str) -> Quantity:
        self._expect(word, f"tier.used {sign} PERCENT")
        self._expect("tier.used")
        self._expect(sign)
        return self._quantity("a share of the tier such as 85%")

    def _order(self) -> tuple[OrderItem, ...]:
        if not self._accept("order"):
            return ()
        self._expect("by")
        items = [self._order_item()]
        while self._accept(","):
            items.append(self._order_item())
        return tuple(items)

    def _order_item(self) -> OrderItem:
        fact = self._word("a fact such as heat")
        descending = self._accept("desc")
        if not descending:
            self._accept("asc")
        return OrderItem(fact, descending)

    # Conditions

    def _condition(self) -> Condition:
        return _joined(Or, self._parts(self._conjunction, "or"))

    def _conjunction(self) -> Condition:
        return _joined(And, self._parts(self._negation, "and"))

    def _parts(self, part: Callable[[], Condition], word: str) -> tuple[Condition, ...]:
        parts = [part()]
        while self._is(word):
            if len(parts) == CONDITIONS_MAX:
                raise self._unexpected(f"at most {CONDITIONS_MAX} conditions in a row")
            self._next()
            parts.append(part())
        return tuple(parts)

    def _negation(self) -> Condition:
        if not self._is("not", "("):
            return self._comparison()
        if self._nesting == NESTING_MAX:
            raise self._unexpected(f"at most {NESTING_MAX} parentheses and 'not' in each other")
        self._nesting += 1
        condition = self._nested(self._next())
        self._nesting -= 1
        return condition

    def _nested(self, opening: Token) -> Condition:
        if opening.raw == "not":
            return Not(self._negation())
        inner = self._condition()
        if self._token.kind is TokenKind.END:
            raise self._source.error(opening.span, "a '(' without its ')'", "')' further on")
        self._expect(")", "or 'and' or 'or'")
        return inner

    def _comparison(self) -> Condition:
        if self._accept("always"):
            return Always()
        fact = self._word("a condition such as age > 30d")
        key = self._key() if fact.text == "xattr" else None
        if self._is("=="):
            raise self._unexpected("a comparison", (), "write a single =")
        if not self._is(*OPERATORS):
            raise self._unexpected("one of < <= > >= = != ~ behind " + shown(fact.text))
        sign = self._next()
        return Comparison(fact, Word(sign.raw, sign.span), self._value(), key)

    def _key(self) -> Text:
        token = self._token
        if token.kind is not TokenKind.STRING or not token.value:
            raise self._unexpected('the name of an attribute such as "user.project"')
        self._next()
        return Text(token.value, token.span)

    def _value(self) -> Value:
        token = self._token
        if token.kind is TokenKind.NUMBER:
            return self._quantity("")
        if token.kind is TokenKind.STRING:
            self._next()
            return Text(token.value, token.span)
        return self._word("a number, a string or a word")


def _joined(kind: type[And] | type[Or], parts: tuple[Condition, ...]) -> Condition:
    return parts[0] if len(parts) == 1 else kind(parts)
