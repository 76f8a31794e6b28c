"""The works: what is prepared, what is timed, how it is proved that it was done."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import ClassVar, Final

from hsmfs.tools.bench.apart import WorkFailed
from hsmfs.tools.bench.sizes import SMALL_FILE_BYTES, SYNCED_FILE_BYTES, Sizes

CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL


class Work(ABC):
    """One work in one directory. Only ``run`` is timed."""

    name: ClassVar[str]
    unit: ClassVar[str] = "files/s"
    op: ClassVar[str] = "file"
    """What one operation is, for CPU time per operation."""
    cold: ClassVar[bool] = False
    """Nothing of it is in the kernel's caches when it starts."""
    folder: ClassVar[str]

    def __init__(self, root: str, sizes: Sizes) -> None:
        self.sizes = sizes
        self.dir = os.fsencode(f"{root}/{self.folder}")

    @property
    @abstractmethod
    def ops(self) -> int:
        """Operations that ``run`` does."""

    @property
    def amount(self) -> float:
        """What ``unit`` counts."""
        return self.ops

    @abstractmethod
    def prepare(self) -> None:
        """Make what the work needs, and all that costs the client time."""

    @abstractmethod
    def run(self) -> None:
        """The work itself."""

    @abstractmethod
    def verify(self) -> None:
        """Raise WorkFailed unless the work did what it says."""


def expect(what: str, found: object, expected: object) -> None:
    """Found is as expected, or the work failed."""
    if found != expected:
        raise WorkFailed(f"{what}: found {found}, expected {expected}")


def names(count: int, letter: bytes = b"f") -> list[bytes]:
    """Names in order."""
    return [b"%b%06d" % (letter, number) for number in range(count)]


def clear(folder: bytes) -> None:
    """An empty directory there."""
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        os.unlink(folder + b"/" + name)


def has_files(folder: bytes, wanted: list[bytes], size: int) -> bool:
    """Whether the directory holds these files, each of this size, and no other."""
    try:
        found = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    except FileNotFoundError:
        return False
    return found == dict.fromkeys(wanted, size)


def ensure_files(folder: bytes, wanted: list[bytes], size: int) -> None:
    """These files and no other; what an earlier work left is used."""
    if has_files(folder, wanted, size):
        return
    clear(folder)
    make_files([folder + b"/" + name for name in wanted], os.urandom(size))


def make_files(paths: list[bytes], data: bytes) -> None:
    """New files, each written at once and closed."""
    for path in paths:
        fd = os.open(path, CREATE, 0o644)
        if data:
            os.write(fd, data)
        os.close(fd)


class Files(Work):
    """Works on a number of files of one size in one directory."""

    file_bytes: ClassVar[int] = 0

    @property
    def count(self) -> int:
        return self.sizes.empty_files

    @property
    def ops(self) -> int:
        return self.count

    def prepare(self) -> None:
        self.names = names(self.count)
        self.paths = [self.dir + b"/" + name for name in self.names]
        self.data = os.urandom(self.file_bytes)

    def ensure(self) -> None:
        ensure_files(self.dir, self.names, self.file_bytes)

    def verify(self) -> None:
        if not has_files(self.dir, self.names, self.file_bytes):
            raise WorkFailed(
                f"{os.fsdecode(self.dir)}: expected {self.count} files of "
                f"{self.file_bytes} bytes, found others"
            )


class CreateEmpty(Files):
    """open(O_CREAT|O_EXCL), close."""

    name = "create empty"
    folder = "empty"

    def prepare(self) -> None:
        super().prepare()
        clear(self.dir)

    def run(self) -> None:
        make_files(self.paths, self.data)


class CreateSmall(CreateEmpty):
    """The same with one write of 100 KB."""

    name = "create 100 KB"
    folder = "small"
    file_bytes = SMALL_FILE_BYTES

    @property
    def count(self) -> int:
        return self.sizes.small_files


