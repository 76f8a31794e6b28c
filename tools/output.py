"""What goes to the screen: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
PLAIN_WIDTH: Final = 240
"""Width of tables that go to a pipe or file: nothing is cut off there."""


def console() -> Console:
    """Standard output; wide when it is no terminal."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, highlight=False)


def print_json(value: object) -> None:
    """Indented JSON in ASCII, so that any byte of a name survives the way."""
    print(json.dumps(value, indent=2))


def complain(text: str) -> None:
    """One line for the person, on standard error."""
    print(f"hsm: {printable(text)}", file=sys.stderr)


def say(text: str) -> None:
    """One line for the person, on standard output."""
    print(printable(text))


def printable(text: str) -> str:
    """Names as shown: bytes that are no UTF-8 and control characters are escaped."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in shown)


def size_words(count: float) -> str:
    """Bytes in decimal units: 1.2 GB."""
    value = float(count)
    for unit in UNITS:
        if value < 999.5 or unit == UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def duration_words(seconds: float) -> str:
    """A time span: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def since_words(since: Any) -> str:
    """A moment of the API (seconds since the epoch) as how long ago."""
    if not isinstance(since, int | float) or since <= 0:
        return ""
    return duration_words(max(0.0, time.time() - since)) + " ago"


def moment_words(moment: Any) -> str:
    """A moment of the API as local date and time."""
    if not isinstance(moment, int | float) or moment <= 0:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def cell(value: Any) -> str:
    """One value as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value) or "-"
    return str(value)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[str] = ()
) -> Table:
    """A table; columns named in ``right`` are numbers."""
    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", no_wrap=True, overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(printable(cell(value))) for value in row))
    return made


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[str] = (),
    empty: str = "none",
) -> None:
    """Print a table, or one word when there is nothing."""
    listed = list(rows)
    if not listed:
        say(empty)
        return
    console().print(table(columns, listed, right))
