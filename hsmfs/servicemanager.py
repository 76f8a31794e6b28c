"""What is told to the service manager that started this program (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable

import trio

from hsmfs import logs

log = logs.get(__name__)


def notify(state: str) -> None:
    """Tell it, if there is one: ``READY=1``, ``STATUS=…``, ``STOPPING=1``, ``WATCHDOG=1``."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address)
        except OSError as error:
            log.warning("the service manager cannot be told", why=str(error))


def watchdog_s() -> float:
    """How often it wants a sign of life (sd_watchdog_enabled(3)); 0.0: it does not ask."""
    asked, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not asked.isdigit() or pid not in ("", str(os.getpid())):
        return 0.0
    return int(asked) / 1e6


async def keep_watchdog(is_alive: Callable[[], Awaitable[object]]) -> None:
    """A sign of life twice in its time, each only after ``is_alive`` has returned.

    Returns at once where nobody asks for it.
    """
    period_s = watchdog_s()
    while period_s > 0.0:
        await is_alive()
        notify("WATCHDOG=1")
        await trio.sleep(period_s / 2)
