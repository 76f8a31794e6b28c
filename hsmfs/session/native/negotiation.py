"""INIT: what the kernel offers, what is taken of it, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hsmfs.errors import LibraryError
from hsmfs.session.native import protocol as p
from hsmfs.session.native.protocol import Init

BACKGROUND_MAX: Final = 4096
"""Read-ahead and release requests under way; more than the kernel's 12, so
that a few waiting readers stop nobody."""
READAHEAD_BYTES: Final = 1 << 20
GRANULARITY_NS: Final = 1


@dataclass(frozen=True, slots=True)
class Agreement:
    """Both sides keep to this."""

    version: str
    """Of the protocol, as the kernel speaks it."""
    features: Init
    reply: bytes
    settled: bool = True
    """False: the kernel is asked to begin again with our major version."""

    def has(self, feature: Init) -> bool:
        """Whether it may be used."""
        return bool(self.features & feature)


def agree(body: memoryview | bytes) -> Agreement:
    """Take what both know. Every feature of ``WANTED`` may be missing.

    Raises LibraryError for a kernel that is too old.
    """
    major, minor, readahead, flags = p.INIT_IN_SHORT.unpack_from(body)
    version = f"{major}.{minor}"
    if major > p.MAJOR:
        return Agreement(version, Init(0), _reply(p.MINOR, 0, 0), settled=False)
    if major < p.MAJOR or minor < p.MINOR_MIN:
        raise LibraryError(
            f"found a kernel that speaks FUSE {version}, expected {p.MAJOR}.{p.MINOR_MIN} or "
            "later; run Linux 5.2 or later"
        )
    if flags & Init.INIT_EXT and len(body) >= p.INIT_IN.size:
        flags |= p.INIT_IN.unpack_from(body)[4] << 32
    else:
        flags &= 0xFFFFFFFF & ~Init.INIT_EXT
    features = p.WANTED & Init(flags)
    return Agreement(version, features, _reply(minor, readahead, int(features)))


def _reply(minor: int, readahead: int, features: int) -> bytes:
    """struct fuse_init_out."""
    return p.INIT_OUT.pack(
        p.MAJOR,
        min(minor, p.MINOR),
        max(readahead, READAHEAD_BYTES),
        features & 0xFFFFFFFF,
        BACKGROUND_MAX,
        BACKGROUND_MAX * 3 // 4,
        p.MAX_WRITE_BYTES,
        GRANULARITY_NS,
        p.MAX_WRITE_BYTES // 4096,
        0,
        features >> 32,
        1 if features & Init.PASSTHROUGH else 0,
        0,
    )
