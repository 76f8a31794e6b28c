"""The plan of a policy: what each rule would do now, file by file.

``hsm policy dry-run`` prints it, a run does it. It is made from snapshots of
namespace and catalog and from the fill of the tiers; it changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hsmfs.daemon.candidates import Candidates
from hsmfs.daemon.catalog import COUNTED, Catalog
from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.daemon.coverage import copies_of
from hsmfs.daemon.packing import Found
from hsmfs.daemon.policy.rules import MigrateRule, Pace, Policy, ReleaseRule
from hsmfs.daemon.selection import migrate_files, release_order
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import SECTOR_BYTES, FileVersion, Residency

DEFAULT_HEAD_BYTES: Final = 65_536
ASK_MORE: Final = 4
"""Where too many candidates may not go, so many times as much is looked at."""
EMERGENCY: Final = 0.97
"""A tier so full is emptied outside of a rule's hours too: writers are about to meet ENOSPC."""


class Fill(NamedTuple):
    """How full a tier is."""

    used_bytes: int
    capacity_bytes: int

    @property
    def fraction(self) -> float:
        return self.used_bytes / self.capacity_bytes if self.capacity_bytes else 0.0


@dataclass(slots=True)
class RulePlan:
    """What one rule does."""

    kind: str
    name: str
    line: int
    place: str
    """The pool, or the tier."""
    files: list[Found] = field(default_factory=list)
    bytes: int = 0
    """Of a release: what it frees."""
    discs: int = 0
    """All copies."""
    waits: str = ""
    """Why nothing of it is done now."""
    refused: int = 0
    """Files that the rule would take, and that may not go."""


@dataclass(slots=True)
class Plan:
    """What all rules do, in the order of the policy."""

    now_ns: int
    rules: list[RulePlan]
    disc_bytes: int
    """0: no disc's capacity is known."""
    blanks: int

    @property
    def discs(self) -> int:
        return sum(rule.discs for rule in self.rules if not rule.waits)

    def warnings(self) -> list[str]:
        """What a person should see before it is done."""
        told = []
        for pool in dict.fromkeys(r.place for r in self.rules if r.kind == "migrate" and r.files):
            if not self.blanks:
                told.append(f"pool {pool!r}: files are to be migrated, but there is no blank disc")
        if self.blanks and self.discs > self.blanks:
            told.append(
                f"{self.discs} discs would be burned, but only {self.blanks} are blank: bring "
                "more, or migrate less"
            )
        return told


def minute_of_day(now_ns: int) -> int:
    """Of the local clock."""
    local = time.localtime(now_ns / 1e9)
    return local.tm_hour * 60 + local.tm_min


class Proofs:
    """Which volumes have how many proved discs, as of when it was made: made on the thread that
    owns the catalog, asked from any."""

    def __init__(self, policy: Policy, catalog: Catalog) -> None:
        self._catalog = catalog
        self._policy = policy
        verified = Counter(
            disc.volume for disc in catalog.discs.values() if disc.state in COUNTED and disc.volume
        )
        self._volumes = {
            label: (record.pool, record.copies, verified[label])
            for label, record in catalog.volumes.items()
        }

    def of(self, file: FileVersion) -> tuple[str, int, int]:
        """Pool, verified copies and copies that the pool wants."""
        wanted, pool, places = 1, "", []
        for label, extent in self._catalog.extents(file):
            pool, copies, verified = self._volumes.get(label, ("", 1, 0))
            places.append((extent, verified))
            known = self._policy.pools.get(pool)
            wanted = known.copies if known else copies
        return pool, copies_of(places), wanted


def head_bytes_of(policy: Policy, pool: str) -> int:
    """What stays of a file at release."""
    known = policy.pools.get(pool)
    return known.head_bytes if known else DEFAULT_HEAD_BYTES


def disc_bytes_of(catalog: Catalog) -> int:
    """Of the blank discs whose capacity is known, else of any; 0: of none."""
    known = [disc for disc in catalog.discs.values() if disc.capacity_sectors]
    blank = [disc.capacity_sectors for disc in known if disc.state == DiscState.BLANK]
    sectors = min(blank, default=0) or max((disc.capacity_sectors for disc in known), default=0)
    return sectors * SECTOR_BYTES


def why_waits(pace: Pace, now_ns: int) -> str:
    """Empty where the rule works in this minute."""
    minute = minute_of_day(now_ns)
    if pace.is_open(minute) or pace.window is None:
        return ""
    start = pace.window.start
    return f"works from {start // 60:02d}:{start % 60:02d}"


class Planner:
    """Makes plans of one policy; to be made anew for each, on the thread of the catalog."""

    def __init__(self, policy: Policy, catalog: Catalog) -> None:
        self.policy = policy
        self._proofs = Proofs(policy, catalog)
        self._disc_bytes = disc_bytes_of(catalog)
        self._blanks = sum(disc.state == DiscState.BLANK for disc in catalog.discs.values())

    def plan(self, view: NamespaceView, now_ns: int, fills: dict[str, Fill]) -> Plan:
        """What a run would do at this moment; blocks, use a worker thread."""
        candidates = Candidates(view, Residency.RESIDENT).all()
        chosen = migrate_files(self.policy.migrate, candidates, now_ns)
        rules = [
            self._migrate(rule, one.files, now_ns)
            for rule, one in zip(self.policy.migrate, chosen, strict=True)
        ]
        for rule in self.policy.release:
            rules.append(self.release(view, rule, now_ns, fills.get(rule.tier, Fill(0, 0))))
        rules.sort(key=lambda rule: rule.line)
        return Plan(now_ns, rules, self._disc_bytes, self._blanks)

    def _migrate(self, rule: MigrateRule, files: list[Found], now_ns: int) -> RulePlan:
        size = sum(file.size for file in files)
        discs = -(-size // self._disc_bytes) if self._disc_bytes else 0
        return RulePlan(
            "migrate",
            rule.name,
            rule.line,
            rule.pool,
            files,
            size,
            discs * self.policy.pools[rule.pool].copies,
            why_waits(rule.pace, now_ns),
        )

    def release(self, view: NamespaceView, rule: ReleaseRule, now_ns: int, fill: Fill) -> RulePlan:
        """The files that bring a tier below its low watermark."""
        made = RulePlan("release", rule.name, rule.line, rule.tier)
        if not rule.should_start(fill.fraction):
            made.waits = f"the tier is filled by {fill.fraction:.1%}"
            return made
        made.waits = "" if fill.fraction >= EMERGENCY else why_waits(rule.pace, now_ns)
        return self.make_room(view, rule, now_ns, fill, made)

    def make_room(
        self, view: NamespaceView, rule: ReleaseRule, now_ns: int, fill: Fill, made: RulePlan
    ) -> RulePlan:
        """What is to go until the tier is below the low watermark, whether or not it is above
        the high one."""
        wanted = fill.used_bytes - int(rule.stop_fraction * fill.capacity_bytes) + 1
        ask, whole = wanted, False
        while not whole and made.bytes < wanted:
            made.files, made.bytes, made.refused = [], 0, 0
            items, whole = release_order(view, rule, self.policy.pin, now_ns, ask)
            self._take(made, items, wanted)
            ask *= ASK_MORE
        return made

    def _take(self, made: RulePlan, items: list[Found], wanted: int) -> None:
        """The first of these that may go, until there are enough."""
        for item in items:
            if made.bytes >= wanted:
                return
            pool, copies, needed = self._proofs.of(item.file)
            if copies < needed:
                made.refused += 1
                continue
            made.files.append(item)
            made.bytes += max(0, item.size - head_bytes_of(self.policy, pool))
