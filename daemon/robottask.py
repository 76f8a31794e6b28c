"""One task per robot: moves are asked for over a bounded channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
import trio

from hsmfs.changer.library import Changer, Inventory
from hsmfs.clock import Clock, SystemClock
from hsmfs.daemon.busyshare import BusyShare
from hsmfs.daemon.manual.boxes import NoChanger
from hsmfs.errors import HsmError, LibraryError

log = structlog.get_logger(__name__)

REQUESTS_MAX: Final = 256


@dataclass(slots=True)
class _Request:
    work: Callable[[], Any]
    done: trio.Event = field(default_factory=trio.Event)
    value: Any = None
    error: HsmError | None = None


class Robot:
    """The only place that commands the changer."""

    def __init__(self, changer: Changer | NoChanger, clock: Clock | None = None) -> None:
        self._changer = changer
        self._clock = clock or SystemClock()
        self._limiter = trio.CapacityLimiter(1)
        self._send, self._receive = trio.open_memory_channel[_Request](REQUESTS_MAX)
        self.moves = 0
        self.errors = 0
        self.busy = BusyShare()
        """How much of the last minutes it moved."""

    async def serve(self) -> None:
        """Carry out requests in order until cancelled."""
        async for request in self._receive:
            try:
                request.value = await trio.to_thread.run_sync(request.work, limiter=self._limiter)
            except HsmError as error:
                self.errors += 1
                request.error = error
            except Exception as error:
                log.exception("bug: a robot command failed")
                request.error = LibraryError(f"{type(error).__name__}: {error}")
            finally:
                request.done.set()

    async def _ask(self, work: Callable[[], Any]) -> Any:
        request = _Request(work)
        await self._send.send(request)
        await request.done.wait()
        if request.error is not None:
            raise request.error
        return request.value

    async def move(self, source: int, destination: int) -> None:
        """Move one disc between elements; LibraryError if it did not arrive."""
        took_s = await self._ask(lambda: self._timed_move(source, destination))
        self.busy.add(took_s, self._clock.monotonic_s())
        self.moves += 1

    def _timed_move(self, source: int, destination: int) -> float:
        started_s = self._clock.monotonic_s()
        self._changer.move(source, destination)
        return self._clock.monotonic_s() - started_s

    async def inventory(self, *, refresh: bool = False) -> Inventory:
        """Element status as the library tells it."""
        result: Inventory = await self._ask(lambda: self._changer.inventory(refresh=refresh))
        return result

    async def initialize(self) -> None:
        """Let the robot look into all elements; nothing is moved meanwhile."""
        await self._ask(self._changer.initialize)

    async def allow_removal(self) -> None:
        """Unlock the library for a person."""
        await self._ask(lambda: self._changer.prevent_removal(False))
