"""A stop that wastes no disc: burns under way are finished, nothing else is begun.

A burn that is cut leaves a disc that counts for nothing. So at SIGTERM drives that burn go on, as
long as ``burn.stop_wait_s`` allows; what is read for waiting readers goes on meanwhile, too.
A second SIGTERM cuts them.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import structlog
import trio

from hsmfs import servicemanager
from hsmfs.daemon.picture import Work

if TYPE_CHECKING:
    from hsmfs.daemon.hsmd import Hsmd

log = structlog.get_logger(__name__)
POLL_S: Final = 0.5
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


async def until_stopped(hsmd: Hsmd) -> None:
    """Returns when hsmd should end: told to, and no burn is worth waiting for."""
    with trio.open_signal_receiver(*SIGNALS) as signals:
        await anext(signals)
        log.info("stopping")
        servicemanager.notify("STOPPING=1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cut_by_second, signals, nursery.cancel_scope)
            await _finish_burns(hsmd)
            nursery.cancel_scope.cancel()


async def _cut_by_second(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    log.warning("told to stop a second time: burns are cut")
    scope.cancel()


async def _finish_burns(hsmd: Hsmd) -> None:
    hsmd.draining = True
    wait_s = hsmd.core.config.burn.stop_wait_s
    with trio.move_on_after(wait_s) as waited:
        told = ""
        while burning := _burning(hsmd):
            text = f"finishing burns in {', '.join(burning)}; a second signal cuts them"
            if text != told:
                told = text
                log.info("stop waits", why=text)
                servicemanager.notify(f"STATUS={text}")
            await trio.sleep(POLL_S)
    if waited.cancelled_caught:
        log.warning("burns are cut: they took longer than burn.stop_wait_s", seconds=wait_s)


def _burning(hsmd: Hsmd) -> list[str]:
    """By their work: one that is taken out of service meanwhile burns to the end all the same."""
    units = hsmd.core.librarian.units
    return [unit.name for unit in units if unit.busy and unit.work is Work.BURN]
