"""Tasks that must not end: what they do not handle is told, and they go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from hsmfs.daemon.alarms import Alarms
from hsmfs.errors import HsmError

log = structlog.get_logger(__name__)
RESTART_S: Final = 1.0
RESTART_MAX_S: Final = 60.0


async def supervise(name: str, work: Callable[[], Awaitable[None]], alarms: Alarms) -> None:
    """Run until cancelled; after an error again, later each time, up to a bound."""
    pause_s = RESTART_S
    while True:
        try:
            await work()
            return
        except HsmError as error:
            alarms.raise_(name, str(error))
        except Exception as error:
            log.exception("bug: a task of hsmd failed and is started again", task=name)
            alarms.raise_(name, f"bug: {type(error).__name__}: {error}; see the log")
        await trio.sleep(pause_s)
        pause_s = min(RESTART_MAX_S, pause_s * 2)
