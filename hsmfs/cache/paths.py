"""Names of cache files: one per inode, named by its number.

``TIER/<ino / 2^20>/<ino / 2^10 % 2^10>/<ino>`` (hexadecimal; 1,024 files made
one after another share a directory) holds the data: all, or the head.
Directories of their own hold what is under way, so that a start after a crash
need not walk the tier: ``claim/<ino>.<data_version>`` (bytes that a burn still
needs after the file was changed), ``recall/<ino>.<data_version>`` (data on its
way back), ``copy/<ino>`` (a private copy being made) and ``open/<ino>`` (empty:
the file may have changed, and the namespace does not know it durably yet).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CLAIM: Final = "claim"
RECALL: Final = "recall"
COPY: Final = "copy"
OPEN: Final = "open"
SIDES: Final = (CLAIM, RECALL, COPY, OPEN)
FILES_BITS: Final = 10
"""Files of a directory, and directories of a directory, as a power of two."""
_MASK: Final = (1 << FILES_BITS) - 1


def cache_path(root: Path | str, ino: int) -> str:
    """Where an inode's data is."""
    return f"{root}/{ino >> 20:x}/{ino >> 10 & _MASK:03x}/{ino:x}"


def claim_path(root: Path | str, ino: int, data_version: int) -> str:
    """Where a claimed version is kept after the file was changed."""
    return f"{root}/{CLAIM}/{ino:x}.{data_version}"


def recall_path(root: Path | str, ino: int, data_version: int) -> str:
    """Where a version's data lands on its way back."""
    return f"{root}/{RECALL}/{ino:x}.{data_version}"


def copy_path(root: Path | str, ino: int) -> str:
    """Where a private copy is made."""
    return f"{root}/{COPY}/{ino:x}"


def open_path(root: Path | str, ino: int) -> str:
    """What tells a start after a crash to look at this inode."""
    return f"{root}/{OPEN}/{ino:x}"


def open_claimed(root: Path | str, ino: int, data_version: int) -> int:
    """A descriptor on the bytes of a claimed version, whatever happens meanwhile.

    The plain name first, then the claim's: a change links the claim's name
    before it replaces the plain one, so if the claim's name is missing after
    the open, what was opened is the claimed file.
    """
    fd = os.open(cache_path(root, ino), os.O_RDONLY)
    claim = claim_path(root, ino, data_version)
    if not os.access(claim, os.F_OK):  # nearly always; an error would take twice the time
        return fd
    try:
        kept = os.open(claim, os.O_RDONLY)
    except FileNotFoundError:
        return fd
    os.close(fd)
    return kept
