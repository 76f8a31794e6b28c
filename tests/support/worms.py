"""A tree with a retention in an engine, and time that passes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hsmfs.errors import FsError
from hsmfs.namespace import schema
from hsmfs.namespace.audit import Fault, verify
from hsmfs.namespace.wormrows import ENTRIES
from support.engines import ME, Bench, now

DAY_S = 86_400.0
YEAR_S = 366 * DAY_S


def tree_of(bench: Bench, settle: str = "1d", keep: str = "15y") -> int:
    """An empty directory ``archive`` with a retention."""
    top = bench.engine.mkdir(1, b"archive", 0o755, ME).ino
    assert now(bench.engine.retention.set_tree(b"archive", settle, keep, "root")) == 0
    return top


def make(bench: Bench, folder: int, name: bytes, data: bytes) -> int:
    opened, attr = bench.engine.create(folder, name, 0o644, os.O_RDWR, ME)
    now(bench.engine.write(opened.fh, 0, data))
    bench.engine.release(opened.fh)
    return attr.ino


def pass_time(bench: Bench, seconds: float, step_s: float = 21_600.0) -> None:
    """On the clock first, then ticks."""
    while seconds > 0:
        bench.clock.advance(min(step_s, seconds))
        seconds -= step_s
        bench.executor.advance(2.5)


def snapshot(bench: Bench, ino: int) -> list[tuple[bytes, bytes]]:
    """Stored attributes, names and the cache file's bytes."""
    kv = bench.engine.tables.kv
    rows = list(kv.scan(*schema.xattr_range(ino))) + list(kv.scan(*schema.link_range(ino)))
    path = bench.engine.tier.path(ino)
    with open(path, "rb") as file:
        return [*rows, (b"data", file.read())]


def verified(bench: Bench) -> list[Fault]:
    """Faults of the audit log."""
    kv = bench.engine.tables.kv
    head = bench.engine.retention.clock.audit.head
    return list(verify(list(kv.scan(*ENTRIES, reverse=True)), head))


@contextmanager
def fails(number: int, what: str) -> Iterator[None]:
    with pytest.raises(FsError) as caught:
        yield
    found = errno.errorcode[caught.value.errno]
    assert found == errno.errorcode[number], what
