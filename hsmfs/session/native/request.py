"""One request, as handlers see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from hsmfs.deferred import Deferred
from hsmfs.namespace.model import Caller


class Head:
    """Who asks for what; one object, overwritten by each request."""

    __slots__ = ("gid", "node", "pid", "uid", "unique")

    def __init__(self) -> None:
        self.unique = self.node = self.uid = self.gid = self.pid = 0

    def caller(self, umask: int = 0, kill: int | None = None) -> Caller:
        """The process that asks; ``kill``: what the kernel says of set-id bits."""
        fsetid = self.uid == 0 if kill is None else not kill
        return Caller(self.uid, self.gid, self.pid, umask, fsetid)


Answer: TypeAlias = bytes | Deferred[Any] | None
"""The answer's body, now or later (always bytes), or None where the kernel expects none."""
Handler: TypeAlias = Callable[[Head, memoryview], Answer]
"""The body is only valid until the handler returns."""
