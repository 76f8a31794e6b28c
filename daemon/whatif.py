"""A recorded access log, played again through a policy.

The files are those of the log, with the paths and owners that they have now.
Opens, releases and recalls go in the order of time; migrate rules are applied
once a day, burns take no time. What it tells is a comparison of policies.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hsmfs.accesslog import WRITE
from hsmfs.daemon.candidates import Directories
from hsmfs.daemon.policy.rules import MigrateRule, Policy, ReleaseRule
from hsmfs.daemon.policy.vector import Columns, Evaluator, Rows
from hsmfs.daemon.policyplan import head_bytes_of, why_waits
from hsmfs.daemon.selection import Ranked
from hsmfs.heat import heated
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import FLAG_PINNED
from hsmfs.types import Residency

DAY_NS: Final = 86_400 * 10**9
LOAD_S: Final = 15.0
READ_BYTES_S: Final = 36_000_000
"""Estimates, as for ``recall --plan``."""
STUBS: Final = (int(Residency.MIGRATED), int(Residency.RECALLING))
STUB: Final = min(STUBS)
RESIDENT: Final = int(Residency.RESIDENT)
PREMIGRATED: Final = int(Residency.PREMIGRATED)
"""As plain numbers: comparing an enum with numbers of numpy costs a microsecond."""
_FIELD: Final = {"owner": "uid", "group": "gid"}


@dataclass(frozen=True, slots=True)
class Site:
    """What does not depend on the policy."""

    tier: str
    capacity_bytes: int
    drives: int
    disc_bytes: int
    other_bytes: int = 0
    """In the cache, of files that the log does not tell of."""


@dataclass(slots=True)
class Outcome:
    """What a policy would have brought."""

    opens: int = 0
    recalls: int = 0
    recalled_bytes: int = 0
    loads: int = 0
    waiting_s: float = 0.0
    migrated_files: int = 0
    released_files: int = 0
    discs: int = 0
    cache_max_bytes: int = 0


class Files(Columns):
    """The files of a log, by columns; their rows are in the order of inodes."""

    record_cost = 0.0

    def __init__(self, view: NamespaceView, events: NDArray[Any]) -> None:
        self._view = view
        self.inodes, first, self.of_event = np.unique(
            events["ino"], return_index=True, return_inverse=True
        )
        self.records = view.bulk.records(self.inodes).copy()
        self.is_known = self.records["nlink"] > 0
        self._links, self._parents = view.bulk.links(self.inodes)
        self._directories = Directories(view)
        self.first_ns = events["time_ns"][first]
        self.size = events["size"][first].astype(np.int64)
        self.state = events["state"][first].astype(np.uint8)
        self.begin(int(events["time_ns"][0]))

    def begin(self, start_ns: int) -> None:
        """As it was before the first event, as far as that is known."""
        records, before = self.records, self.first_ns
        self.exists = (records["btime_ns"] < start_ns) & self.is_known
        self.moments = {
            name: np.minimum(records[name], before) for name in ("mtime_ns", "ctime_ns")
        }
        self.moments["atime_ns"] = self.moments["mtime_ns"].copy()
        self.heat = np.zeros(len(records), dtype=np.float64)

    def volume(self, row: int) -> str:
        """Where a file was before the log begins, as far as that is known."""
        ino = int(self.inodes[row])
        return next(iter(self._view.volumes(ino)), f"volume of inode {ino}")

    def number(self, fact: str, rows: Rows) -> NDArray[Any]:
        """A fact at the present moment of the replay."""
        column: NDArray[Any]
        match fact:
            case "age":
                column = np.maximum(self.moments["atime_ns"], self.moments["mtime_ns"])
            case "atime_age" | "mtime_age" | "ctime_age":
                column = self.moments[fact.removesuffix("_age") + "_ns"]
            case "heat":
                column = self.heat
            case "size":
                column = self.size
            case "state" | "residency":
                column = self.state
            case "copies":
                column = (self.state != RESIDENT).astype(np.uint8)
            case _:
                column = self.records[_FIELD.get(fact, fact)]
        return np.asarray(column[rows])

    def parents(self, rows: Rows) -> NDArray[Any]:
        """As they are now; 0: the file is gone."""
        return np.asarray(self._parents[rows])

    def names(self, rows: Rows) -> Sequence[bytes]:
        """As they are now."""
        return [self._links[row][17:] if self._parents[row] else b"" for row in rows.tolist()]

    def directory(self, parent: int) -> bytes:
        """Its path; of a file that is gone, one that no pattern means."""
        return self._directories.path(parent) if parent else b"\0"

    def xattrs(self, key: bytes, rows: Rows) -> Sequence[bytes]:
        """As they are now."""
        return self._view.bulk.xattrs(self.inodes[rows], key)


class Replay:
    """One policy over one log."""

    def __init__(self, policy: Policy, files: Files, site: Site) -> None:
        self.policy = policy
        self.files = files
        self.site = site
        self.outcome = Outcome()
        self._cached = site.other_bytes
        self._disc: dict[int, tuple[str, int]] = {}
        self._written: dict[str, int] = {}
        self._pool: dict[int, str] = {}
        self._first_pool = next(iter(policy.pools), "")
        """Of files that were on discs before the log begins."""
        self._drives: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._release = policy.release_rule_for(site.tier)
        rule = self._release
        self._high = rule.start_fraction * site.capacity_bytes if rule else float("inf")

    def run(self, events: NDArray[Any]) -> Outcome:
        """All events, in order of time."""
        files, outcome = self.files, self.outcome
        cached = files.exists & ~np.isin(files.state, STUBS)
        self._cached += int(files.size[cached].sum())
        outcome.cache_max_bytes = self._cached
        next_day_ns = int(events["time_ns"][0])
        columns = (
            events["time_ns"].tolist(),
            files.of_event.tolist(),
            events["size"].tolist(),
            events["kind"].tolist(),
        )
        for time_ns, row, size, kind in zip(*columns, strict=True):
            while time_ns >= next_day_ns:
                self._migrate(next_day_ns)
                next_day_ns += DAY_NS
            self._open(time_ns, row, size, kind)
            if self._cached > self._high:
                self._make_room(time_ns)
            outcome.cache_max_bytes = max(outcome.cache_max_bytes, self._cached)
        outcome.opens = len(events)
        outcome.discs = sum(
            (-(-size // self.site.disc_bytes)) * self.policy.pools[pool].copies
            for pool, size in self._written.items()
        )
        return outcome

    def _open(self, time_ns: int, row: int, size: int, kind: int) -> None:
        files = self.files
        before, state = files.size.item(row), files.state.item(row)
        if not files.exists.item(row):
            files.exists[row] = True
            if state < STUB:
                self._cached += before
        if state >= STUB:
            self._recall(row, before)
        if size != before:
            self._cached += size - before
            files.size[row] = size
        moments = files.moments
        if kind == WRITE:
            files.state[row] = RESIDENT
            moments["mtime_ns"][row] = moments["ctime_ns"][row] = time_ns
        moments["atime_ns"][row] = time_ns
        files.heat[row] = heated(files.heat.item(row), time_ns)

    def _recall(self, row: int, size: int) -> None:
        files, outcome = self.files, self.outcome
        outcome.recalls += 1
        outcome.recalled_bytes += size
        disc = self._disc.get(row) or (files.volume(row), 0)
        if disc not in self._drives:
            outcome.loads += 1
            outcome.waiting_s += LOAD_S
            self._drives[disc] = None
            if len(self._drives) > self.site.drives:
                self._drives.popitem(last=False)
        self._drives.move_to_end(disc)
        outcome.waiting_s += size / READ_BYTES_S
        self._cached += size - min(
            size, head_bytes_of(self.policy, self._pool.get(row, self._first_pool))
        )
        files.state[row] = PREMIGRATED

    def _migrate(self, now_ns: int) -> None:
        """A day's work of the migrate rules."""
        files, evaluator = self.files, Evaluator(now_ns)
        rows = np.flatnonzero(files.exists & (files.state == RESIDENT))
        for rule in self.policy.migrate:
            if not len(rows):
                return
            mask = evaluator.holds(rule.condition.tree, files, rows)
            self._burn(rule, rows[mask])
            rows = rows[~mask]

    def _burn(self, rule: MigrateRule, rows: Rows) -> None:
        written = self._written.get(rule.pool, 0)
        for row, size in zip(rows.tolist(), self.files.size[rows].tolist(), strict=True):
            self._disc[row] = rule.pool, written // self.site.disc_bytes
            self._pool[row] = rule.pool
            written += size
        if len(rows):
            self._written[rule.pool] = written
            self.files.state[rows] = PREMIGRATED
            self.outcome.migrated_files += len(rows)

    def _make_room(self, now_ns: int) -> None:
        rule = self._release
        assert rule is not None
        if why_waits(rule.pace, now_ns):
            return
        low = rule.stop_fraction * self.site.capacity_bytes
        for row in self._candidates(rule, now_ns):
            if self._cached < low:
                break
            size = int(self.files.size[row])
            head = min(size, head_bytes_of(self.policy, self._pool.get(row, self._first_pool)))
            self.files.state[row] = Residency.MIGRATED
            self._cached -= size - head
            self.outcome.released_files += 1
        # Where not enough could go, looking again at each open would take for ever.
        start = rule.start_fraction * self.site.capacity_bytes
        self._high = max(start, self._cached + (start - low) / 10)

    def _candidates(self, rule: ReleaseRule, now_ns: int) -> Iterable[int]:
        files, evaluator = self.files, Evaluator(now_ns)
        free = (files.records["flags"] & FLAG_PINNED) == 0
        rows = np.flatnonzero(files.exists & (files.state == PREMIGRATED) & free)
        for pin in self.policy.pin:
            rows = rows[~evaluator.holds(pin.condition.tree, files, rows)]
        if not len(rows):
            return ()
        ranked = Ranked(rule, self._cached)
        ranked.add(_Rows(files), rows)
        return ranked.inodes()


class _Rows:
    """The files with their rows for inodes."""

    def __init__(self, files: Files) -> None:
        self.inodes = np.arange(len(files.inodes), dtype=np.uint64)
        self.number = files.number


def happened(events: NDArray[Any]) -> Outcome:
    """What the log itself tells: opens of stubs were recalls."""
    stubs = np.isin(events["state"], STUBS)
    size = int(events["size"][stubs].sum())
    return Outcome(opens=len(events), recalls=int(stubs.sum()), recalled_bytes=size)


def replay(view: NamespaceView, policy: Policy, events: NDArray[Any], site: Site) -> Outcome:
    """Play a log, whose events are in order of time, through a policy."""
    return Replay(policy, Files(view, events), site).run(events)
