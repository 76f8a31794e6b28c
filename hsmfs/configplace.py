"""Finds the line of a key in a TOML text: parsers keep values, not places."""

from __future__ import annotations

import re
from typing import Final

Pointer = tuple[str | int, ...]
"""The way to a value: keys of tables and numbers of list items."""

_HEADER: Final = re.compile(r"^\s*(?P<open>\[{1,2})\s*(?P<name>[^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_NAME: Final = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY: Final = re.compile(rf"^\s*(?P<key>{_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_PART: Final = re.compile(_NAME)
_FENCE: Final = re.compile(r'"""|' + "'''")


def dotted(pointer: Pointer) -> str:
    """A pointer as users write it: ``tier[0].path``."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in pointer)
    return text.removeprefix(".")


def line_of(text: str, pointer: Pointer) -> int | None:
    """The line, from 1, of a value or of the nearest table around it; None if not found."""
    places = _places(text)
    for end in range(len(pointer), 0, -1):
        line = places.get(pointer[:end])
        if line is not None:
            return line
    return None


def _places(text: str) -> dict[Pointer, int]:
    places: dict[Pointer, int] = {}
    counts: dict[Pointer, int] = {}
    table: Pointer = ()
    inside_string = False
    for number, line in enumerate(text.split("\n"), start=1):
        toggles = len(_FENCE.findall(line)) % 2 == 1
        if inside_string:
            inside_string = not toggles
            continue
        inside_string = toggles
        header = _HEADER.match(line)
        if header is not None:
            table = _table(header, counts)
            places.setdefault(table, number)
            continue
        key = _KEY.match(line)
        if key is not None:
            places.setdefault((*table, *_key_parts(key["key"])), number)
    return places


def _table(header: re.Match[str], counts: dict[Pointer, int]) -> Pointer:
    """The pointer of a header; ``[[name]]`` counts, ``[name.part]`` means the last ``name``."""
    pointer: Pointer = ()
    parts = _key_parts(header["name"])
    for part in parts[:-1]:
        pointer = (*pointer, part)
        if pointer in counts:
            pointer = (*pointer, counts[pointer] - 1)
    pointer = (*pointer, parts[-1])
    if header["open"] == "[[":
        counts[pointer] = counts.get(pointer, 0) + 1
        return (*pointer, counts[pointer] - 1)
    return pointer


def _key_parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(text)) or ("",)
