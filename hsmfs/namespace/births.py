"""Cache files that are there before their inode: making one costs the disk's
file system more than all that the namespace does for a new file.

Numbers of regular files come in blocks (``Tables.file_number``), one block a
directory of the tier; of the block in use some files are made ahead, the more
the faster they are used. A start after a crash removes what was not used.
"""

from __future__ import annotations

import time
from typing import Final

from hsmfs.cache.hands import CacheHands
from hsmfs.cache.tier import CacheTier
from hsmfs.deferred import Executor
from hsmfs.namespace.tables import Tables

AHEAD_MIN: Final = 16
AHEAD_MAX: Final = 512
BUSY_S: Final = 1.0
"""Files made ahead that are used up within this time were too few."""


class Births:
    """Gives the cache file of a new inode."""

    def __init__(
        self, tables: Tables, tier: CacheTier, executor: Executor, hands: CacheHands
    ) -> None:
        self.tables = tables
        self.tier = tier
        self.executor = executor
        self.hands = hands
        self._ahead = 0
        self._asked_s = 0.0
        self._made = range(0)
        """Numbers whose files are there."""
        self._making = range(0)

    def open(self, ino: int) -> int:
        """A descriptor on the new file's data, empty."""
        fd = self.tier.open(ino) if ino in self._made else self.tier.create(ino)
        if not self._making and self._made.stop - ino <= self._ahead // 2:
            self._make_more(ino + 1)
        return fd

    def _make_more(self, first: int) -> None:
        now_s = time.monotonic()
        busy = now_s - self._asked_s < BUSY_S
        self._asked_s = now_s
        self._ahead = min(AHEAD_MAX, self._ahead * 2) if busy else AHEAD_MIN
        start = max(first, self._made.stop if first in self._made else first)
        self._making = range(start, min(start + self._ahead, self.tables.file_stop))
        wanted = self._making
        if wanted:
            self.executor.submit(lambda: self.hands.make(wanted), self._are_made)

    def _are_made(self, _value: None, error: BaseException | None) -> None:
        made, self._making = self._making, range(0)
        if error is not None:
            return  # the disk is full, perhaps: files are made one by one
        joined = self._made.stop == made.start
        self._made = range(self._made.start if joined else made.start, made.stop)

    def close(self) -> None:
        """Remove what was made and not used."""
        unused = range(self.tables.file_next, max(self._made.stop, self._making.stop))
        if unused:
            self.hands.remove(unused)
        self._made = range(0)
        self.hands.close()
