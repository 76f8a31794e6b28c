"""Group commit: changes are seen at once, and committed together, in order.

The engine changes the *active* batch. ``flush`` freezes it; a worker commits
the frozen batch in one transaction, so batches reach the disk in order and
each as a whole: after a crash the store holds a prefix of what was done. All
that wait when a commit starts share it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import structlog
from sortedcontainers import SortedList

from hsmfs.clock import Clock
from hsmfs.errors import HsmError
from hsmfs.store.interface import Batch, Item, KVStore

log = structlog.get_logger(__name__)
RETRY_S: Final = 1.0
BATCH_CHANGES_MAX: Final = 50_000
"""An active batch this large is flushed without waiting for the interval."""

Done = Callable[[HsmError | None], None]
_MISSING: Final = b"\0missing"


class Timers(Protocol):
    """What the overlay needs of the engine's executor."""

    def submit(
        self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Run in a worker, then ``done`` on the engine thread."""

    def call_later(self, delay_s: float, fn: Callable[[], None]) -> Any:
        """Run on the engine thread after a while."""


class GroupCommit:
    """A writer whose changes are durable only after ``flush``."""

    def __init__(
        self,
        store: KVStore,
        executor: Timers,
        interval_s: float,
        clock: Clock | None = None,
        scanned: bytes = bytes(range(256)),
    ) -> None:
        """``scanned``: first bytes of keys that ``scan`` is asked for."""
        self.store = store
        self._executor = executor
        self._interval_s = interval_s
        self._active: Batch = {}
        self._frozen: Batch = {}
        self._order: Any = SortedList()
        self._frozen_order: Any = SortedList()
        """Keys of the tables that are scanned, in order."""
        self._unordered: list[bytes] = []
        """Keys that came since the last scan: most batches are never scanned."""
        self._scanned = frozenset(scanned)
        self.before_commit: Callable[[], None] = _nothing
        """Called before a batch is frozen: what is kept back is put now."""
        self._busy = False
        self.failing: HsmError | None = None
        """Why the last commit failed; new changes had better be refused."""
        self._closed = False
        self._timer = False
        self._touched = False
        self._retrying = False
        self._waiters: list[Done] = []
        self._sharing: list[Done] = []
        self._view: Any = None
        self._context: Any = None
        self._renew()

    # -- reading ----------------------------------------------------------------

    def _renew(self) -> None:
        """Look at what is committed now."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
        self._context = self.store.snapshot()
        self._view = self._context.__enter__()
        self._read: Callable[[bytes], bytes | None] = self._view.get

    def get(self, key: bytes) -> bytes | None:
        """The value as of now, pending changes included."""
        value = self._active.get(key, _MISSING)
        if value is _MISSING:
            value = self._frozen.get(key, _MISSING)
            if value is _MISSING:
                return self._read(key)
        return value

    def is_pending(self, key: bytes) -> bool:
        """Whether a change of it is not durable yet."""
        return key in self._active or key in self._frozen

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys."""
        return [self.get(key) for key in keys]

    def scan(
        self, start: bytes, stop: bytes, reverse: bool = False, limit: int | None = None
    ) -> Iterator[Item]:
        """Items as of now; changes made while it runs may or may not be seen.

        To be finished in the same turn of the engine: a commit ends its view.
        """
        stored = self._view.scan(start, stop, reverse)
        if self._unordered:
            self._order.update(self._unordered)
            self._unordered.clear()
        if start < stop and (self._order or self._frozen_order):
            merged = _merge(stored, self._pending(start, stop, reverse), reverse)
        else:
            merged = stored
        for count, item in enumerate(merged):
            if limit is not None and count >= limit:
                return
            yield item

    def keys(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """Keys as of now; see ``scan``."""
        return [key for key, _ in self.scan(start, stop, limit=limit)]

    def values(self, start: bytes, stop: bytes, limit: int) -> list[bytes]:
        """Values as of now; see ``scan``."""
        return [value for _, value in self.scan(start, stop, limit=limit)]

    def first_keys(self, starts: Sequence[bytes]) -> list[bytes]:
        """The first key of the same table from each on."""
        stops = [bytes([start[0] + 1]) for start in starts]
        found = [self.keys(*pair, 1) for pair in zip(starts, stops, strict=True)]
        return [keys[0] if keys else b"" for keys in found]

    def _pending(
        self, start: bytes, stop: bytes, reverse: bool
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """Changes that are not committed, in order, one by one."""
        assert start[0] in self._scanned, f"{start[:1]!r} is not a scanned table"
        ordered = [
            order.irange(start, stop, inclusive=(True, False), reverse=reverse)
            for order in (self._frozen_order, self._order)
            if order
        ]
        last = None
        for key in heapq.merge(*ordered, reverse=reverse):
            if key != last:
                last = key
                yield key, self._active[key] if key in self._active else self._frozen[key]

    # -- writing ---------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        """Store or replace; seen at once."""
        active = self._active
        if key[0] in self._scanned and key not in active:
            self._unordered.append(key)
        active[key] = value
        if not self._timer:
            self._start_timer()

    def drop(self, key: bytes) -> None:
        """Remove, whether it is there or not."""
        active = self._active
        if key[0] in self._scanned and key not in active:
            self._unordered.append(key)
        active[key] = None
        if not self._timer:
            self._start_timer()

    def delete(self, key: bytes) -> bool:
        """Remove; False if there was nothing."""
        existed = self.get(key) is not None
        if existed:
            self.drop(key)
        return existed

    def touch(self) -> None:
        """Something is kept back for ``before_commit``: plan a commit."""
        self._touched = True
        if not self._timer:
            self._start_timer()

    @property
    def has_active(self) -> bool:
        """Whether anything was put or dropped since the last freeze."""
        return bool(self._active)

    def _start_timer(self) -> None:
        self._timer = True
        self._executor.call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        self._timer = False
        if not self._closed and (self._active or self._touched):
            self.flush(_ignore)

    @property
    def pending_changes(self) -> int:
        """Changes that are not durable yet."""
        return len(self._active) + len(self._frozen)

    # -- committing --------------------------------------------------------------------

    def flush(self, done: Done) -> None:
        """Call ``done`` on the engine thread when all changes so far are durable."""
        if not (self._active or self._touched or self._frozen or self._busy):
            done(None)
            return
        self._waiters.append(done)
        if not self._busy:
            self._commit()

    def _commit(self) -> None:
        if not self._frozen:
            self._freeze()
            self._sharing, self._waiters = self._waiters, []
        # Else a failed batch is tried again: who waits now waits for what came after it.
        self._busy = True
        frozen = self._frozen

        def commit() -> None:
            # After a close, which commits the rest itself, this would bring old values back.
            if not self._closed:
                self.store.apply(frozen)

        self._executor.submit(commit, self._committed)

    def _freeze(self) -> None:
        self.before_commit()
        self._touched = False
        self._frozen, self._active = self._active, {}
        self._order.update(self._unordered)
        self._unordered.clear()
        self._frozen_order, self._order = self._order, SortedList()

    def _committed(self, _result: object, error: BaseException | None) -> None:
        self._busy = False
        sharing, self._sharing = self._sharing, []
        if self._closed:
            return
        if error is not None:
            self._failed(error, sharing)
            return
        self.failing = None
        self._renew()
        self._frozen, self._frozen_order = {}, SortedList()
        if self._waiters:
            self._commit_or_answer()
        for done in sharing:
            done(None)

    def _commit_or_answer(self) -> None:
        if self._active or self._touched:
            self._commit()
            return
        waiters, self._waiters = self._waiters, []
        for done in waiters:
            done(None)

    def _failed(self, error: BaseException, sharing: list[Done]) -> None:
        """Nothing is lost: the batch stays and is tried again; all that wait are told,
        also for what came after it, as nothing overtakes it."""
        known = error if isinstance(error, HsmError) else HsmError(str(error))
        self.failing = known
        log.error("commit failed, it is tried again", error=str(error))
        if not self._retrying:
            self._retrying = True
            self._executor.call_later(RETRY_S, self._retry)
        waiters, self._waiters = [*sharing, *self._waiters], []
        for done in waiters:
            done(known)

    def _retry(self) -> None:
        self._retrying = False
        if self._frozen and not self._busy and not self._closed:
            self._commit()

    def close(self) -> None:
        """Commit what is left, in this thread, in order."""
        self._closed = True
        self.before_commit()
        for batch in (self._frozen, self._active):
            if batch:
                self.store.apply(batch)
        self._frozen, self._active = {}, {}
        self._context.__exit__(None, None, None)
        for done in [*self._sharing, *self._waiters]:
            done(None)


def _nothing() -> None:
    """Nothing is kept back."""


def _ignore(_error: HsmError | None) -> None:
    """Nobody waits for a commit by interval; failures are logged."""


def _merge(
    stored: Iterator[Item], pending: Iterator[tuple[bytes, bytes | None]], reverse: bool
) -> Iterator[Item]:
    """Two ordered streams as one; what is pending wins."""
    key, value = next(pending, (None, None))
    for item in stored:
        while key is not None and ((key > item[0]) if reverse else (key < item[0])):
            if value is not None:
                yield key, value
            key, value = next(pending, (None, None))
        if key != item[0]:
            yield item
    while key is not None:
        if value is not None:
            yield key, value
        key, value = next(pending, (None, None))
