"""Two trees compared: every byte, and the metadata that a copy must keep."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

READ_BYTES: Final = 1 << 20
DIFFERENCES_MAX: Final = 20


@dataclass(slots=True)
class Comparison:
    """What was compared, and where the trees differ."""

    files: int = 0
    bytes: int = 0
    differences: list[str] = field(default_factory=list)

    def differ(self, text: str) -> None:
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(text)


def compare_trees(original: Path, copy: Path, metadata: bool = True) -> Comparison:
    """Compare names, bytes, and (with ``metadata``) kind, mode, owner, mtime to the ns."""
    found = Comparison()
    wanted, there = _names(original), _names(copy)
    for name in sorted(wanted ^ there):
        found.differ(f"{name}: only in {original if name in wanted else copy}")
    for name in sorted(wanted & there):
        _compare_entry(original / name, copy / name, metadata, found)
    return found


def _names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def _compare_entry(one: Path, two: Path, metadata: bool, found: Comparison) -> None:
    first, second = one.lstat(), two.lstat()
    if metadata:
        for key in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
            if getattr(first, key) != getattr(second, key):
                found.differ(f"{two}: {key} {getattr(second, key)}, not {getattr(first, key)}")
    if stat.S_ISLNK(first.st_mode):
        if not two.is_symlink() or os.readlink(one) != os.readlink(two):
            found.differ(f"{two}: another symbolic link")
    elif stat.S_ISREG(first.st_mode):
        _compare_bytes(one, two, found)


def _compare_bytes(one: Path, two: Path, found: Comparison) -> None:
    offset = 0
    with one.open("rb") as first, two.open("rb") as second:
        while True:
            wanted, there = first.read(READ_BYTES), second.read(READ_BYTES)
            if wanted != there:
                found.differ(f"{two}: differs within the 1 MiB at offset {offset}")
                return
            offset += len(wanted)
            if not wanted:
                break
    found.files += 1
    found.bytes += offset
