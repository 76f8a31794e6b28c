"""Image files without the page cache, where the disk can.

Pages of a file that nobody reads soon cost the kernel 0.3 to 1.5 s of processor a GB; what a
disk fetches from memory itself costs 0.1. One thread waits for the disk meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import queue
import threading
from collections.abc import Iterable
from typing import Final

BUFFER_BYTES: Final = 1024 * 1024
BUFFERS: Final = 3
"""One is filled, one is written, one waits."""
ALIGNED_BYTES: Final = 4096
"""What offsets and lengths of direct writes are multiples of."""
CACHED_BYTES: Final = 128 * 1024
"""Of one write through the page cache. For larger ones Linux looks for large free pieces of memory,
which takes several times the processor: 2.5 s a GB for 1 MiB, 0.7 s for 128 KiB, measured."""


def write_all(fd: int, data: bytes | memoryview, at_bytes: int) -> None:
    """All of it, in steps that are cheap."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view[:CACHED_BYTES], at_bytes)
        view, at_bytes = view[done:], at_bytes + done


def write_stream(fd: int, chunks: Iterable[bytes]) -> int:
    """A stream from the file's start on; returns its bytes. OSError where the disk cannot."""
    writer = _Writer(fd)
    try:
        for chunk in chunks:
            writer.put(chunk)
        writer.flush()
    finally:
        writer.end()
    if writer.error is not None:
        raise writer.error
    return writer.position


class _Writer:
    """Buffers go round between the stream and a thread that writes them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._free: queue.Queue[mmap.mmap] = queue.Queue()
        self._full: queue.Queue[tuple[mmap.mmap, int] | None] = queue.Queue()
        for _ in range(BUFFERS):
            self._free.put(mmap.mmap(-1, BUFFER_BYTES))
        self._buffer = self._free.get()
        self._filled = 0
        self._written = 0
        self.position = 0
        self.error: BaseException | None = None
        self._direct = _switch(fd, on=True)
        self._thread = threading.Thread(target=self._run, name="image-writer", daemon=True)
        self._thread.start()

    def put(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            take = min(len(view), BUFFER_BYTES - self._filled)
            self._buffer[self._filled : self._filled + take] = view[:take]
            view, self._filled = view[take:], self._filled + take
            self.position += take
            if self._filled == BUFFER_BYTES:
                self.flush()

    def flush(self) -> None:
        """Hand over what is there."""
        if self.error is not None:
            raise self.error
        self._full.put((self._buffer, self._filled))
        self._buffer, self._filled = self._free.get(), 0

    def end(self) -> None:
        """All that was handed over is written, or it failed."""
        self._full.put(None)
        self._thread.join()
        if self._direct:
            _switch(self._fd, on=False)

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            buffer, size = item
            if self.error is None:
                try:
                    self._write(memoryview(buffer)[:size])
                except BaseException as error:  # the stream's thread raises it
                    self.error = error
            self._free.put(buffer)

    def _write(self, view: memoryview) -> None:
        if self._direct:
            whole = len(view) // ALIGNED_BYTES * ALIGNED_BYTES
            while whole and self._direct:
                try:
                    done = os.pwrite(self._fd, view[:whole], self._written)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    done = 0
                self._direct = done > 0 and done % ALIGNED_BYTES == 0
                view, whole, self._written = view[done:], whole - done, self._written + done
            if view:
                _switch(self._fd, on=False)
                self._direct = False
        write_all(self._fd, view, self._written)
        self._written += len(view)


def _switch(fd: int, *, on: bool) -> bool:
    """Direct writes on or off; whether they are on now. Not every file system has them."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return on
