"""Conditions an operator should know: one per cause, counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import structlog

from hsmfs.clock import Clock
from hsmfs.daemon.catalogrecords import AlarmRecord

log = structlog.get_logger(__name__)
ALARMS_MAX: Final = 1_000


class Alarms:
    """Alarms in force, keyed by kind and text."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.active: dict[tuple[str, str], AlarmRecord] = {}

    def raise_(self, kind: str, text: str) -> None:
        """Note a condition; a second time only counts."""
        known = self.active.get((kind, text))
        if known is not None:
            known.count += 1
            return
        log.error("alarm", kind=kind, text=text)
        if len(self.active) >= ALARMS_MAX:
            self.active.pop(next(iter(self.active)))
        self.active[kind, text] = AlarmRecord(kind=kind, text=text, since_ns=self._clock.now_ns())

    def clear_text(self, kind: str, start: str) -> None:
        """The condition is over for what the texts that start like this tell of."""
        for key in [key for key in self.active if key[0] == kind and key[1].startswith(start)]:
            del self.active[key]

    def follow(self, kind: str, texts: Iterable[str]) -> None:
        """All conditions of a kind as they are now; those that are known already stay as they
        are, the others of the kind are over."""
        now = set(texts)
        for key in [key for key in self.active if key[0] == kind and key[1] not in now]:
            del self.active[key]
        for text in sorted(now):
            if (kind, text) not in self.active:
                self.raise_(kind, text)

    def clear(self, kind: str) -> None:
        """The condition is over."""
        for key in [key for key in self.active if key[0] == kind]:
            del self.active[key]