class CreateSynced(CreateEmpty):
    """open, write of 4 KB, fsync, close."""

    name = "create 4 KB + fsync"
    folder = "synced"
    file_bytes = SYNCED_FILE_BYTES

    @property
    def count(self) -> int:
        return self.sizes.synced_files

    def run(self) -> None:
        for path in self.paths:
            fd = os.open(path, CREATE, 0o644)
            os.write(fd, self.data)
            os.fsync(fd)
            os.close(fd)


class StatCold(Files):
    """stat of every file, by path."""

    name = "stat cold"
    unit = "stats/s"
    op = "stat"
    folder = "empty"
    cold = True

    def prepare(self) -> None:
        super().prepare()
        self.ensure()

    def run(self) -> None:
        stat = os.stat
        for path in self.paths:
            stat(path)


class StatWarm(StatCold):
    """The same again and again, just after a first time that is not timed."""

    name = "stat warm"
    cold = False

    @property
    def ops(self) -> int:
        return self.count * self.sizes.stat_passes

    def prepare(self) -> None:
        super().prepare()
        super().run()

    def run(self) -> None:
        stat = os.stat
        for _ in range(self.sizes.stat_passes):
            for path in self.paths:
                stat(path)


class ReadCold(Files):
    """open, one read of the whole file, close."""

    name = "open+read+close cold"
    folder = "small"
    file_bytes = SMALL_FILE_BYTES
    cold = True
    passes = 1

    @property
    def count(self) -> int:
        return self.sizes.small_files

    @property
    def ops(self) -> int:
        return self.count * self.passes

    def prepare(self) -> None:
        super().prepare()
        self.ensure()
        self.buffer = [bytearray(SMALL_FILE_BYTES)]
        self.bytes_read = 0

    def run(self) -> None:
        buffer, total = self.buffer, 0
        for _ in range(self.passes):
            for path in self.paths:
                fd = os.open(path, os.O_RDONLY)
                total += os.readv(fd, buffer)
                os.close(fd)
        self.bytes_read = total

    def verify(self) -> None:
        expect("bytes read", self.bytes_read, self.ops * SMALL_FILE_BYTES)


class ReadWarm(ReadCold):
    """The same, after a first time that is not timed."""

    name = "open+read+close warm"
    cold = False

    def prepare(self) -> None:
        super().prepare()
        self.run()
        self.passes = self.sizes.read_passes


class Listing(Files):
    """scandir, and lstat of every entry."""

    name = "readdir+stat cold"
    unit = "entries/s"
    op = "entry"
    folder = "listed"
    cold = True

    @property
    def count(self) -> int:
        return self.sizes.listed_files

    def prepare(self) -> None:
        super().prepare()
        self.ensure()

    def run(self) -> None:
        count = 0
        for entry in os.scandir(self.dir):
            entry.stat(follow_symlinks=False)
            count += 1
        self.found = count

    def verify(self) -> None:
        expect("entries", self.found, self.count)


class Rename(Files):
    """rename within a directory."""

    name = "rename"
    op = "rename"
    folder = "empty"

    def prepare(self) -> None:
        super().prepare()
        self.ensure()
        renamed = [self.dir + b"/" + name for name in names(self.count, b"g")]
        self.pairs = list(zip(self.paths, renamed, strict=True))

    def run(self) -> None:
        rename = os.rename
        for old, new in self.pairs:
            rename(old, new)

    def verify(self) -> None:
        self.names = names(self.count, b"g")
        super().verify()


class Unlink(Files):
    """unlink of files with 100 KB each."""

    name = "unlink"
    folder = "small"
    file_bytes = SMALL_FILE_BYTES

    @property
    def count(self) -> int:
        return self.sizes.small_files

    def prepare(self) -> None:
        super().prepare()
        self.ensure()

    def run(self) -> None:
        unlink = os.unlink
        for path in self.paths:
            unlink(path)

    def verify(self) -> None:
        expect("files left", len(os.listdir(self.dir)), 0)
