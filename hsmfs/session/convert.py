"""Between the engine's values and the binding's."""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar

import pyfuse3

from hsmfs import logs
from hsmfs.errors import FsError, Kind, StoreDamagedError
from hsmfs.metrics import FsMetrics
from hsmfs.namespace.model import Attr, Caller, SetAttr

log = logs.get(__name__)

P = ParamSpec("P")
R = TypeVar("R")

BLOCK_BYTES: Final = 64 * 1024
"""``st_blksize``: what stdio and Python read first; no more than the head that
stubs keep, so that reading a header loads no disc."""
LOG_INTERVAL_S: Final = 10.0
"""An unexpected error of one operation is logged with its traceback this
often at most; in between it is only counted."""


class HasMetrics(Protocol):
    """What ``handler`` needs of the object whose method it wraps."""

    metrics: FsMetrics


S = TypeVar("S", bound=HasMetrics)
Method = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]


def handler(method: Method[S, P, R]) -> Method[S, P, R]:
    """Wrap a request handler: count it, and answer every error as an errno.

    What is not an ``FsError`` is a bug: it is logged with its traceback and
    answered with EIO. The mount never ends because of it.
    """
    op = method.__name__
    last_log_s = -LOG_INTERVAL_S

    async def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.metrics.requests.labels(op).inc()
        try:
            return await method(self, *args, **kwargs)
        except FsError as error:
            number = error.errno
        except pyfuse3.FUSEError as error:
            number = error.errno
        except StoreDamagedError as error:
            number = errno.EIO
            log.error("a request was answered with EIO", why=str(error))
        except Exception:
            number = errno.EIO
            nonlocal last_log_s
            self.metrics.errors.labels(Kind.BUG.value).inc()
            if time.monotonic() - last_log_s >= LOG_INTERVAL_S:
                last_log_s = time.monotonic()
                log.exception("bug: a request was answered with EIO", op=op)
        self.metrics.request_errors.labels(op, errno.errorcode.get(number, str(number))).inc()
        raise pyfuse3.FUSEError(number)

    functools.update_wrapper(wrapped, method)
    return wrapped


def caller(ctx: pyfuse3.RequestContext) -> Caller:
    """Who asks."""
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask, fsetid=ctx.uid == 0)


def changes(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> SetAttr:
    """What a setattr request asks to change."""
    wanted: dict[str, Any] = {}
    if fields.update_mode:
        wanted["mode"] = attr.st_mode
    if fields.update_uid:
        wanted["uid"] = attr.st_uid
    if fields.update_gid:
        wanted["gid"] = attr.st_gid
    if fields.update_size:
        wanted["size"] = attr.st_size
    if fields.update_atime:
        wanted["atime_ns"] = attr.st_atime_ns
    if fields.update_mtime:
        wanted["mtime_ns"] = attr.st_mtime_ns
    return SetAttr(**wanted)


class Entries:
    """Makes the binding's attributes, with the mount's time-outs."""

    def __init__(self, attr_timeout_s: float, entry_timeout_s: float) -> None:
        self.attr_timeout_s = attr_timeout_s
        self.entry_timeout_s = entry_timeout_s

    def of(self, attr: Attr) -> pyfuse3.EntryAttributes:
        """Attributes of one inode."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = attr.ino
        entry.generation = attr.generation
        entry.attr_timeout = self.attr_timeout_s
        entry.entry_timeout = self.entry_timeout_s
        entry.st_mode = attr.mode
        entry.st_nlink = attr.nlink
        entry.st_uid = attr.uid
        entry.st_gid = attr.gid
        entry.st_rdev = attr.rdev
        entry.st_size = attr.size
        entry.st_blksize = BLOCK_BYTES
        entry.st_blocks = attr.blocks
        entry.st_atime_ns = attr.atime_ns
        entry.st_mtime_ns = attr.mtime_ns
        entry.st_ctime_ns = attr.ctime_ns
        return entry

    def absent(self) -> pyfuse3.EntryAttributes:
        """A name that does not exist; the kernel may remember that.

        Safe because nobody but this mount's own requests makes names.
        """
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = 0
        entry.entry_timeout = self.entry_timeout_s
        return entry
