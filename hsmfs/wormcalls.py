"""Calls of ``hsm retention`` and ``hsm hold``, turned into calls of the engine."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Final

from hsmfs.deferred import Deferred
from hsmfs.errors import FsError
from hsmfs.namespace.engine import Engine
from hsmfs.rpc.wormmessages import (
    WORM_FILES_MAX,
    HoldClear,
    HoldSet,
    RetentionClear,
    RetentionConfirm,
    RetentionExtend,
    RetentionSet,
    TimeAccept,
    WormResults,
    WormTaken,
    WormTime,
)
from hsmfs.session.interface import Session


def worm_methods(engine: Engine, session: Session) -> dict[type, Callable[[Any], Any]]:
    """What answers each call; the kernel is told what it must not believe any more."""
    retention, holds = engine.retention, engine.holds
    holds.name_changed = session.name_changed
    retention.settling.flush_kernel = session.data_changed

    def accept(call: TimeAccept) -> WormTime:
        if not retention.clock.is_running:
            raise FsError(errno.ENOENT, "there is no retention and no hold yet")
        return WormTime(retention.clock.accept(call.by))

    methods: Final[dict[type, Callable[[Any], Any]]] = {
        RetentionSet: lambda call: retention.set_tree(
            call.path, call.settle, call.keep, call.by
        ).map(WormTaken),
        RetentionClear: lambda call: retention.clear_tree(call.path, call.by),
        RetentionExtend: lambda call: _results(
            call.inodes, lambda: holds.extend(call.inodes, call.keep, call.by)
        ),
        RetentionConfirm: lambda call: _results(
            call.files, lambda: holds.confirm(call.files, call.by)
        ),
        HoldSet: lambda call: _results(
            call.inodes, lambda: holds.set(call.inodes, call.reason, call.by)
        ),
        HoldClear: lambda call: _results(
            call.inodes, lambda: holds.clear(call.inodes, call.reason, call.by)
        ),
        TimeAccept: accept,
    }
    return methods


def _results(files: Sequence[Any], run: Callable[[], Deferred[list[str]]]) -> Deferred[WormResults]:
    if len(files) > WORM_FILES_MAX:
        raise FsError(errno.E2BIG, f"more than {WORM_FILES_MAX} files in a call")
    return run().map(WormResults)
