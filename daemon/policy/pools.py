"""Pools of a policy: their settings checked, with the defaults put in."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from hsmfs.config import did_you_mean
from hsmfs.daemon.policy.conditions import count, duration_ns, size_bytes
from hsmfs.daemon.policy.facts import SECOND_NS
from hsmfs.daemon.policy.lexer import Source, shown
from hsmfs.daemon.policy.rules import Pool, PoolDefaults
from hsmfs.daemon.policy.syntax import PoolStatement, Quantity, ScrubClause, Word

COPIES_MAX: Final = 16
HEAD_BYTES_MAX: Final = 2**30
PARITY_MAX: Final = 2
RECOVERY_PERCENT_MAX: Final = 50
SPREADS: Final = ("magazine",)


class PoolLoader:
    """Makes pools of their statements."""

    def __init__(self, source: Source, magazines: int | None, defaults: PoolDefaults) -> None:
        self._source = source
        self._magazines = magazines
        self._defaults = defaults

    def pool(self, statement: PoolStatement) -> Pool:
        """The pool; PolicyError where a setting is wrong."""
        burn = statement.burn
        if burn is None:
            wait_s = self._defaults.burn_max_wait_s
        elif burn.oldest is None:
            wait_s = None
        else:
            wait_s = duration_ns(burn.oldest, self._source) / SECOND_NS
        copies = self._copies(statement.copies)
        scrub_s, percent = self._scrub(statement.scrub)
        dead = statement.reclaim
        return Pool(
            name=statement.name.text,
            copies=copies,
            spread=self._spread(statement.spread),
            burn_when_full=burn is None or burn.full,
            burn_max_wait_s=wait_s,
            head_bytes=self._head(statement.head),
            line=statement.name.span.line,
            offsite=self._offsite(statement.offsite, copies),
            parity=self._parity(statement.parity),
            scrub_s=scrub_s,
            scrub_percent=percent,
            reclaim_dead=None if dead is None else fraction_of(dead, self._source),
            recovery_percent=self._recovery(statement.recovery),
        )

    def _offsite(self, value: Quantity | None, copies: int) -> int:
        if value is None:
            return 0
        offsite = count(value, self._source)
        if offsite >= copies:
            expected = f"fewer than the pool's copies ({copies}): one at least stays at hand"
            raise self._source.error(value.span, shown(str(value)), expected)
        return offsite

    def _parity(self, value: Quantity | None) -> int:
        if value is None:
            return self._defaults.parity
        parity = count(value, self._source)
        if parity > PARITY_MAX:
            expected = f"0 to {PARITY_MAX} parity discs of a magazine"
            raise self._source.error(value.span, shown(str(value)), expected)
        return parity

    def _recovery(self, value: Quantity | None) -> float:
        if value is None:
            return self._defaults.recovery_percent
        percent = Fraction(value.number)
        if value.unit != "%" or percent > RECOVERY_PERCENT_MAX:
            todo = "" if value.unit else f"write {value}%"
            expected = f"a share of 0% to {RECOVERY_PERCENT_MAX}%"
            raise self._source.error(value.span, shown(str(value)), expected, todo)
        return float(percent)

    def _scrub(self, clause: ScrubClause | None) -> tuple[float, float]:
        """Seconds between two readings (0: never), and percent of the data."""
        if clause is None:
            return self._defaults.scrub_s, self._defaults.scrub_percent
        if clause.every is None:
            return 0.0, self._defaults.scrub_percent
        every_s = duration_ns(clause.every, self._source) / SECOND_NS
        if every_s <= 0:
            todo = "write 'scrub never' to have discs not read again"
            expected = "a duration greater than nothing"
            raise self._source.error(clause.every.span, shown(str(clause.every)), expected, todo)
        return every_s, self._sample(clause.sample)

    def _sample(self, value: Quantity | None) -> float:
        if value is None:
            return self._defaults.scrub_percent
        percent = Fraction(value.number)
        if value.unit != "%" or not 0 < percent <= 100:
            todo = "" if value.unit else f"write {value}%"
            expected = "a share greater than 0%, at most 100%"
            raise self._source.error(value.span, shown(str(value)), expected, todo)
        return float(percent)

    def _copies(self, value: Quantity) -> int:
        copies = count(value, self._source)
        if not 1 <= copies <= COPIES_MAX:
            expected = f"1 to {COPIES_MAX} copies"
            raise self._source.error(value.span, shown(str(value)), expected)
        if self._magazines is not None and copies > self._magazines:
            raise self._source.error(
                value.span,
                f"a pool asking for more copies than magazines ({copies} copies)",
                f"at most {self._magazines}, as many as the library has magazines",
                "each copy goes to a magazine of its own: ask for fewer copies or add magazines",
            )
        return copies

    def _spread(self, word: Word | None) -> str:
        if word is None:
            return SPREADS[0]
        if word.text not in SPREADS:
            todo = did_you_mean(word.text, SPREADS)
            raise self._source.error(word.span, shown(word.text), "'magazine'", todo)
        return word.text

    def _head(self, value: Quantity | None) -> int:
        if value is None:
            return self._defaults.head_bytes
        head_bytes = size_bytes(value, self._source)
        if head_bytes > HEAD_BYTES_MAX:
            raise self._source.error(value.span, shown(str(value)), "a head of at most 1GiB")
        return head_bytes


def fraction_of(value: Quantity, source: Source) -> float:
    """A percentage as a fraction between 0 and 1."""
    fraction = Fraction(value.number) / 100
    if value.unit != "%" or not 0 < fraction < 1:
        todo = "" if value.unit else f"write {value}%"
        expected = "a share between 0% and 100%"
        raise source.error(value.span, shown(str(value)), expected, todo)
    return float(fraction)
