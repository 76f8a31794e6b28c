"""The old directories, which go when they are empty and the namespace has them."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from hsmfs.rpc.adoptmessages import ADOPT_ITEMS_MAX, AdoptLook, AdoptName, AdoptSeen
from hsmfs.tools.adopt.disk import Below
from hsmfs.tools.adopt.look import Found

T = TypeVar("T")
Ask = Callable[[AdoptLook, type[AdoptSeen]], Awaitable[Any]]


async def remove_folders(ask: Ask, below: Below, rest: Found) -> None:
    """Empty ones that the namespace has, the deepest first."""
    for batch in batches(_folders(below), ADOPT_ITEMS_MAX):
        seen: AdoptSeen = await ask(AdoptLook(batch), AdoptSeen)
        for at, there in zip(batch, seen.found, strict=True):
            if stat.S_ISDIR(there.mode):
                _rmdir(below, at, rest)


def _folders(below: Below) -> Iterator[AdoptName]:
    """All below the source; each after those in it."""
    pending: list[tuple[bytes, Iterator[bytes]]] = [(b"", _inside(below, b""))]
    while pending:
        path, inside = pending[-1]
        name = next(inside, None)
        if name is not None:
            deeper = path + b"/" + name if path else name
            pending.append((deeper, _inside(below, deeper)))
            continue
        pending.pop()
        if path:
            above, _, last = path.rpartition(b"/")
            yield AdoptName(above, last)


def _inside(below: Below, path: bytes) -> Iterator[bytes]:
    try:
        with os.scandir(below.open(path)) as entries:
            names = [os.fsencode(e.name) for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError:
        names = []
    return iter(names)


def _rmdir(below: Below, at: AdoptName, rest: Found) -> None:
    try:
        os.rmdir(at.name, dir_fd=below.open(at.folder))
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            path = at.folder + b"/" + at.name if at.folder else at.name
            rest.leave(path, f"empty, but cannot be removed: {trouble(error)}")


def remove_source(source: Path, rest: Found) -> bool:
    """The directory that was adopted; whether nothing is left to go on with."""
    try:
        os.rmdir(source)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            rest.leave(b"", "new files came meanwhile; run hsm adopt again")
            return False
        rest.leave(b"", f"adopted; the empty directory cannot be removed: {trouble(error)}")
    return True


def trouble(error: OSError) -> str:
    """In words, with what to do."""
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"{error.strerror}: run hsm adopt as root; see lsattr, and whether it is read-only"
    return str(error.strerror)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """So many at a time."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
