"""What rules choose: the same for a run, a dry run and a measurement.

Changes nothing and knows no daemon: a snapshot and a moment in, files out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from hsmfs.daemon.candidates import Batch, Candidates
from hsmfs.daemon.packing import Found
from hsmfs.daemon.policy.conditions import Node
from hsmfs.daemon.policy.facts import FACTS, FactKind
from hsmfs.daemon.policy.rules import FileRule, MigrateRule, PinRule, ReleaseRule
from hsmfs.daemon.policy.vector import Evaluator, Rows
from hsmfs.namespace.schema import HEAT_ZERO, index_key
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import FLAG_PINNED
from hsmfs.types import Residency

FILES_MAX: Final = 2_000_000
"""Files that one pass chooses at most; the next takes the others."""
KEPT_MAX: Final = 500_000
"""Files that wait to be put in order, before those that surely come too late are dropped."""
NOWHERE: Final = b"\0"


@dataclass(slots=True)
class Chosen:
    """Files of one rule, in the order in which a walk meets them."""

    rule: FileRule
    files: list[Found] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def migrate_files(
    rules: Sequence[MigrateRule],
    batches: Iterable[Batch],
    now_ns: int,
    skip: Callable[[int], bool] = lambda ino: False,
) -> list[Chosen]:
    """What the first rule that matches sends to a pool; ``skip`` are under way already."""
    evaluator = Evaluator(now_ns)
    chosen = [Chosen(rule) for rule in rules]
    found: list[list[tuple[tuple[int, ...], Found]]] = [[] for _ in rules]
    left = FILES_MAX
    for batch in batches:
        for at, rows in first_matches(rules, batch, evaluator):
            placed = [pair for pair in _placed(batch, rows) if not skip(pair[1].ino)][:left]
            found[at] += placed
            left -= len(placed)
        if left <= 0:
            break
    for one, placed in zip(chosen, found, strict=True):
        # By directory: what is used together lies together on the disc.
        placed.sort(key=lambda pair: (*pair[0], pair[1].ino))
        one.files = [item for _, item in placed]
    return chosen


def first_matches(
    rules: Sequence[FileRule], batch: Batch, evaluator: Evaluator
) -> Iterator[tuple[int, Rows]]:
    """For each rule by its place the rows that it is the first to match."""
    rows = batch.rows
    for at, rule in enumerate(rules):
        if not len(rows):
            return
        mask = evaluator.holds(rule.condition.tree, batch, rows)
        if mask.any():
            yield at, rows[mask]
            rows = rows[~mask]


def _placed(batch: Batch, rows: Rows) -> Iterator[tuple[tuple[int, ...], Found]]:
    """The files of these rows, each with where a walk meets it; those without a name are
    left out."""
    records = batch.records(rows)
    columns = (
        batch.parents(rows).tolist(),
        batch.names(rows),
        records["ino"].tolist(),
        records["data_version"].tolist(),
        records["size"].tolist(),
        records["state"].tolist(),
    )
    for parent, name, ino, version, size, state in zip(*columns, strict=True):
        directory = batch.directory(parent) if parent else NOWHERE
        if directory.startswith(NOWHERE):
            continue
        path = directory + b"/" + name if directory else name
        yield batch.place(parent), Found(path, ino, version, size, Residency(state))


def coldest(view: NamespaceView, state: Residency, node: Node, now_ns: int, count: int) -> Any:
    """Inodes of the coldest files for which a condition holds, the coldest first."""
    evaluator = Evaluator(now_ns)
    scores: list[NDArray[Any]] = []
    inodes: list[NDArray[Any]] = []
    total, last_bucket = 0, 1 << 16
    for bucket, batch in Candidates(view, state).coldest():
        if bucket > last_bucket:
            break
        rows = np.flatnonzero(evaluator.holds(node, batch, batch.rows))
        scores.append(batch.number("heat", rows))
        inodes.append(batch.inodes[rows])
        total += len(rows)
        if total >= count:
            order = np.argsort(np.concatenate(scores), kind="stable")
            last_bucket = _bucket(float(np.concatenate(scores)[order[count - 1]]))
    if not scores:
        return np.zeros(0, dtype=np.uint64)
    every, heats = np.concatenate(inodes), np.concatenate(scores)
    return every[np.lexsort((every, heats))[:count]]


def _bucket(score: float) -> int:
    return int.from_bytes(index_key(0, 0, score, 0)[4:6], "big")


# -- release -------------------------------------------------------------------------


class Ranking(Protocol):
    """What ranking needs of files."""

    inodes: NDArray[np.uint64]

    def number(self, fact: str, rows: Rows) -> NDArray[Any]:
        """A fact of the inode record."""


class Ranked:
    """Files in the order of a release rule; holds few more than it needs."""

    def __init__(self, rule: ReleaseRule, bytes_wanted: int) -> None:
        self._order = rule.order
        self._wanted = bytes_wanted
        self._keys: list[list[NDArray[Any]]] = [[] for _ in rule.order]
        self._inodes: list[NDArray[Any]] = []
        self._sizes: list[NDArray[Any]] = []
        self._count = 0
        self.is_whole = True
        """Whether none was left out."""

    def add(self, batch: Ranking, rows: Rows) -> None:
        """More candidates."""
        for keys, (fact, descending) in zip(self._keys, self._order, strict=True):
            column = _sortable(fact, batch.number(fact, rows))
            turned = descending != (FACTS[fact].kind is FactKind.DURATION)
            keys.append(-column if turned else column)
        self._inodes.append(batch.inodes[rows])
        self._sizes.append(batch.number("size", rows))
        self._count += len(rows)
        if self._count > KEPT_MAX:
            self._cut(KEPT_MAX // 2)

    def _cut(self, least: int) -> None:
        """Twice the bytes that are wanted are kept, for some will be refused, and so many
        files at least."""
        order = self._ordered()
        sizes = np.concatenate(self._sizes)[order]
        enough = int(np.searchsorted(np.cumsum(sizes), 2 * self._wanted)) + 1
        if max(enough, least) >= len(order):
            return
        order = order[: max(enough, least)]
        self._keys = [[np.concatenate(keys)[order]] for keys in self._keys]
        self._inodes = [np.concatenate(self._inodes)[order]]
        self._sizes = [np.concatenate(self._sizes)[order]]
        self._count = len(order)
        self.is_whole = False

    def _ordered(self) -> NDArray[np.intp]:
        keys = [np.concatenate(keys) for keys in self._keys]
        return np.lexsort((np.concatenate(self._inodes), *reversed(keys)))

    def bytes_below(self, bucket: int) -> int:
        """Bytes of the files that are colder than a bucket of the index."""
        if not self._count:
            return 0
        scores = np.concatenate(self._keys[0])
        sizes = np.concatenate(self._sizes)
        return int(sizes[scores * 16 < bucket - HEAT_ZERO].sum())

    def inodes(self) -> list[int]:
        """Those of twice the bytes that are wanted, the first to go first."""
        if not self._count:
            return []
        self._cut(1)
        found: list[int] = np.concatenate(self._inodes)[self._ordered()].tolist()
        return found


def _sortable(fact: str, column: NDArray[Any]) -> NDArray[Any]:
    """A column that can be negated without overflow, in the same order."""
    if fact == "heat":
        heats: NDArray[Any] = np.maximum(column.astype(np.float64), 0.0)
        return heats
    if column.dtype == np.int64:
        moments: NDArray[Any] = np.maximum(column, np.iinfo(np.int64).min + 1)
        return moments
    numbers = np.minimum(column.astype(np.uint64), np.uint64(2**63 - 1))
    return numbers.astype(np.int64)


def release_order(
    view: NamespaceView,
    rule: ReleaseRule,
    pins: Sequence[PinRule],
    now_ns: int,
    bytes_wanted: int,
) -> tuple[list[Found], bool]:
    """Files that may go, the first to go first: at least so many bytes where there are, and
    whether these are all.

    Where the coldest go first the index is followed no further than needed.
    """
    evaluator = Evaluator(now_ns)
    ranked = Ranked(rule, bytes_wanted)
    candidates = Candidates(view, Residency.PREMIGRATED)
    by_heat = rule.order[0] == ("heat", False)
    for bucket, batch in candidates.coldest() if by_heat else _unordered(candidates):
        if by_heat and ranked.bytes_below(bucket) >= bytes_wanted:
            ranked.is_whole = False
            break
        rows = np.flatnonzero((batch.number("flags", batch.rows) & FLAG_PINNED) == 0)
        for pin in pins:
            rows = rows[~evaluator.holds(pin.condition.tree, batch, rows)]
        if len(rows):
            ranked.add(batch, rows)
    order = ranked.inodes()
    found: dict[int, Found] = {}
    for batch in candidates.of(order):
        found.update((item.ino, item) for _, item in _placed(batch, batch.rows))
    return [found[ino] for ino in order if ino in found], ranked.is_whole


def _unordered(candidates: Candidates) -> Iterator[tuple[int, Batch]]:
    return ((0, batch) for batch in candidates.all())
