"""Conditions on many files at once: the same answers as the closures, by columns.

A condition is evaluated on the rows that are still undecided, cheap facts
first: those of the inode record, then directories (a pattern of paths is a
question to each directory and to each name), then names, whole paths and
extended attributes.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hsmfs.daemon.policy.conditions import COMPARE, Leaf, Node
from hsmfs.daemon.policy.facts import FACTS, FactKind
from hsmfs.daemon.policy.glob import GlobError, Matcher, name_matcher, path_matcher
from hsmfs.daemon.policy.mime import mime_of
from hsmfs.heat import HALF_LIFE_S, heat_now

Rows = NDArray[np.intp]
Mask = NDArray[np.bool_]
Column = NDArray[Any]

VERDICTS_MAX: Final = 200_000
"""Directories whose answers are remembered."""
RECORD_COST: Final = 0.02
LINK_COST: Final = 0.6
NAME_COST: Final = 0.9
WHOLE_PATH_COST: Final = 2.0
XATTR_COST: Final = 3.0
DECIDES_MIN: Final = 0.001
CLOSE: Final = 1e-9
"""Heats so near to the limit are computed one by one, as the closures do."""


class Columns(Protocol):
    """Facts of many files; ``rows`` are their positions."""

    record_cost: float
    """Of a fact of the inode record, in µs for each file."""

    def number(self, fact: str, rows: Rows) -> Column:
        """A fact of the inode record; of an age its moment, of heat the stored score."""

    def parents(self, rows: Rows) -> Column:
        """Inodes of the directories in which the files are judged."""

    def names(self, rows: Rows) -> Sequence[bytes]:
        """Last parts of the paths."""

    def directory(self, parent: int) -> bytes:
        """Path of a directory without a leading slash; of the root it is empty."""

    def xattrs(self, key: bytes, rows: Rows) -> Sequence[bytes]:
        """Values of an attribute, empty where there is none."""


@dataclass(slots=True)
class Evaluator:
    """Tests conditions at one moment; remembers what it found out about directories."""

    now_ns: int
    _verdicts: dict[tuple[str, str], dict[int, bool]] = field(default_factory=dict)
    _known: int = 0
    _counts: dict[tuple[int, bool], tuple[int, int]] = field(default_factory=dict)
    """How many files a part was asked of, and how many it left open."""

    def holds(self, node: Node, columns: Columns, rows: Rows) -> Mask:
        """For each row whether the condition holds."""
        if isinstance(node, Leaf):
            return self._leaf(node, columns, rows)
        if node.kind == "not":
            return ~self.holds(node.parts[0], columns, rows)
        wanted = node.kind == "and"
        open_rows = np.arange(len(rows))
        for part in sorted(node.parts, key=lambda one: self._rank(one, wanted, columns)):
            if not len(open_rows):
                break
            kept = self.holds(part, columns, rows[open_rows]) == wanted
            self._count(part, kept, wanted)
            open_rows = open_rows[kept]
        mask = np.full(len(rows), not wanted)
        mask[open_rows] = wanted
        return mask

    def _rank(self, part: Node, wanted: bool, columns: Columns) -> float:
        """What deciding a file by this part costs: a part that lets all pass decides none."""
        asked, kept = self._counts.get((id(part), wanted), (0, 0))
        price = cost(part, columns.record_cost)
        return price / max(1.0 - kept / asked, DECIDES_MIN) if asked else price

    def _count(self, part: Node, kept: Mask, wanted: bool) -> None:
        asked, before = self._counts.get((id(part), wanted), (0, 0))
        found = before + int(np.count_nonzero(kept))
        self._counts[id(part), wanted] = asked + len(kept), found

    def _leaf(self, leaf: Leaf, columns: Columns, rows: Rows) -> Mask:
        if not leaf.fact:
            return np.ones(len(rows), dtype=np.bool_)
        match FACTS[leaf.fact].kind:
            case FactKind.DURATION:
                return self._age(leaf, columns.number(leaf.fact, rows))
            case FactKind.NUMBER:
                return self._heat(leaf, columns.number(leaf.fact, rows))
            case FactKind.PATH:
                return self._path(leaf, columns, rows)
            case FactKind.NAME:
                return _texts(leaf, columns.names(rows))
            case FactKind.MIME:
                return _texts(leaf, [mime_of(name) for name in columns.names(rows)])
            case FactKind.XATTR:
                return _texts(leaf, columns.xattrs(leaf.key, rows))
        return compared(columns.number(leaf.fact, rows), leaf.sign, int(leaf.limit))

    def _age(self, leaf: Leaf, moments: Column) -> Mask:
        """``now - moment > limit`` as ``moment < now - limit``: no overflow at the ends."""
        turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[leaf.sign]
        return compared(moments, turned, self.now_ns - int(leaf.limit))

    def _heat(self, leaf: Leaf, scores: Column) -> Mask:
        wide = scores.astype(np.float64)
        heats = np.exp2(np.minimum(64.0, wide - self.now_ns / 1e9 / HALF_LIFE_S))
        heats[wide <= 0.0] = 0.0
        mask: Mask = COMPARE_COLUMN[leaf.sign](heats, leaf.limit)
        close = np.flatnonzero(np.abs(heats - leaf.limit) <= CLOSE * max(leaf.limit, CLOSE))
        if len(close):
            several, back = np.unique(wide[close], return_inverse=True)
            test = COMPARE[leaf.sign]
            exact = [test(heat_now(score, self.now_ns), leaf.limit) for score in several.tolist()]
            mask[close] = np.array(exact, dtype=np.bool_)[back]
        return mask

    # -- paths ---------------------------------------------------------------------

    def _path(self, leaf: Leaf, columns: Columns, rows: Rows) -> Mask:
        cut = cut_pattern(leaf.pattern, leaf.sign)
        if cut is None:
            assert leaf.match is not None
            whole = zip(columns.parents(rows).tolist(), columns.names(rows), strict=True)
            paths = [_joined(columns.directory(parent), name) for parent, name in whole]
            return _texts(leaf, paths)
        mask = self._in_directories(leaf, cut.directory, columns, columns.parents(rows))
        if cut.name is not None:
            inside = np.flatnonzero(mask)
            name = cut.name
            found = [name(text) for text in columns.names(rows[inside])]
            mask[inside] = np.array(found, dtype=np.bool_)
        return ~mask if leaf.sign == "!=" else mask

    def _in_directories(
        self, leaf: Leaf, matches: Matcher, columns: Columns, parents: Column
    ) -> Mask:
        """Each directory is asked once."""
        key = (leaf.pattern, "~" if leaf.sign == "~" else "=")
        known = self._verdicts.setdefault(key, {})
        several, back = np.unique(parents, return_inverse=True)
        verdicts = np.empty(len(several), dtype=np.bool_)
        for at, parent in enumerate(several.tolist()):
            verdict = known.get(parent)
            if verdict is None:
                verdict = known[parent] = matches(columns.directory(parent))
                self._known += 1
            verdicts[at] = verdict
        if self._known > VERDICTS_MAX:
            self._verdicts.clear()
            self._known = 0
        mask: Mask = verdicts[back]
        return mask


COMPARE_COLUMN: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


def compared(column: Column, sign: str, limit: int) -> Mask:
    """A column of whole numbers against a limit that may be beyond its type."""
    info = np.iinfo(column.dtype)
    if info.min <= limit <= info.max:
        mask: Mask = COMPARE_COLUMN[sign](column, column.dtype.type(limit))
        return mask
    always = COMPARE[sign](0, 1 if limit > info.max else -1)
    return np.full(len(column), always)


def cost(node: Node, record_cost: float) -> float:
    """How dear a condition is for each file, in about µs: what must be read for it."""
    if not isinstance(node, Leaf):
        return max(cost(part, record_cost) for part in node.parts)
    if not node.fact:
        return 0.0
    match FACTS[node.fact].kind:
        case FactKind.PATH:
            cut = cut_pattern(node.pattern, node.sign)
            return WHOLE_PATH_COST if cut is None else LINK_COST + (0.3 if cut.name else 0.0)
        case FactKind.NAME | FactKind.MIME:
            return NAME_COST
        case FactKind.XATTR:
            return XATTR_COST
    return record_cost + RECORD_COST


def _texts(leaf: Leaf, texts: Sequence[bytes]) -> Mask:
    match = leaf.match
    assert match is not None
    mask = np.fromiter((match(text) for text in texts), dtype=np.bool_, count=len(texts))
    return ~mask if leaf.sign == "!=" else mask


def _joined(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


@dataclass(frozen=True, slots=True)
class Cut:
    """A pattern of paths as a question to the directory and one to the name (None: any)."""

    directory: Matcher
    name: Matcher | None


@functools.lru_cache(maxsize=1000)
def cut_pattern(pattern: str, sign: str) -> Cut | None:
    """None: the pattern can only be asked of whole paths."""
    body = pattern.removeprefix("/")
    if sign != "~":
        directory, _, name = body.encode("utf-8", "surrogateescape").rpartition(b"/")
        return Cut(directory.__eq__, name.__eq__)
    if "***" in body:
        return None
    try:
        return _cut(_without_repeats(body))
    except GlobError:
        return None


def _without_repeats(body: str) -> str:
    """``**/**`` says no more than ``**``, but would hide where the directories end."""
    while "/**/**/" in body:
        body = body.replace("/**/**/", "/**/")
    while body.startswith("**/**/"):
        body = body.removeprefix("**/")
    while body.endswith("/**/**") or body == "**/**":
        body = body.removesuffix("/**")
    return body


def _cut(body: str) -> Cut | None:
    if body == "**":
        return Cut(lambda directory: True, None)
    above, slash, last = body.rpartition("/")
    if above.endswith("\\"):
        return None
    if last == "**":
        here, below = path_matcher("/" + above), path_matcher("/" + body)
        return Cut(lambda path: bool(path) and (here(path) or below(path)), None)
    if "**" in last:
        return None
    name = name_matcher(last)
    if not slash:
        return Cut(lambda path: not path, name)
    if above == "**":
        return Cut(lambda path: True, name)
    whole = path_matcher("/" + above)
    if above.endswith("/**"):
        top = path_matcher("/" + above.removesuffix("/**"))
        return Cut(lambda path: bool(path) and (top(path) or whole(path)), name)
    return Cut(lambda path: bool(path) and whole(path), name)
