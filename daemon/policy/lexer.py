"""Splits a policy's text into tokens, and shows where an error is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from hsmfs.errors import ConfigError

TEXT_CHARACTERS_MAX: Final = 1_000_000
NUMBER_CHARACTERS_MAX: Final = 18
EXCERPT_INDENT: Final = "    "


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of one line; line and column count from 1."""

    line: int
    column: int
    width: int = 1

    def to(self, last: Span) -> Span:
        """The span from this one to the end of ``last``, at most to the end of the line."""
        if last.line != self.line:
            return self
        return Span(self.line, self.column, last.column + last.width - self.column)


class TokenKind(Enum):
    """What sort of word a token is."""

    WORD = "word"
    STRING = "string"
    NUMBER = "number"
    TIME = "time"
    PUNCT = "punct"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """A word of the text; ``value`` is a string's content or a number's digits."""

    kind: TokenKind
    raw: str
    span: Span
    value: str = ""
    unit: str = ""

    @property
    def shown(self) -> str:
        """The token as error messages quote it."""
        return "the end of the text" if self.kind is TokenKind.END else shown(self.raw)


class PolicyError(ConfigError):
    """An error in a policy's text, with the line it is in and a caret below the place."""

    def __init__(
        self, where: str, found: str, expected: str, todo: str, span: Span, excerpt: str
    ) -> None:
        super().__init__(where, found, expected, todo)
        self.args = (f"{self.args[0]}\n{excerpt}",)
        self.line = span.line
        self.column = span.column
        self.excerpt = excerpt


@dataclass(frozen=True, slots=True)
class Source:
    """A policy's text and the name of the file that it came from."""

    text: str
    file_name: str

    def error(self, span: Span, found: str, expected: str, todo: str = "") -> PolicyError:
        """An error at a place of this text; the caller raises it."""
        where = f"{self.file_name}:{span.line}:{span.column}"
        return PolicyError(where, found, expected, todo, span, self._excerpt(span))

    def _excerpt(self, span: Span) -> str:
        lines = self.text.split("\n")
        line = lines[span.line - 1].rstrip("\r") if span.line <= len(lines) else ""
        # Control characters must not reach a terminal; tabs stay, to keep the caret in place.
        clean = "".join(c if c.isprintable() or c == "\t" else "?" for c in line)
        before = clean[: span.column - 1]
        pad = "".join("\t" if c == "\t" else " " for c in before)
        return f"{EXCERPT_INDENT}{clean}\n{EXCERPT_INDENT}{pad}{'^' * max(1, span.width)}"


def shown(text: str) -> str:
    """A piece of a policy's text as error messages quote it."""
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if clean.startswith('"') else f"'{clean}'"


_TOKEN: Final = re.compile(
    r"""
      (?P<space>[ \t\r\n]+|\#[^\n]*)
    | (?P<string>"(?:[^"\\\n]|\\[^\n])*")
    | (?P<time>\d+:\d+)
    | (?P<number>\d+(?:\.\d+)?)(?P<unit>%|[A-Za-z]*/[A-Za-z]+|[A-Za-z]+)?
    | (?P<word>[A-Za-z_][A-Za-z0-9_.-]*)
    | (?P<punct><=|>=|!=|==|[<>=~(){};,])
    """,
    re.VERBOSE | re.ASCII,
)
_ESCAPE: Final = re.compile(r'\\(x[0-9A-Fa-f]{2}|["\\])|\\.', re.DOTALL)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def tokenize(source: Source) -> list[Token]:
    """All tokens of the text, closed by one of kind ``END``."""
    _check_text(source)
    tokens: list[Token] = []
    line, line_start, at = 1, 0, 0
    while at < len(source.text):
        match = _TOKEN.match(source.text, at)
        span = Span(line, at - line_start + 1)
        if match is None:
            raise _unexpected(source, at, span)
        if match.lastgroup == "space":
            newlines = match.group().count("\n")
            if newlines:
                line += newlines
                line_start = at + match.group().rindex("\n") + 1
        else:
            tokens.append(_token(source, match, span))
        at = match.end()
    # The end is shown just behind the last word, where something is missing.
    last = tokens[-1].span if tokens else Span(1, 0, 1)
    tokens.append(Token(TokenKind.END, "", Span(last.line, last.column + last.width)))
    return tokens


def _check_text(source: Source) -> None:
    if len(source.text) > TEXT_CHARACTERS_MAX:
        found = f"{len(source.text)} characters"
        raise source.error(Span(1, 1), found, f"a policy of at most {TEXT_CHARACTERS_MAX}")
    bad = _SURROGATE.search(source.text)
    if bad is not None:
        before = source.text[: bad.start()]
        span = Span(before.count("\n") + 1, bad.start() - before.rfind("\n"))
        raise source.error(span, "a byte that is not UTF-8", "text", "save the file as UTF-8")


def _token(source: Source, match: re.Match[str], start: Span) -> Token:
    raw = match.group()
    span = Span(start.line, start.column, len(raw))
    number = match["number"]
    if number is not None:
        if len(number) > NUMBER_CHARACTERS_MAX:
            expected = f"a number of at most {NUMBER_CHARACTERS_MAX} characters"
            raise source.error(span, shown(raw), expected)
        return Token(TokenKind.NUMBER, raw, span, number, match["unit"] or "")
    kind = TokenKind(match.lastgroup)
    value = _unquote(source, raw, span) if kind is TokenKind.STRING else raw
    return Token(kind, raw, span, value)


def _unquote(source: Source, raw: str, span: Span) -> str:
    """The content of a string; bytes that are not UTF-8 become surrogates (os.fsdecode)."""
    content = b""
    at = 1
    for match in _ESCAPE.finditer(raw, 1, len(raw) - 1):
        content += raw[at : match.start()].encode()
        escape = match[1]
        if escape is None:
            place = Span(span.line, span.column + match.start(), 2)
            expected = 'one of \\" \\\\ \\xNN behind a backslash'
            raise source.error(
                place, shown(match.group()), expected, "write \\\\ for a backslash itself"
            )
        content += bytes([int(escape[1:], 16)]) if len(escape) == 3 else escape.encode()
        at = match.end()
    content += raw[at:-1].encode()
    return content.decode("utf-8", "surrogateescape")


def quote(text: str) -> str:
    """A string as policies write it; the opposite of what the lexer does."""
    return '"' + "".join(_quoted(c) for c in text) + '"'


def _quoted(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def _unexpected(source: Source, at: int, span: Span) -> PolicyError:
    character = source.text[at]
    if character == '"':
        width = len(source.text[at:].split("\n", 1)[0].rstrip())
        place = Span(span.line, span.column, width)
        return source.error(place, "a string without an end", 'a closing " in the same line')
    expected = "a word, a number, a string or one of < <= > >= = != ~ ( ) { } ; ,"
    todo = {
        "'": 'write strings between "double quotes"',
        "\u201c": 'write strings between plain "double quotes"',
        "\u201d": 'write strings between plain "double quotes"',
        "-": "negative numbers have no use here",
        "!": "write != or not",
        "&": "write and",
        "|": "write or",
        "/": 'put paths between "double quotes"',
        "*": 'put paths between "double quotes"',
    }.get(character, "")
    return source.error(span, shown(character), expected, todo)
