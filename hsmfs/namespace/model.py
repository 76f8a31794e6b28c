"""Plain values that cross the engine's border."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

NAME_BYTES_MAX: Final = 255
SYMLINK_BYTES_MAX: Final = 4095
LINKS_MAX: Final = 65_000
XATTR_BYTES_MAX: Final = 65_536
SIZE_MAX: Final = (1 << 63) - 1
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2


class Caller(NamedTuple):
    """Who asks, from the request."""

    uid: int
    gid: int
    pid: int = 0
    umask: int = 0
    fsetid: bool = False
    """CAP_FSETID: set-id bits survive its writes and truncates."""


class Attr(NamedTuple):
    """What stat(2) tells."""

    ino: int
    generation: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int


@dataclass(frozen=True, slots=True)
class SetAttr:
    """What to change; None stays as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


class Io(Enum):
    """How the kernel does the reads and writes of a handle."""

    CACHED = "cached"
    """Requests, with the page cache."""
    DIRECT = "direct"
    """Requests, without it: nothing is read that no program asked for."""
    PASSES = "passes"
    """On the cache file itself."""
    BESIDE = "beside"
    """Requests, without page cache, while others of the inode pass."""


class Opened(NamedTuple):
    """A handle; ``keep_cache``: pages that the kernel has are still right."""

    fh: int
    keep_cache: bool
    io: Io = Io.CACHED
    backing: int = 0


@dataclass(frozen=True, slots=True)
class StatFs:
    """What statvfs(3) tells."""

    f_bsize: int
    f_frsize: int
    f_blocks: int
    f_bfree: int
    f_bavail: int
    f_files: int
    f_ffree: int
    f_favail: int
    f_namemax: int


@dataclass(frozen=True, slots=True)
class Limit:
    """What a tree may hold; 0: without bound."""

    path: str
    bytes_max: int = 0
    files_max: int = 0


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Choices of the administrator."""

    head_bytes: int = 65_536
    recall_timeout_s: float = 600.0
    journal_records_max: int = 1_000_000
    quotas: tuple[Limit, ...] = ()
    noatime: bool = False
    """Reads leave the access time, as with the option of mount(8)."""
