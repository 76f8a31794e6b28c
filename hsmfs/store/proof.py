"""A store proved by a process of its own, before anybody else reads it.

A cut LMDB file ends the process that reads beyond its end (SIGBUS), so the one that
dies there must be another one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hsmfs.errors import CallerError, HsmError
from hsmfs.store.lmdbstore import LmdbStore, damaged

FATAL: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)


def prove_apart(path: Path, map_bytes: int, tables: Sequence[bytes]) -> None:
    """StoreDamagedError or CallerError where the pages of these tables (and of all, where the
    file seems cut) cannot be read. Blocks; nobody else may have the store open."""
    words = [str(path), str(map_bytes), ",".join(table.decode() for table in tables)]
    done = subprocess.run(
        [sys.executable, "-m", "hsmfs.store.proof", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if -done.returncode in FATAL:
        name = signal.Signals(-done.returncode).name
        raise damaged(path, f"{name} when its pages were read")
    if done.returncode:
        raise CallerError(done.stdout.strip() or f"{path}: exit status {done.returncode}")


def main() -> int:
    """``proof DIRECTORY MAP_BYTES TABLE,TABLE…``; what is wrong goes to standard output."""
    path, map_bytes, tables = sys.argv[1:]
    try:
        store = LmdbStore(Path(path), int(map_bytes))
        store.prove([table.encode() for table in tables.split(",")])
    except (HsmError, OSError) as error:
        print(error)
        return 1
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
