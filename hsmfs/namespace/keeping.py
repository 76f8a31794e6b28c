"""How long files are kept: ``15y``, ``90d``, and the date that comes of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from hsmfs.errors import CallerError

SECONDS: Final = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
YEARS_MAX: Final = 200
SECOND_NS: Final = 10**9
UNTIL_NS_MAX: Final = (1 << 63) - 1
"""11 April 2262: the greatest date that a record can hold."""
_DURATION: Final = re.compile(r"([0-9]{1,9})(s|min|h|d|w|y)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def check(text: str, what: str) -> str:
    """The same text; CallerError for what is no duration."""
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise CallerError(
            f"{what}: found {text!r}, expected a number above 0 and one of s, min, h, d, w, y "
            "such as 1d or 15y"
        )
    number = int(found[1])
    years = number if found[2] == "y" else number * SECONDS[found[2]] / (365 * 86_400)
    if years > YEARS_MAX:
        raise CallerError(f"{what}: found {text!r}, expected at most {YEARS_MAX}y")
    return text


def after(start_ns: int, text: str) -> int:
    """The moment that a duration after another ends; years are those of the calendar
    (UTC), the 29th of February becomes the 1st of March."""
    found = _DURATION.fullmatch(text)
    assert found is not None, text
    number, unit = int(found[1]), found[2]
    if unit != "y":
        return min(start_ns + number * SECONDS[unit] * SECOND_NS, UNTIL_NS_MAX)
    seconds, rest_ns = divmod(start_ns, SECOND_NS)
    start = _EPOCH + timedelta(seconds=seconds)
    try:
        end = start.replace(year=start.year + number)
    except ValueError:
        end = start.replace(year=start.year + number, month=3, day=1)
    return min(int((end - _EPOCH).total_seconds()) * SECOND_NS + rest_ns, UNTIL_NS_MAX)


def shown(time_ns: int) -> str:
    """A moment for people: UTC, to the second."""
    moment = _EPOCH + timedelta(seconds=time_ns // SECOND_NS)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
