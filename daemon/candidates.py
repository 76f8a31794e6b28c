"""Files that rules may be about, by chunks of columns, from the policy index.

A pass either follows the index (few files are in the state, or the coldest are
wanted first) or, where most inodes are candidates anyway, the inodes in their
order, which costs a third for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hsmfs.daemon.policy.vector import Columns, Rows
from hsmfs.namespace.bulk import CHUNK, BulkView, Inodes, Records, index_inodes
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import DTYPE
from hsmfs.types import ROOT_INODE, Residency

DIRECTORIES_MAX: Final = 200_000
"""Paths of directories that are remembered."""
READ_COST: Final = 0.8
"""Of a record that is not read yet, in µs."""
S_IFMT: Final = 0o170000
S_IFREG: Final = 0o100000
GROUP_MAX: Final = 8 * CHUNK
"""Files of the index that are looked up together: inodes that are near each other share pages."""
WALK_SHARE: Final = 0.4
"""A greater share of all inodes is read by a walk over them."""
_FIELD: Final = {
    "atime_age": "atime_ns",
    "mtime_age": "mtime_ns",
    "ctime_age": "ctime_ns",
    "owner": "uid",
    "group": "gid",
    "residency": "state",
}


class Directories:
    """Paths of directories, and the numbers of what is above them."""

    def __init__(self, view: NamespaceView) -> None:
        self._view = view
        self._paths: dict[int, tuple[bytes, tuple[int, ...]]] = {ROOT_INODE: (b"", ())}

    def path(self, ino: int) -> bytes:
        """Without a leading slash; of one that is nowhere, a path that no pattern means."""
        return self.place(ino)[0]

    def place(self, ino: int) -> tuple[bytes, tuple[int, ...]]:
        """The path, and the inodes from below the root to the directory: the order in which
        a walk meets it."""
        known = self._paths.get(ino)
        if known is None:
            if len(self._paths) > DIRECTORIES_MAX:
                self._paths = {ROOT_INODE: (b"", ())}
            known = self._paths[ino] = self._find(ino)
        return known

    def _find(self, ino: int) -> tuple[bytes, tuple[int, ...]]:
        chain: list[tuple[int, bytes]] = []
        at, known = ino, self._paths[ROOT_INODE]
        while at != ROOT_INODE:
            found = self._paths.get(at)
            if found is not None:
                known = found
                break
            links, parents = self._view.bulk.links(np.array([at], dtype=np.uint64))
            if not parents[0]:
                return b"\0", (at,)
            chain.append((at, links[0][17:]))
            at = int(parents[0])
        path, above = known
        for number, name in reversed(chain):
            path = path + b"/" + name if path else name
            above = (*above, number)
        return path, above


class Batch(Columns):
    """Some files by columns; what is not asked is not read."""

    def __init__(
        self,
        bulk: BulkView,
        inodes: Inodes,
        directories: Directories,
        records: Records | None = None,
    ) -> None:
        self.inodes = inodes
        self.record_cost = READ_COST if records is None else 0.0
        self._bulk = bulk
        self._directories = directories
        count = len(inodes)
        self._records = np.zeros(count, dtype=DTYPE) if records is None else records
        self._loaded = np.full(count, records is not None)
        self._links: list[bytes] = [b""] * count
        self._parents: NDArray[Any] = np.zeros(count, dtype=np.uint64)
        self._linked = np.zeros(count, dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.inodes)

    @property
    def rows(self) -> Rows:
        """All of them."""
        return np.arange(len(self.inodes))

    def records(self, rows: Rows) -> Records:
        """The records of these rows."""
        self._read_records(rows)
        return self._records if len(rows) == len(self.inodes) else self._records[rows]

    def _read_records(self, rows: Rows) -> None:
        if not self.record_cost:
            return
        fresh = rows[~self._loaded[rows]]
        if len(fresh):
            self._records[fresh] = self._bulk.records(self.inodes[fresh])
            self._loaded[fresh] = True

    def number(self, fact: str, rows: Rows) -> NDArray[Any]:
        """A column of the records."""
        self._read_records(rows)
        records, whole = self._records, len(rows) == len(self.inodes)
        if fact == "age":
            read, written = records["atime_ns"], records["mtime_ns"]
            if not whole:
                read, written = read[rows], written[rows]
            return np.asarray(np.maximum(read, written))
        column = records[_FIELD.get(fact, fact)]
        return np.asarray(column if whole else column[rows])

    def _read_links(self, rows: Rows) -> None:
        fresh = rows[~self._linked[rows]]
        if not len(fresh):
            return
        links, parents = self._bulk.links(self.inodes[fresh])
        self._parents[fresh] = parents
        self._linked[fresh] = True
        if len(fresh) == len(self.inodes):
            self._links = links
            return
        own = self._links
        for row, link in zip(fresh.tolist(), links, strict=True):
            own[row] = link

    def parents(self, rows: Rows) -> NDArray[Any]:
        """0: the file has no name any more."""
        self._read_links(rows)
        return self._parents[rows]

    def names(self, rows: Rows) -> Sequence[bytes]:
        """Last parts of the first names."""
        self._read_links(rows)
        if len(rows) == len(self.inodes):
            return [link[17:] for link in self._links]
        links = self._links
        return [links[row][17:] for row in rows.tolist()]

    def directory(self, parent: int) -> bytes:
        """Its path."""
        return self._directories.path(parent)

    def place(self, parent: int) -> tuple[int, ...]:
        """Where a walk meets the directory."""
        return self._directories.place(parent)[1]

    def xattrs(self, key: bytes, rows: Rows) -> Sequence[bytes]:
        """Values of an attribute."""
        return self._bulk.xattrs(self.inodes[rows], key)


class Candidates:
    """Regular files in one state, in one snapshot."""

    def __init__(self, view: NamespaceView, state: Residency) -> None:
        self._bulk = view.bulk
        self._state = state
        self._directories = Directories(view)

    def all(self) -> Iterator[Batch]:
        """Each once, in no order that is of use."""
        counters = self._bulk.counters()
        share = counters.files[self._state] / max(1, counters.inodes)
        if share > WALK_SHARE:
            for records in self._bulk.all_records():
                yield from self._batch(records)
            return
        for pool in self._bulk.pools_in(self._state):
            for entries in self._bulk.index(self._state, pool):
                yield from self._of(entries["ino"].astype(np.uint64))

    def coldest(self) -> Iterator[tuple[int, Batch]]:
        """All, the coldest first but for what shares a bucket of the index: pairs of a bucket
        and files, none of which is colder than it."""
        group: list[NDArray[Any]] = []
        first, held, wanted = 0, 0, CHUNK
        for bucket, inodes in self._coldest_chunks():
            first = first if group else bucket
            group.append(inodes)
            held += len(inodes)
            if held >= wanted:
                yield first, self._one(np.concatenate(group))
                group, held, wanted = [], 0, min(2 * wanted, GROUP_MAX)
        if group:
            yield first, self._one(np.concatenate(group))

    def _coldest_chunks(self) -> Iterator[tuple[int, Inodes]]:
        """Of all pools by turns, the coldest first."""
        runs = {pool: self._bulk.index(self._state, pool) for pool in self._pools()}
        heads = {pool: next(run, None) for pool, run in runs.items()}
        while True:
            live = {pool: head for pool, head in heads.items() if head is not None}
            if not live:
                return
            pool = min(live, key=lambda one: int(live[one]["bucket"][0]))
            entries = live[pool]
            heads[pool] = next(runs[pool], None)
            yield int(entries["bucket"][0]), entries["ino"].astype(np.uint64)

    def _pools(self) -> list[int]:
        return self._bulk.pools_in(self._state)

    def slice(self, after: bytes, limit: int) -> tuple[bytes, list[Batch]]:
        """A part of the index after a key of it; and where the next begins (empty: it ends)."""
        keys = self._bulk.index_from(self._state, after, limit)
        batches = [
            batch
            for at in range(0, len(keys), GROUP_MAX)
            for batch in self._of(index_inodes(keys[at : at + GROUP_MAX]))
        ]
        return (keys[-1] if len(keys) == limit else b""), batches

    def of(self, inodes: Sequence[int]) -> Iterator[Batch]:
        """Those of these inodes that are in the state."""
        wanted = np.unique(np.array(inodes, dtype=np.uint64))
        for at in range(0, len(wanted), CHUNK):
            yield from self._batch(self._bulk.records(wanted[at : at + CHUNK]))

    def _of(self, inodes: Inodes) -> Iterator[Batch]:
        """These, of which the index says that they are in the state."""
        if len(inodes):
            yield self._one(inodes)

    def _one(self, inodes: Inodes) -> Batch:
        return Batch(self._bulk, np.sort(inodes), self._directories)

    def _batch(self, records: Records) -> Iterator[Batch]:
        regular = (records["mode"] & S_IFMT) == S_IFREG
        keep = regular & (records["state"] == self._state)
        files = records if keep.all() else records[keep]
        if len(files):
            yield Batch(self._bulk, files["ino"], self._directories, files)
