"""A volume is filled: waiting files are claimed, looked up and put into its draft, some at
a time. Whatever goes wrong, they all wait again."""

from __future__ import annotations

from array import array
from contextlib import suppress
from typing import Final

import trio

from hsmfs.daemon.core import Core
from hsmfs.daemon.draft import Draft
from hsmfs.daemon.filequeue import FileQueue
from hsmfs.daemon.packing import founds, parents_of, sources_of
from hsmfs.daemon.waiting import Waiting
from hsmfs.errors import HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import FileVersion
from hsmfs.volume.layout import FileSource

BATCH_FILES: Final = 4096
"""Objects in memory at a time."""
LEFT_SHARE: Final = 2
"""A volume is full where so large a share of a batch (1 in 2) did not fit."""


class Filling:
    """Of one draft from one pool's queue."""

    def __init__(self, core: Core, queue: FileQueue, draft: Draft, pool: str) -> None:
        self._core = core
        self._queue = queue
        self._draft = draft
        self._pool = pool
        self._since_s = core.clock.monotonic_s()
        self._urgent = False
        self._claimed = 0
        self._inodes, self._versions = array("Q"), array("Q")
        """Of the files in the draft."""
        self.taken = 0
        """Files that came out of the queue."""
        self.left: list[Waiting] = []
        """Those that did not fit: claimed, and in nobody's hands."""
        self.names: list[FileSource] = []
        """Entries of the last batch, parents first."""

    async def fill(self, room: int, files_max: int) -> None:
        """With the first files of the queue: no more bytes than the room, or a little."""
        waiting = files_max
        while waiting > 0 and room > 0:
            batch = self._queue.take(self._pool, min(BATCH_FILES, waiting), room)
            if not batch:
                return
            waiting -= len(batch)
            room -= sum(one.item.size for one in batch)
            claimed, left = await self._claim(batch), len(self.left)
            await self._add(claimed)
            if (len(self.left) - left) * LEFT_SHARE > len(claimed):
                return

    @property
    def only(self) -> Waiting | None:
        """The file that does not fit an empty disc."""
        is_alone = len(self.left) == 1 and self._claimed == 1
        return self.left[0] if is_alone else None

    async def _claim(self, batch: list[Waiting]) -> list[Waiting]:
        """Those that stand still from now on; the others are answered."""
        self.taken += len(batch)
        by_file = {waiting.item.file: waiting for waiting in batch}
        try:
            results = await self._core.link.claim(list(by_file))
        except HsmError:
            self._queue.put_back(reversed(batch), self._pool)
            raise
        claimed = [by_file[result.file] for result in results if not result.refused]
        for result in results:
            if result.refused:
                self._queue.drop(by_file[result.file])
                by_file[result.file].fail(result.refused)
        refused = [result.file.ino for result in results if result.refused]
        if refused:
            await self._core.catalog.answer("m", refused)
        return claimed

    async def _add(self, claimed: list[Waiting]) -> None:
        inodes = [waiting.item.ino for waiting in claimed]

        def query(view: NamespaceView) -> tuple[list[FileSource], list[FileSource]]:
            entries = sources_of(view, inodes)
            return entries, parents_of(view, [entry.path for entry in entries])

        self._claimed += len(claimed)
        # Until they are in the draft they are told of as left.
        before = len(self.left)
        self.left += claimed
        entries, parents = await self._core.namespace.read(query)
        left = await trio.to_thread.run_sync(self._draft.add, parents, entries)
        self.names = [*parents, *entries]
        known = {entry.ino for entry in entries}
        del self.left[before:]
        gone = []
        for waiting in claimed:
            if waiting.item.ino in left:
                self.left.append(waiting)
            elif waiting.item.ino in known:
                self._plan(waiting)
            else:
                gone.append(waiting)
        if gone:
            await self._forget(gone)

    def _plan(self, waiting: Waiting) -> None:
        self._since_s = min(self._since_s, waiting.since_s)
        self._urgent = self._urgent or waiting.urgent
        self._inodes.append(waiting.item.ino)
        self._versions.append(waiting.item.data_version)
        self._queue.plan(waiting)

    async def _forget(self, gone: list[Waiting]) -> None:
        """They were removed between claim and look."""
        for waiting in gone:
            self._queue.drop(waiting)
            waiting.fail("was removed before it was burned")
        await self._core.link.unclaim([waiting.item.file for waiting in gone])
        await self._core.catalog.answer("m", [waiting.item.ino for waiting in gone])

    # -- back ---------------------------------------------------------------------------

    async def give_back(self) -> None:
        """Files that did not fit wait for the next disc."""
        back, self.left = self.left, []
        self._queue.put_back(reversed(back), self._pool)
        if back:
            await self._core.link.unclaim([waiting.item.file for waiting in back])

    async def undo(self) -> None:
        """No volume comes of it: all of its files wait again, in their order."""
        back, self.left = self.left, []
        files = [waiting.item.file for waiting in back]
        self._queue.put_back(reversed(back), self._pool)
        drafted = list(map(FileVersion, self._inodes, self._versions))
        files += drafted
        for stop in range(len(drafted), 0, -BATCH_FILES):
            await self._put_back(drafted[max(0, stop - BATCH_FILES) : stop])
        self._draft.drop()
        with suppress(HsmError):  # without a connection hsmfs drops them itself
            await self._core.link.unclaim(files)

    async def _put_back(self, files: list[FileVersion]) -> None:
        """As the namespace has them: the draft may be what failed."""
        inodes = [file.ino for file in files]
        items = await self._core.namespace.read(lambda view: founds(view, inodes))
        known = {item.file: item for item in items}
        for file in reversed(files):
            jobs = self._queue.planned.pop(file)
            item = known.get(file)
            if item is not None:
                waiting = Waiting(item, self._since_s, self._urgent, jobs)
                self._queue.put_back([waiting], self._pool)
                continue
            for job in jobs:
                job.fail("a file was changed or removed before it was burned")
