"""Path patterns, translated to regular expressions that cannot blow up.

``*`` and ``?`` stay within one name; ``**`` crosses slashes, and between two
slashes it also stands for no directory at all. Paths are bytes; ``?`` and
``[...]`` count characters of UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

PATTERN_CHARACTERS_MAX: Final = 4096

Matcher = Callable[[bytes], bool]


class GlobError(ValueError):
    """A pattern that means nothing; the text says what to write."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch without stars, as a regular expression."""

    regex: str


@dataclass(frozen=True, slots=True)
class _Star:
    """``*`` (any run without a slash), ``**`` (any run) or ``**/`` (any directories)."""

    regex: str
    deep: bool = False
    optional: bool = False


_STAR: Final = _Star("[^/]*")
_GLOBSTAR: Final = _Star(".*", deep=True)
_DIRECTORIES: Final = _Star(".*/", deep=True, optional=True)
_Part = _Piece | _Star


def path_matcher(pattern: str) -> Matcher:
    """A test of whole paths, with or without their leading slash."""
    check_path_pattern(pattern)
    # Possessive: a star is never the empty name before a leading slash.
    return _matcher("/?+", pattern.removeprefix("/"))


def name_matcher(pattern: str) -> Matcher:
    """A test of the last part of a path."""
    if "/" in pattern:
        raise GlobError("a name has no '/'; write path ~ for whole paths")
    return _matcher("", pattern)


def text_matcher(pattern: str) -> Matcher:
    """A test of any text, such as a MIME type: stars stay before a slash here too."""
    return _matcher("", pattern)


def check_path_pattern(pattern: str) -> None:
    """Refuse patterns that can match no file, or surely mean another."""
    if not pattern.startswith(("/", "**")):
        raise GlobError(f"paths start at the root of the mount: write /{pattern} or **/{pattern}")
    if pattern.endswith("/"):
        raise GlobError(f"a file's path has no '/' at its end; write {pattern}**")
    if "//" in pattern:
        raise GlobError("'//' is in no path")


def _matcher(start: str, pattern: str) -> Matcher:
    if not pattern:
        raise GlobError("an empty pattern matches nothing")
    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise GlobError(f"a pattern has at most {PATTERN_CHARACTERS_MAX} characters")
    body = _regex(_parts(pattern))
    text = rf"{start}{body}\Z"
    # Without ? and [...] characters do not matter, and bytes need no decoding.
    if not re.search(r"[?\[]", pattern):
        return _bytes_matcher(re.compile(text.encode("utf-8", "surrogateescape"), re.DOTALL))
    return _text_matcher(re.compile(text, re.DOTALL))


def _bytes_matcher(regex: re.Pattern[bytes]) -> Matcher:
    match = regex.match
    return lambda path: match(path) is not None


def _text_matcher(regex: re.Pattern[str]) -> Matcher:
    match = regex.match
    return lambda path: match(path.decode("utf-8", "surrogateescape")) is not None


def _parts(pattern: str) -> list[_Part]:
    parts: list[_Part] = []
    literal = ""
    at = 0
    while at < len(pattern):
        if pattern[at] != "*":
            regex, at = _character(pattern, at)
            literal += regex
            continue
        if literal:
            parts.append(_Piece(literal))
            literal = ""
        star, at = _star(pattern, at)
        if not (parts and parts[-1] == star):
            parts.append(star)
    return [*parts, _Piece(literal)] if literal else parts


def _star(pattern: str, at: int) -> tuple[_Star, int]:
    end = at
    while end < len(pattern) and pattern[end] == "*":
        end += 1
    if end - at == 1:
        return _STAR, end
    alone = at == 0 or pattern[at - 1] == "/"
    if alone and end < len(pattern) and pattern[end] == "/":
        return _DIRECTORIES, end + 1
    return _GLOBSTAR, end


def _character(pattern: str, at: int) -> tuple[str, int]:
    character = pattern[at]
    if character == "?":
        return "[^/]", at + 1
    if character == "[":
        return _class(pattern, at)
    if character in "{}":
        raise GlobError(f"'{character}' is kept for later; write one condition for each, with or")
    if character == "\\":
        if at + 1 == len(pattern):
            raise GlobError("a backslash at the end quotes nothing")
        return re.escape(pattern[at + 1]), at + 2
    return re.escape(character), at + 1


def _class(pattern: str, start: int) -> tuple[str, int]:
    """``[a-z]``, ``[!a-z]``: one character, never a slash; ``]`` may stand first."""
    at = start + 1
    negated = pattern[at : at + 1] == "!"
    at += negated
    items = ""
    first = at
    while at < len(pattern) and (pattern[at] != "]" or at == first):
        low, at = pattern[at], at + 1
        high = low
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("", "]"):
            high, at = pattern[at + 1], at + 2
        if "/" in (low, high):
            raise GlobError("'/' cannot stand between [ and ]")
        if high < low:
            raise GlobError(f"the range {low}-{high} is empty")
        items += re.escape(low) if low == high else f"{re.escape(low)}-{re.escape(high)}"
    if at >= len(pattern):
        raise GlobError("a '[' without its ']'; write \\\\[ for the sign itself")
    return f"(?!/)[{'^' * negated}{items}]", at + 1


def _regex(parts: list[_Part]) -> str:
    """One expression for all parts.

    A star whose stretch is found and followed by another star of its kind or
    wider never needs a later place, so the search is atomic: without that, a
    pattern of many stars takes exponential time. Only the stars behind the
    last ``**`` may have to try again, and the last one is followed by the end.
    """
    groups = _split_deep(parts)
    text = _chunk(groups[0][1], last=len(groups) == 1)
    for number, (star, chunk) in enumerate(groups[1:], start=2):
        assert star is not None
        last = number == len(groups)
        rest = _chunk(chunk, last=last)
        if last:
            text += f"(?:{star.regex})?{rest}" if star.optional else star.regex + rest
        else:
            lazy = star.regex.replace("*", "*?")
            text += f"(?>(?:{lazy})??{rest})" if star.optional else f"(?>{lazy}{rest})"
    return text


def _split_deep(parts: list[_Part]) -> list[tuple[_Star | None, list[_Part]]]:
    groups: list[tuple[_Star | None, list[_Part]]] = [(None, [])]
    for part in parts:
        if isinstance(part, _Star) and part.deep:
            groups.append((part, []))
        else:
            groups[-1][1].append(part)
    return groups


def _chunk(parts: list[_Part], last: bool) -> str:
    """Parts without ``**``: pieces and single stars by turns."""
    text = ""
    for at, part in enumerate(parts):
        if isinstance(part, _Piece):
            before = parts[at - 1] if at else None
            if before is None:
                text += part.regex
            elif last and at == len(parts) - 1:
                text += f"[^/]*{part.regex}"
            else:
                text += f"(?>[^/]*?{part.regex})"
        elif at == len(parts) - 1:
            text += "[^/]*" if last else ""
    return text
