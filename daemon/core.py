"""What the parts of hsmd share: one object, made once at start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from hsmfs.clock import Clock
from hsmfs.config import Config
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.fslink import FsLink
from hsmfs.daemon.jobs import Jobs
from hsmfs.daemon.librarian import Librarian
from hsmfs.daemon.metrics import Metrics
from hsmfs.daemon.ownfiles import OwnFiles
from hsmfs.daemon.picture import Rules
from hsmfs.daemon.policy.evaluate import Policy
from hsmfs.daemon.ward import Ward
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.interface import KVStore

T = TypeVar("T")


class NamespaceReader:
    """Read-only access to the namespace store, off the trio thread."""

    def __init__(self, store: KVStore) -> None:
        self._store = store
        self._limiter = trio.CapacityLimiter(2)

    async def read(self, query: Callable[[NamespaceView], T]) -> T:
        """Run a query on a snapshot as of now."""

        def run() -> T:
            with self._store.snapshot() as reader:
                return query(NamespaceView(reader))

        return await trio.to_thread.run_sync(run, limiter=self._limiter)


@dataclass(slots=True)
class Core:
    """Everything a part of hsmd may need."""

    config: Config
    clock: Clock
    policy: Policy
    catalog: Catalog
    namespace: NamespaceReader
    link: FsLink
    librarian: Librarian
    jobs: Jobs
    alarms: Alarms
    metrics: Metrics
    own_files: OwnFiles
    ward: Ward
    wake: Callable[[], None]
    """Something changed: let the dispatcher look."""
    reserved: set[str] = field(default_factory=set)
    """Blank discs that a burn has chosen."""

    @property
    def rules(self) -> Rules:
        """The scheduler's bounds."""
        recall, burn = self.config.recall, self.config.burn
        return Rules(
            readers_wait_max_s=recall.readers_wait_max_s,
            bulk_wait_max_s=recall.bulk_wait_max_s,
            background_wait_max_s=recall.background_wait_max_s,
            hold_s=recall.hold_s,
            turn_s=recall.turn_s,
            spare_s=recall.spare_s,
            gather_s=recall.gather_s,
            equal_s=recall.equal_s,
            reserved=recall.reserved_percent / 100,
            burn_floor=burn.floor_percent / 100,
            burn_floor_wait_s=burn.floor_wait_s,
        )

    @property
    def cache_roots(self) -> list[Path]:
        return [Path(tier.path) for tier in self.config.tier]

    @property
    def mount(self) -> Path:
        return Path(self.config.fuse.mount)
