"""``python -m hsmfs.tools.bench.generate CONFIG --files N``: a namespace of many files.

The system must be stopped and its namespace empty. Files are of size 0 (or as
asked) and have no cache files: names and attributes work and they can be
renamed and removed, but there is no data to read; ``--state migrated`` makes
stubs whose discs no catalog knows. For measurements only.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from hsmfs.configload import load
from hsmfs.errors import CallerError, HsmError
from hsmfs.namespace.tables import COUNTERS_KEY, Counters
from hsmfs.store.interface import Item
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.bench.namespacedata import Shape, items
from hsmfs.types import Residency

BATCH_ITEMS: Final = 1_000_000
"""Items of one transaction; with sync off, its only cost is memory."""
STORE_FILES: Final = ("data.mdb", "lock.mdb")
EXIT_FAILED: Final = 1
STATES: Final = {state.word: state for state in (Residency.RESIDENT, Residency.MIGRATED)}
Progress = Callable[[int], None]


def generate(path: Path, map_bytes: int, shape: Shape, progress: Progress | None = None) -> int:
    """Make the namespace at ``path``; how many items its store has.

    It is made beside, and takes the place of the empty one when it is whole.
    """
    if not 0 <= shape.large <= shape.files or shape.per_directory < 1:
        raise CallerError(
            f"found {shape.files} files, {shape.large} of them in one directory, "
            f"{shape.per_directory} per directory; expected large <= files, per directory >= 1"
        )
    check_empty(path, map_bytes)
    beside = path.with_name(path.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    count = _fill(beside, map_bytes, items(shape), progress)
    shutil.rmtree(path, ignore_errors=True)
    os.rename(beside, path)
    return count


def check_empty(path: Path, map_bytes: int) -> None:
    """Refuse a namespace that holds anything but its root."""
    if not path.exists():
        return
    others = sorted(name for name in os.listdir(path) if name not in STORE_FILES)
    if others:
        raise CallerError(f"namespace: {path}: found {others[0]!r}, which is no part of a store")
    if not (path / "data.mdb").exists():
        return
    store = LmdbStore(path, map_bytes)
    try:
        with store.snapshot() as reader:
            data = reader.get(COUNTERS_KEY)
    finally:
        store.close()
    found = msgspec.msgpack.decode(data, type=Counters).inodes if data else 0
    if found:
        raise CallerError(
            f"namespace: {path}: found {found} files and directories, expected none; "
            "generate into a new system"
        )


def _fill(path: Path, map_bytes: int, source: Iterator[Item], progress: Progress | None) -> int:
    """Append all items, which come in order; on disk when done."""
    env = lmdb.open(str(path), map_size=map_bytes, sync=False, metasync=False, readahead=False)
    total = 0
    try:
        while batch := list(islice(source, BATCH_ITEMS)):
            with env.begin(write=True) as txn, txn.cursor() as cursor:
                _, added = cursor.putmulti(batch, append=True)
            if added != len(batch):
                raise HsmError(f"bug: {path}: {added} of {len(batch)} items were in order")
            total += added
            if progress is not None:
                progress(total)
        env.sync(True)
    finally:
        env.close()
    return total


def check_stopped(run: Path) -> None:
    """The system that owns this run directory must not be running."""
    lock = run / "hsmfs.lock"
    if not lock.exists():
        return
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CallerError(f"run.path: {run}: hsmfs is running; stop it first") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Generate into the system of a configuration."""
    options = _options(argv)
    shape = Shape(
        files=options.files,
        per_directory=options.per_directory,
        large=options.large,
        size=options.size,
        state=STATES[options.state],
        uid=os.geteuid(),
        gid=os.getegid(),
        now_ns=time.time_ns(),
    )
    begun_s = time.monotonic()
    try:
        config = load(options.config)
        check_stopped(Path(config.run.path))
        path = Path(config.namespace.path)
        count = generate(path, config.namespace.map_bytes, shape, _tell)
    except (HsmError, OSError, lmdb.Error) as error:
        print(f"generate: {error}", file=sys.stderr)
        return EXIT_FAILED
    seconds = time.monotonic() - begun_s
    print(f"{shape.files} files, {count} items, {seconds:.0f} s, in {path}")
    return 0


def _tell(total: int) -> None:
    print(f"{total:,} items", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hsmfs.tools.bench.generate", description=(__doc__ or "").split("\n\n")[1]
    )
    parser.add_argument("config", type=Path, help="configuration of a stopped, empty system")
    parser.add_argument("--files", type=int, required=True)
    parser.add_argument("--per-directory", type=int, default=1000)
    parser.add_argument("--large", type=int, default=0, help="so many of them in one directory")
    parser.add_argument("--size", type=int, default=0, help="bytes of each, by its attributes")
    parser.add_argument("--state", choices=list(STATES), default=Residency.RESIDENT.word)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
