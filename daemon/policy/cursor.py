"""The tokens of a policy and the parser's place among them."""

from __future__ import annotations

from typing import Final

from hsmfs.config import did_you_mean
from hsmfs.daemon.policy.lexer import PolicyError, Source, Token, TokenKind, shown
from hsmfs.daemon.policy.syntax import Quantity, Text, TimeOfDay, Word

NAME_CHARACTERS_MAX: Final = 64
STATEMENT_WORDS: Final = (
    "pool",
    "migrate",
    "release",
    "pin",
    "demote",
    "recall-ahead",
    "retain",
    "limit",
)
STATEMENTS_SHOWN: Final = ", ".join(shown(word) for word in STATEMENT_WORDS)
MINUTES_MAX: Final = 24 * 60
RULE_WORDS: Final = ("to", "from", "tier", "when", "until", "order", "by", "asc", "desc")
CONDITION_WORDS: Final = ("and", "or", "not", "always")
OPTION_WORDS: Final = ("between", "at", "suspend")
RESERVED: Final = frozenset((*STATEMENT_WORDS, *RULE_WORDS, *CONDITION_WORDS, *OPTION_WORDS))
FACT_TOO: Final = frozenset({"tier"})


class Cursor:
    """Takes tokens one by one; what is missing is an error with its place."""

    def __init__(self, source: Source, tokens: list[Token]) -> None:
        self._source = source
        self._tokens = tokens
        self._at = 0
        self._nesting = 0

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._token
        if token.kind is not TokenKind.END:
            self._at += 1
        return token

    def _is(self, *raws: str) -> bool:
        token = self._token
        return token.kind in (TokenKind.WORD, TokenKind.PUNCT) and token.raw in raws

    def _accept(self, raw: str) -> bool:
        if not self._is(raw):
            return False
        self._next()
        return True

    def _expect(self, raw: str, after: str = "") -> Token:
        if self._is(raw):
            return self._next()
        raise self._unexpected(shown(raw) + (f" {after}" if after else ""), (raw,))

    def _unexpected(
        self, expected: str, words: tuple[str, ...] = (), todo: str = ""
    ) -> PolicyError:
        token = self._token
        if not todo and token.kind is TokenKind.WORD:
            todo = did_you_mean(token.raw, words)
        return self._source.error(token.span, token.shown, expected, todo)

    def _name(self, what: str) -> Text:
        token = self._token
        if token.kind is TokenKind.WORD and token.raw in RESERVED:
            todo = f'as a name it is written "{token.raw}", in quotes'
            raise self._unexpected(f"the name of {what}", (), todo)
        if token.kind not in (TokenKind.WORD, TokenKind.STRING):
            raise self._unexpected(f"the name of {what}", (), 'such as "imaging"')
        if not token.value.isprintable() or not 0 < len(token.value) <= NAME_CHARACTERS_MAX:
            raise self._unexpected(
                f"a name of 1 to {NAME_CHARACTERS_MAX} characters that can be printed"
            )
        self._next()
        return Text(token.value, token.span)

    def _quantity(self, expected: str) -> Quantity:
        if self._token.kind is not TokenKind.NUMBER:
            raise self._unexpected(expected)
        token = self._next()
        return Quantity(token.value, token.unit, token.span)

    def _word(self, expected: str) -> Word:
        token = self._token
        if token.kind is not TokenKind.WORD or token.raw in RESERVED - FACT_TOO:
            raise self._unexpected(expected)
        self._next()
        return Word(token.raw, token.span)

    def _time(self) -> TimeOfDay:
        token = self._token
        expected = "a time of day such as 20:00, from 00:00 to 24:00"
        if token.kind is not TokenKind.TIME:
            raise self._unexpected(expected)
        if len(token.raw) > len("00:00"):
            raise self._unexpected(expected)
        hours, minutes = (int(part) for part in token.raw.split(":"))
        total = hours * 60 + minutes
        if minutes > 59 or total > MINUTES_MAX:
            raise self._unexpected(expected)
        self._next()
        return TimeOfDay(total, token.span)
