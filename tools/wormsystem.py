"""What ``hsm retention``, ``hsm hold`` and ``hsm log`` share: hsmfs's socket and store."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from hsmfs.clock import SystemClock
from hsmfs.errors import CallerError, FsError, HsmError, TransientError
from hsmfs.namespace.view import NamespaceView
from hsmfs.namespace.wormview import WormView
from hsmfs.rpc.client import RpcClient
from hsmfs.rpc.messages import Answer, Call, Refused, Sync
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.system import System

A = TypeVar("A")
CALL_TIMEOUT_S: Final = 3600.0
"""A tree with millions of files is taken in within one call."""


def who() -> str:
    """Who asks, for the audit log."""
    name = os.environ.get("SUDO_USER") or ""
    with suppress(KeyError, OSError):
        name = name or getpass.getuser()
    return f"{name or 'unknown'} (uid {os.getuid()})"


async def _ask(system: System, calls: Sequence[Call]) -> list[Answer]:
    """Answers up to the first refusal; what fails is raised outside of the connection."""
    path = Path(system.config.run.path) / "hsmfs.sock"
    answers: list[Answer] = []
    failure: HsmError | None = None
    async with RpcClient.connect(path) as client:
        try:
            for call in calls:
                answers.append(await client.call(call, CALL_TIMEOUT_S))
                if isinstance(answers[-1], Refused):
                    break
        except HsmError as error:
            failure = error
    if failure is not None:
        raise failure
    return answers


def ask(system: System, calls: Sequence[Call], answer: type[A]) -> list[A]:
    """The answers of hsmfs; FsError where it refuses, TransientError where it is not there."""
    try:
        found = trio.run(_ask, system, calls)
    except (TransientError, OSError) as error:
        raise TransientError(
            f"hsmfs does not answer ({error}); start it: hsmfs --config {system.config_path} "
            "(in a sandbox: hsm sandbox start DIR), or see its log"
        ) from None
    answers: list[A] = []
    for one in found:
        if isinstance(one, Refused):
            raise FsError(one.errno, one.why)
        assert isinstance(one, answer), one
        answers.append(one)
    return answers


@contextmanager
def store_of(system: System) -> Iterator[Any]:
    """A snapshot of the namespace, with all that a running hsmfs has done."""
    with suppress(TransientError, OSError):
        trio.run(_ask, system, [Sync()])
    path = Path(system.config.namespace.path)
    if not path.exists():
        raise CallerError(f"namespace.path: {path}: found nothing, expected a namespace")
    store = LmdbStore(path, read_only=True)
    try:
        with store.snapshot() as reader:
            yield reader
    finally:
        store.close()


def trusted_now(view: WormView) -> int:
    """Trusted time; the clock's where there is no retention yet."""
    found = view.time(*SystemClock().boot())
    return found[0] if found is not None else SystemClock().now_ns()


def inside(system: System, path: Path) -> bytes:
    """A path from the mount's root, without a leading slash."""
    mount = Path(system.config.fuse.mount)
    full = Path(system.inside(path))
    for root in (mount, mount.parent.resolve() / mount.name, mount.resolve()):
        if full.is_relative_to(root):
            found = os.fsencode(full.relative_to(root))
            return b"" if found == b"." else found
    raise CallerError(f"{path}: found no path in the mount {mount}")


def files_at(
    system: System, reader: Any, paths: Sequence[Path], recursive: bool
) -> dict[int, bytes]:
    """Inodes and paths of what was named; CallerError for what is not there."""
    view = NamespaceView(reader)
    found: dict[int, bytes] = {}
    for path in paths:
        at = inside(system, path)
        ino = view.lookup_path(at)
        record = view.inode(ino) if ino is not None else None
        if ino is None or record is None:
            raise CallerError(f"{path}: found nothing, expected a file of the mount")
        if not recursive or record.mode & 0o170000 != 0o040000:
            found[ino] = at
            continue
        for below, one in view.walk(ino, at):
            if one.mode & 0o170000 != 0o040000:
                found[one.ino] = below
    return found
