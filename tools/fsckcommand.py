"""``hsm fsck``: proves namespace, cache and catalog against each other."""

from __future__ import annotations

import fcntl
import json as jsonlib
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Final

import lmdb
import msgspec
import typer

from hsmfs.config import Config
from hsmfs.daemon.catalogcheck import CatalogCheck
from hsmfs.errors import CallerError, HsmError
from hsmfs.fsck.cachefiles import CacheFiles
from hsmfs.fsck.findings import Copies, Finding, NoCopies, Summary
from hsmfs.fsck.run import check
from hsmfs.fsck.subject import Subject
from hsmfs.fsck.workspace import Workspace
from hsmfs.namespace.marks import sync_file_system
from hsmfs.runlock import at_rest
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.output import complain, say
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

EXIT_FOUND: Final = 1
FATAL: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)
EXIT_IN_PART: Final = 3
DATA: Final = "data.mdb"
LOCK: Final = "lock.mdb"
FLOCK: Final = struct.Struct("hhqqi4x")
"""``struct flock`` of fcntl(2) on 64-bit Linux."""


def add(app: typer.Typer) -> None:
    """Put this module's command into the application."""
    app.command("fsck")(fsck)


def fsck(
    ctx: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put right what can be; a backup is made first.")
    ] = False,
    backup: Annotated[
        Path | None,
        typer.Option("--backup", metavar="DIR", help="Where; default: beside each store."),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Prove namespace, cache and catalog against each other, on a stopped system."""
    system = open_system(ctx, config)
    with stopped(system.config):
        raise typer.Exit(_apart(lambda: _check(system.config, repair, backup, json)))


def _check(config: Config, repair: bool, backup: Path | None, json: bool) -> int:
    """Check and tell; the exit status."""
    summary = Summary()
    report = _Report(json)
    try:
        for finding in findings(config, repair, backup, summary):
            report.show(finding)
    except (HsmError, OSError) as error:
        complain(str(error))
        return EXIT_FOUND
    finally:
        report.end(summary)
    return _status(summary)


def _apart(work: Callable[[], int]) -> int:
    """Do it in a child: pages of a cut LMDB file end the process that reads them."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = EXIT_FOUND
        try:
            status = work()
            sys.stdout.flush()
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if -status in FATAL:
        raise CallerError(
            f"found a store whose pages cannot be read ({signal.Signals(-status).name}), expected "
            "whole LMDB files of namespace and catalog; restore them from a backup"
        )
    return status if status >= 0 else EXIT_FOUND


def _status(summary: Summary) -> int:
    if summary.found == summary.repaired:
        return 0
    return EXIT_IN_PART if summary.repaired else EXIT_FOUND


# -- a stopped system ------------------------------------------------------------------


@contextmanager
def stopped(config: Config) -> Iterator[None]:
    """Nobody else has the stores, and neither program starts meanwhile; else CallerError."""
    run = Path(config.run.path)
    run.mkdir(parents=True, exist_ok=True)
    with at_rest(run, "hsmfs"), at_rest(run, "hsmd"):
        for name, path in (("namespace", config.namespace.path), ("catalog", config.catalog.path)):
            user = user_of(Path(path))
            if user:
                raise CallerError(
                    f"{name}: {path}: in use by process {user}; stop hsmd and hsmfs first, "
                    "fsck wants a system at rest"
                )
        yield


def user_of(store: Path) -> int:
    """A process that has an LMDB environment open: it holds a record lock on the
    first byte of its lock file. 0: nobody, as far as this machine tells.

    Not to be asked while this process itself has the environment open.
    """
    try:
        with open(store / LOCK, "r+b") as file:
            asked = FLOCK.pack(fcntl.F_WRLCK, 0, 0, 1, 0)
            kind, _, _, _, pid = FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return 0
    return 0 if kind == fcntl.F_UNLCK else int(pid)


# -- the check ------------------------------------------------------------------------------


def findings(
    config: Config, repair: bool, backup: Path | None, summary: Summary
) -> Iterator[Finding]:
    """All of them, as they come; ``summary`` is right at the end."""
    with ExitStack() as stack:
        namespace = _open(stack, Path(config.namespace.path), config.namespace.map_bytes, repair)
        if namespace is None:
            raise CallerError(
                f"{config.namespace.path}: found no {DATA}, expected the namespace's store; "
                "check namespace.path, or restore it from a backup"
            )
        catalog = _open(stack, Path(config.catalog.path), config.catalog.map_bytes, repair)
        copies: Copies = NoCopies()
        root = Path(config.tier[0].path)
        if not root.is_dir():
            raise CallerError(
                f"{root}: found no directory, expected the cache tier; mount its disk"
            )
        try:
            if catalog is not None:
                kept = _backup_of(catalog, Path(config.catalog.path), backup, summary)
                copies = CatalogCheck(stack.enter_context(_workspace(catalog, repair, kept)))
                yield from copies.run()
                summary.found, summary.repaired = copies.found, copies.repaired
            kept = _backup_of(namespace, Path(config.namespace.path), backup, summary)
            work = stack.enter_context(
                _workspace(namespace, repair, kept, lambda: sync_file_system(str(root)))
            )
            yield from check(Subject(work, CacheFiles(root), copies, time.time_ns(), summary))
        except lmdb.Error as error:
            raise CallerError(
                f"{config.namespace.path} or {config.catalog.path}: a damaged LMDB file ({error}), "
                "expected one whose pages can be read; restore it from a backup"
            ) from error


@contextmanager
def _workspace(
    store: LmdbStore, repair: bool, before_first: Any, sync_files: Any = None
) -> Iterator[Workspace]:
    work = Workspace(store, repair, before_first, sync_files)
    try:
        yield work
    finally:
        work.close()


def _open(stack: ExitStack, path: Path, map_bytes: int, repair: bool) -> LmdbStore | None:
    """A store; only read where nothing is repaired. None: there is none."""
    if not (path / DATA).exists():
        return None
    store = LmdbStore(path, map_bytes, read_only=not repair)
    stack.callback(store.close)
    return store


def _backup_of(store: LmdbStore, path: Path, chosen: Path | None, summary: Summary) -> Any:
    """What makes a backup of a store before the first change to it."""

    def make() -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        target = path.with_name(f"{path.name}.before-fsck-{stamp}")
        if chosen is not None:
            target = chosen / target.name
        target = next(place for place in _places(target) if not place.exists())
        try:
            store.backup(target)
        except (OSError, lmdb.Error) as error:
            raise CallerError(
                f"{target}: no backup could be made ({error}), nothing was changed; "
                "make room there or choose another directory with --backup"
            ) from error
        summary.backup = " ".join(filter(None, [summary.backup, str(target)]))

    return make


def _places(first: Path) -> Iterator[Path]:
    yield first
    yield from (first.with_name(f"{first.name}.{number}") for number in count(1))


# -- the report -----------------------------------------------------------------------------


class _Report:
    """Findings on the screen as they come, or one JSON value that grows."""

    def __init__(self, json: bool) -> None:
        self.json = json
        self._count = 0
        if json:
            sys.stdout.write('{"findings": [')

    def show(self, finding: Finding) -> None:
        """One more."""
        self._count += 1
        if self.json:
            comma = "," if self._count > 1 else ""
            sys.stdout.write(f"{comma}\n  {jsonlib.dumps(_plain(finding))}")
            return
        todo = finding.repair or "nothing can be done here"
        say(f"{finding.kind}: {finding.where}: {finding.found}")
        say(f"    expected {finding.expected}; repair: {todo}")

    def end(self, summary: Summary) -> None:
        """The totals."""
        if self.json:
            sys.stdout.write(f'\n], "summary": {jsonlib.dumps(msgspec.to_builtins(summary))}}}\n')
            return
        say(
            f"{summary.inodes} inodes, {summary.entries} names, {summary.cache_files} cache files; "
            f"{summary.found} findings, {summary.repaired} repaired"
        )
        if summary.pending:
            say(
                f"{summary.pending} times work was cut; the next start settles that, it is no fault"
            )
        if summary.backup:
            say(f"before the first change: {summary.backup}")
        if summary.found > summary.repaired:
            complain("not all is well; see the findings above")


def _plain(finding: Finding) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.structs.asdict(finding)
    return values | {"kind": finding.kind.value}
