"""The namespace as it is after the repairs so far.

A check sees what the checks before it would change, whether that is written
or not, so that one fault is found once. With ``repairing`` the changes are
committed as they gather, else they are forgotten at the end.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

from sortedcontainers import SortedDict

from hsmfs.errors import CallerError
from hsmfs.store.interface import Item, KVStore, Reader, Writer

CHUNK_ITEMS: Final = 4096
"""Items read in one go; between two chunks changes may be committed."""
COMMIT_CHANGES: Final = 50_000
UNWRITTEN_CHANGES_MAX: Final = 2_000_000
"""Changes that a check without repair keeps in memory."""


class Workspace:
    """Reads and writes of one store. Single thread."""

    def __init__(
        self,
        store: KVStore,
        repairing: bool,
        before_first: Callable[[], object] | None = None,
        sync_files: Callable[[], object] | None = None,
    ) -> None:
        """``before_first`` is called before the first change reaches the disk,
        ``sync_files`` after changes of files, before the commit that needs them."""
        self.store = store
        self.repairing = repairing
        self.changed = False
        self._before_first = before_first or _nothing
        self._sync_files = sync_files or _nothing
        self._are_files_changed = False
        self._pending: SortedDict[bytes, bytes | None] = SortedDict()
        self._then: list[Callable[[], None]] = []
        self._stack = ExitStack()
        self._view: Reader = self._stack.enter_context(store.snapshot())

    def close(self) -> None:
        """Let go of the snapshot; what is not committed is forgotten."""
        self._stack.close()
        self._pending.clear()
        self._then.clear()

    # -- reading ---------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        """The value, changes included."""
        if self._pending and key in self._pending:
            value: bytes | None = self._pending[key]
            return value
        return self._view.get(key)

    def scan(self, start: bytes, stop: bytes, chunk: int = CHUNK_ITEMS) -> Iterator[Item]:
        """Items in order; changes made meanwhile are seen from the next chunk on."""
        for items in self.chunks(start, stop, chunk):
            yield from items

    def chunks(self, start: bytes, stop: bytes, chunk: int = CHUNK_ITEMS) -> Iterator[list[Item]]:
        """The same in lists."""
        while True:
            items = self._chunk(start, stop, chunk)
            if items:
                yield items
            if len(items) < chunk:
                return
            start = items[-1][0] + b"\0"
            self._commit_if_many()

    def _chunk(self, start: bytes, stop: bytes, limit: int) -> list[Item]:
        if not self._pending:
            return list(self._view.scan(start, stop, limit=limit))
        keys = self._pending.irange(start, stop, inclusive=(True, False))
        pending = ((key, 0, self._pending[key]) for key in keys)
        stored = ((key, 1, value) for key, value in self._view.scan(start, stop))
        found: list[Item] = []
        last = b""
        # Keys are never empty, and a pending one comes before the stored one.
        for key, _, value in heapq.merge(pending, stored, key=_place):
            if key != last and value is not None:
                found.append((key, value))
                if len(found) == limit:
                    break
            last = key
        return found

    def has(self, start: bytes, stop: bytes) -> bool:
        """Whether there is any key in a range."""
        return bool(self._chunk(start, stop, 1))

    # -- writing ---------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        """Store or replace."""
        self._pending[key] = value

    def delete(self, key: bytes) -> None:
        """Remove, whether it is there or not."""
        self._pending[key] = None

    def now(self, work: Callable[[], Any]) -> None:
        """Work on files that must come before the commit."""
        if self.repairing:
            self._first()
            work()
            self._are_files_changed = True

    def then(self, work: Callable[[], Any]) -> None:
        """Work on files that may only come after the commit."""
        if self.repairing:
            self._then.append(work)

    def _commit_if_many(self) -> None:
        if self.repairing and len(self._pending) >= COMMIT_CHANGES:
            self.commit()
        elif len(self._pending) >= UNWRITTEN_CHANGES_MAX:
            raise CallerError(
                f"fsck: more than {UNWRITTEN_CHANGES_MAX} changes are needed, too many to go on "
                "without writing; run hsm fsck --repair, it makes a backup first"
            )

    def commit(self) -> None:
        """Make all changes durable; without ``repairing`` they stay as they are."""
        if not self.repairing or not (self._pending or self._then):
            return
        self._first()
        if self._are_files_changed:
            self._sync_files()
            self._are_files_changed = False
        pending = dict(self._pending)
        self._stack.close()

        def apply(writer: Writer) -> None:
            for key, value in pending.items():
                if value is None:
                    writer.delete(key)
                else:
                    writer.put(key, value)

        if pending:
            self.store.transact(apply)
        self._pending.clear()
        self._view = self._stack.enter_context(self.store.snapshot())
        works, self._then = self._then, []
        for work in works:
            work()

    def _first(self) -> None:
        if not self.changed:
            self._before_first()
            self.changed = True


def _place(item: tuple[bytes, int, bytes | None]) -> tuple[bytes, int]:
    return item[0], item[1]


def _nothing() -> None:
    return
