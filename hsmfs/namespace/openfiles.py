"""Open files: one descriptor per open inode, shared by its handles."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hsmfs.cache.tier import CacheTier
from hsmfs.errors import FsError
from hsmfs.records import InodeRecord
from hsmfs.residency import STUB_STATES

WRITE_MODES: Final = (os.O_WRONLY, os.O_RDWR)


@dataclass(slots=True, eq=False)
class OpenFile:
    """An inode that somebody has open."""

    record: InodeRecord
    handles: int = 0
    writers: int = 0
    fd: int = -1
    dirty: bool = False
    """Marked as written since the first write of this open."""
    passes: bool = False
    """Decided at the first open: programs have the cache file itself."""
    backing: int = 0
    """The kernel's number of the cache file."""
    watched: bool = False
    """A program may write to the cache file: what follows is how it was."""
    base_mtime_ns: int = 0
    opened_ns: int = 0
    awaits_read: bool = False
    """The cache file's access time is zero until the first read."""


@dataclass(slots=True, eq=False)
class Handle:
    """One open(2)."""

    file: OpenFile
    flags: int
    pid: int

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE in WRITE_MODES

    @property
    def reads(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY


class OpenFiles:
    """All open files and handles; ``closed`` is told of each last release."""

    def __init__(self, tier: CacheTier, closed: Callable[[OpenFile], None]) -> None:
        self.tier = tier
        self._closed = closed
        self._files: dict[int, OpenFile] = {}
        self._handles: dict[int, Handle] = {}
        self._next = 1
        self.writer_gone: Callable[[OpenFile], None] = lambda file: None
        """Told when the last writer of a file closed that others have open."""

    def __len__(self) -> int:
        return len(self._handles)

    def get(self, ino: int) -> OpenFile | None:
        return self._files.get(ino)

    def open(self, record: InodeRecord, flags: int, pid: int) -> int:
        """A new handle on a regular file."""
        file = self._files.get(record.ino)
        if file is None:
            file = self._files[record.ino] = OpenFile(record)
        handle = Handle(file, flags, pid)
        file.handles += 1
        file.writers += handle.writes
        number, self._next = self._next, self._next + 1
        self._handles[number] = handle
        return number

    def handle(self, fh: int) -> Handle:
        """EBADF for an unknown number."""
        try:
            return self._handles[fh]
        except KeyError:
            raise FsError(errno.EBADF) from None

    def fd(self, file: OpenFile) -> int:
        """The cache file's descriptor, opened when first needed."""
        if file.fd < 0:
            record = file.record
            is_bare = record.state in STUB_STATES and not record.head_bytes
            file.fd = self.tier.open_for(record.ino, 0 if is_bare else record.size)
        return file.fd

    def reopen(self, ino: int) -> None:
        """The cache file was replaced: the next use opens the new one."""
        file = self._files.get(ino)
        if file is not None and file.fd >= 0:
            os.close(file.fd)
            file.fd = -1

    def release(self, fh: int) -> None:
        """The kernel closed a handle."""
        handle = self._handles.pop(fh, None)
        if handle is None:
            return
        file = handle.file
        file.handles -= 1
        file.writers -= handle.writes
        if file.handles == 0:
            del self._files[file.record.ino]
            if file.fd >= 0:
                os.close(file.fd)
                file.fd = -1
            self._closed(file)
        elif handle.writes and file.writers == 0:
            self.writer_gone(file)

    def written_by_programs(self) -> list[int]:
        """Inodes whose cache file a program has open for writing."""
        return [ino for ino, file in self._files.items() if file.watched and file.writers]

    def close_all(self) -> None:
        """At the end of the process."""
        for fh in list(self._handles):
            self.release(fh)
