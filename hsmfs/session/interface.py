"""What every session offers to the service, whatever binding it uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from hsmfs.config import Fuse
from hsmfs.deferred import Deferred
from hsmfs.mountoptions import MountOptions, resolve

T = TypeVar("T")

FS_TYPE: Final = "hsmfs"
"""The mount table's type is ``fuse.hsmfs``."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a file system is mounted."""

    mount: Path
    source: str
    """First column of the mount table: the site's name, or what ``fsname=`` says."""
    allow_other: bool
    attr_timeout_s: float
    entry_timeout_s: float
    options: MountOptions

    @classmethod
    def of(cls, fuse: Fuse, site: str) -> SessionSettings:
        """Settings from the configuration's ``[fuse]`` table."""
        options = resolve(fuse.options)
        return cls(
            mount=Path(fuse.mount),
            source=options.source or site,
            allow_other=fuse.allow_other or options.allow_other,
            attr_timeout_s=fuse.attr_timeout_s,
            entry_timeout_s=fuse.entry_timeout_s,
            options=options,
        )


class Session(Protocol):
    """One mount. All is called from trio's thread."""

    def mount(self) -> None:
        """Mount; raises ``LibraryError`` that says what is wrong."""

    async def serve(self) -> None:
        """Answer requests until the file system is unmounted or stopped."""

    async def wait_ready(self) -> None:
        """Return when the kernel has accepted the session."""

    async def call(self, fn: Callable[[], T | Deferred[T]]) -> T:
        """Run ``fn`` on the engine's thread; the value, also where it comes later.

        Raises what ``fn`` raises.
        """

    async def stop(self) -> None:
        """Unmount (lazily when busy), end all waiting requests, end ``serve``."""

    def close(self) -> None:
        """Give the device back; after ``serve`` has ended."""

    def attributes_changed(self, ino: int) -> None:
        """Forget what the kernel caches of an inode's attributes."""

    def data_changed(self, ino: int) -> None:
        """The kernel writes what it has of a file's data, and forgets it."""

    def name_changed(self, parent: int, name: bytes) -> None:
        """Forget what the kernel caches of a name, and of what is below it."""

    def names_made(self, names: Sequence[tuple[int, bytes]]) -> None:
        """Forget that the kernel knows these names (directory, name) as missing, and what
        it caches of their directories: they were made by no request of its own."""

    def count(self) -> None:
        """Bring the metrics of requests up to date; on the engine's thread."""
