"""Messages of ``hsm retention`` and ``hsm hold``, which speak to hsmfs themselves.

``by`` is who asks, as the command knows it; it is kept in the audit log.
"""

from __future__ import annotations

from typing import Final

import msgspec

WORM_FILES_MAX: Final = 500
"""Files of one call: bounds what a call costs."""


class RetentionSet(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Files below a directory settle from now on; answered by ``WormTaken``."""

    path: bytes
    """From the root of the mount."""
    settle: str
    keep: str
    by: str


class RetentionClear(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """No further file settles below a directory."""

    path: bytes
    by: str


class RetentionExtend(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Later dates; answered by ``WormResults``."""

    inodes: list[int]
    keep: str
    by: str


class RetentionConfirm(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Remove files whose date has passed: inode and date; answered by ``WormResults``."""

    files: list[tuple[int, int]]
    by: str


class HoldSet(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Hold files; answered by ``WormResults``."""

    inodes: list[int]
    reason: str
    by: str


class HoldClear(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """End a hold, or all (no reason); answered by ``WormResults``."""

    inodes: list[int]
    reason: str
    by: str


class TimeAccept(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Trusted time goes forward to the clock; answered by ``WormTime``."""

    by: str


class WormTaken(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """So many files were there before."""

    files: int


class WormResults(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """For each file nothing, or why it was refused."""

    refused: list[str]


class WormTime(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """By how much it went forward."""

    by_ns: int


WormCall = (
    RetentionSet
    | RetentionClear
    | RetentionExtend
    | RetentionConfirm
    | HoldSet
    | HoldClear
    | TimeAccept
)
WORM_CALLS: Final = (
    RetentionSet,
    RetentionClear,
    RetentionExtend,
    RetentionConfirm,
    HoldSet,
    HoldClear,
    TimeAccept,
)
WormAnswer = WormTaken | WormResults | WormTime
