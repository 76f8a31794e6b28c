"""Names of cache files: one per inode, named by its number.

``TIER/xx/yy/<ino, 16 hex digits>`` holds the data (all, or the head). Beside
it may lie ``.claim.<data_version>`` (bytes that a burn still needs after the
file was changed), ``.recall.<data_version>`` (data on its way back) and
``.copy`` (a private copy being made).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CLAIM: Final = ".claim."
RECALL: Final = ".recall."
COPY: Final = ".copy"


def cache_path(root: Path | str, ino: int) -> str:
    """Where an inode's data is."""
    name = f"{ino:016x}"
    return f"{root}/{name[-2:]}/{name[-4:-2]}/{name}"


def claim_path(root: Path | str, ino: int, data_version: int) -> str:
    """Where a claimed version is kept after the file was changed."""
    return f"{cache_path(root, ino)}{CLAIM}{data_version}"


def recall_path(root: Path | str, ino: int, data_version: int) -> str:
    """Where a version's data lands on its way back."""
    return f"{cache_path(root, ino)}{RECALL}{data_version}"


def open_claimed(root: Path | str, ino: int, data_version: int) -> int:
    """A descriptor on the bytes of a claimed version, whatever happens meanwhile.

    The plain name first, then the claim's: a change links the claim's name
    before it replaces the plain one, so if the claim's name is missing after
    the open, what was opened is the claimed file.
    """
    fd = os.open(cache_path(root, ino), os.O_RDONLY)
    try:
        kept = os.open(claim_path(root, ino, data_version), os.O_RDONLY)
    except FileNotFoundError:
        return fd
    os.close(fd)
    return kept
