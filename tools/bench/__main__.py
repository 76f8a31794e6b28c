"""``make bench``: the mount of a sandbox against the disk below it.

Each line is the median of ``ROUNDS`` runs; nothing is cached on purpose, and
nothing is dropped from the page cache either, as in daily use.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rich.console import Console

from hsmfs.tools.output import table
from hsmfs.tools.sandbox import Options, Sandbox

ROUNDS: Final = 3
SMALL_FILES: Final = 1000
SMALL_BYTES: Final = 4096
BIG_BYTES: Final = 256 * 1024 * 1024
BLOCK_BYTES: Final = 1024 * 1024
Work = Callable[[Path], float]
"""Does its work under a directory; the amount done, in its unit."""


def create_small(root: Path) -> float:
    """Files of 4 KiB made, each closed."""
    data = os.urandom(SMALL_BYTES)
    for number in range(SMALL_FILES):
        (root / f"s{number}").write_bytes(data)
    return SMALL_FILES


def stat_small(root: Path) -> float:
    """The same files listed with their attributes."""
    return len([entry.stat() for entry in os.scandir(root) if entry.name.startswith("s")])


def read_small(root: Path) -> float:
    """The same files opened and read."""
    for number in range(SMALL_FILES):
        (root / f"s{number}").read_bytes()
    return SMALL_FILES


def remove_small(root: Path) -> float:
    """The same files removed."""
    for number in range(SMALL_FILES):
        (root / f"s{number}").unlink()
    return SMALL_FILES


def write_big(root: Path) -> float:
    """One file written and fsynced, in MB."""
    block = os.urandom(BLOCK_BYTES)
    with (root / "big").open("wb", buffering=0) as file:
        for _ in range(BIG_BYTES // BLOCK_BYTES):
            file.write(block)
        os.fsync(file.fileno())
    return BIG_BYTES / 1e6


def read_big(root: Path) -> float:
    """The same file read, in MB."""
    with (root / "big").open("rb", buffering=0) as file:
        while file.read(BLOCK_BYTES):
            pass
    return BIG_BYTES / 1e6


WORKS: Final[dict[str, tuple[str, Work]]] = {
    "create 4 KiB files": ("files/s", create_small),
    "list with attributes": ("files/s", stat_small),
    "read 4 KiB files": ("files/s", read_small),
    "remove files": ("files/s", remove_small),
    "write a big file, fsync": ("MB/s", write_big),
    "read a big file": ("MB/s", read_big),
}


def rates(root: Path) -> dict[str, float]:
    """The median rate of every work in a directory."""
    found: dict[str, list[float]] = {name: [] for name in WORKS}
    for _ in range(ROUNDS):
        for name, (_, work) in WORKS.items():
            start = time.monotonic()
            amount = work(root)
            found[name].append(amount / (time.monotonic() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The mount against the disk below it.")
    parser.add_argument("--json", action="store_true", help="JSON instead of a table")
    as_json = parser.parse_args().json
    work = Path(tempfile.mkdtemp(prefix="hsmfs-bench-"))
    sandbox = Sandbox(work / "sandbox")
    try:
        sandbox.start(Options())
        bare = work / "bare"
        bare.mkdir()
        disk, mount = rates(bare), rates(sandbox.mount)
    finally:
        if sandbox.config_path.exists():
            sandbox.stop()
        if not os.path.ismount(sandbox.mount):
            shutil.rmtree(work, ignore_errors=True)
    rows = [
        {"work": name, "unit": unit, "disk": round(disk[name]), "mount": round(mount[name])}
        for name, (unit, _) in WORKS.items()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    else:
        columns = ("work", "unit", "disk", "mount")
        listed = [[row[column] for column in columns] for row in rows]
        Console(highlight=False).print(table(columns, listed, right=("disk", "mount")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
