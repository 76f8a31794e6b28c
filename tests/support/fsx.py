"""Random work on one file beside a model in memory, as the program fsx does."""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections.abc import Callable
from typing import Any, Final

from support import syscalls

SIZE_MAX: Final = 262_144
CHUNK_MAX: Final = 65_536
CHECK_EVERY: Final = 50
KEEP, PUNCH, ZERO = (
    syscalls.FALLOC_KEEP_SIZE,
    syscalls.FALLOC_PUNCH_HOLE,
    syscalls.FALLOC_ZERO_RANGE,
)


class Difference(AssertionError):
    """The file is not what it should be."""


class Fsx:
    """One file, its model, and a stream of operations that a seed decides."""

    def __init__(self, path: str, seed: int, allocates: bool) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.model = bytearray()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.log: list[tuple[Any, ...]] = []
        self.operations: list[Callable[[], None]] = [
            *[self.write] * 3,
            *[self.read] * 3,
            *[self.map_write] * 2,
            *[self.map_read] * 2,
            self.truncate,
            self.truncate_path,
            self.append,
            self.copy,
            self.sync,
            self.reopen,
            self.private_map,
            self.vectors,
        ]
        if allocates:
            self.operations += [self.punch, self.zero, self.allocate, self.keep]

    def close(self) -> None:
        os.close(self.fd)

    def run(self, steps: int) -> None:
        """Raises ``Difference`` with the operations before it."""
        for step in range(1, steps + 1):
            self.random.choice(self.operations)()
            self._expect(os.fstat(self.fd).st_size, len(self.model), "size")
            if step % CHECK_EVERY == 0:
                self.check()
        self.check()

    def check(self) -> None:
        """The whole file, by a descriptor of its own."""
        with open(self.path, "rb") as file:
            self._expect(file.read(), bytes(self.model), "content")

    # -- operations -----------------------------------------------------------------

    def write(self) -> None:
        start, data = self._place(SIZE_MAX), self._data()
        self._note("write", start, len(data))
        assert os.pwrite(self.fd, data, start) == len(data)
        self._put(start, data)

    def append(self) -> None:
        data = self._data()[:4_000]
        if len(self.model) + len(data) > SIZE_MAX:
            return
        self._note("append", len(data))
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            assert os.write(fd, data) == len(data)
        finally:
            os.close(fd)
        self._put(len(self.model), data)

    def vectors(self) -> None:
        start = self._place(SIZE_MAX)
        parts = [self._data()[:3_000] for _ in range(3)]
        self._note("writev", start, [len(part) for part in parts])
        assert os.pwritev(self.fd, parts, start) == sum(map(len, parts))
        self._put(start, b"".join(parts))

    def read(self) -> None:
        start, size = self._place(SIZE_MAX), self._size()
        self._note("read", start, size)
        found = os.pread(self.fd, size, start)
        self._expect(found, bytes(self.model[start : start + size]), "read")

    def map_read(self) -> None:
        start, size = self._inside()
        if size == 0:
            return
        self._note("map_read", start, size)
        with self._map(start + size) as view:
            self._expect(view[start : start + size], bytes(self.model[start : start + size]), "map")

    def map_write(self) -> None:
        start, size = self._inside()
        if size == 0:
            return
        data = self._data().ljust(size, b"m")[:size]
        sync = self.random.random() < 0.3
        self._note("map_write", start, size, sync)
        with self._map(start + size) as view:
            view[start : start + size] = data
            if sync:
                view.flush()
            self._put(start, data)
            self._expect(os.pread(self.fd, size, start), data, "read of the map")
            other = self._data()[: min(size, 100)]
            os.pwrite(self.fd, other, start)
            self._put(start, other)
            self._expect(view[start : start + len(other)], other, "map of the write")

    def private_map(self) -> None:
        start, size = self._inside()
        if size == 0:
            return
        self._note("private_map", start, size)
        with mmap.mmap(self.fd, start + size, mmap.MAP_PRIVATE) as view:
            view[start : start + size] = b"p" * size
            own = os.pread(self.fd, size, start)
            self._expect(own, bytes(self.model[start : start + size]), "file under a private map")

    def truncate(self) -> None:
        size = self._place(SIZE_MAX)
        self._note("ftruncate", size)
        os.ftruncate(self.fd, size)
        self._resize(size)

    def truncate_path(self) -> None:
        size = self._place(SIZE_MAX)
        self._note("truncate", size)
        os.truncate(self.path, size)
        self._resize(size)

    def punch(self) -> None:
        self._allocate("punch", PUNCH | KEEP)

    def zero(self) -> None:
        self._allocate("zero", ZERO | self.random.choice((0, KEEP)))

    def allocate(self) -> None:
        self._allocate("allocate", 0)

    def keep(self) -> None:
        self._allocate("keep", KEEP)

    def _allocate(self, name: str, mode: int) -> None:
        start, size = self._place(SIZE_MAX), max(1, self._size())
        self._note(name, mode, start, size)
        syscalls.fallocate(self.fd, mode, start, size)
        if not mode & KEEP and start + size > len(self.model):
            self._resize(start + size)
        if mode & (PUNCH | ZERO):
            stop = min(start + size, len(self.model))
            if stop > start:
                self.model[start:stop] = bytes(stop - start)

    def copy(self) -> None:
        """Within the file: the ranges must not overlap."""
        source, size = self._inside()
        target = self._place(SIZE_MAX)
        size = min(size, abs(target - source))
        if size == 0:
            return
        self._note("copy", source, target, size)
        data, done = bytes(self.model[source : source + size]), 0
        while done < size:
            count = os.copy_file_range(self.fd, self.fd, size - done, source + done, target + done)
            assert count > 0
            done += count
        self._put(target, data)

    def sync(self) -> None:
        self._note("sync")
        self.random.choice((os.fsync, os.fdatasync))(self.fd)

    def reopen(self) -> None:
        direct = self.random.random() < 0.2
        self._note("reopen", direct)
        os.close(self.fd)
        if direct:
            self._read_directly()
        self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)

    def _read_directly(self) -> None:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, SIZE_MAX + CHUNK_MAX) as memory:
                count = os.preadv(fd, [memory], 0)
                self._expect(memory[:count], bytes(self.model), "direct read")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(fd)

    # -- helpers ---------------------------------------------------------------------

    def _place(self, limit: int) -> int:
        place = self.random.randrange(limit - CHUNK_MAX)
        return place & ~4095 if self.random.random() < 0.3 else place

    def _size(self) -> int:
        return self.random.choice((1, 100, 4_096, self.random.randrange(CHUNK_MAX)))

    def _inside(self) -> tuple[int, int]:
        """A piece of the file as it is."""
        if not self.model:
            return 0, 0
        start = self.random.randrange(len(self.model))
        return start, min(self._size(), len(self.model) - start)

    def _data(self) -> bytes:
        return self.random.randbytes(max(1, self._size()))

    def _map(self, size: int) -> mmap.mmap:
        return mmap.mmap(self.fd, size, mmap.MAP_SHARED)

    def _put(self, start: int, data: bytes) -> None:
        if start > len(self.model):
            self._resize(start)
        self.model[start : start + len(data)] = data

    def _resize(self, size: int) -> None:
        self.model[size:] = b""
        self.model.extend(bytes(size - len(self.model)))

    def _note(self, *words: Any) -> None:
        self.log.append(words)

    def _expect(self, found: Any, wanted: Any, what: str) -> None:
        if found == wanted:
            return
        detail = f"{found!r:.80} instead of {wanted!r:.80}"
        if isinstance(found, bytes):
            pairs = zip(found, wanted, strict=False)
            first = next((i for i, (a, b) in enumerate(pairs) if a != b), "the end")
            detail = f"{len(found)} bytes instead of {len(wanted)}, first difference at {first}"
        raise Difference(f"{what}: {detail} after {len(self.log)} operations: {self.log[-20:]}")
