"""Which discs hold which bytes of a file: copies of a file that is in parts.

Plain values in and out. A file version is whole on one volume, or in parts on several; what
counts as its copies is the number of discs that hold its worst covered byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from hsmfs.daemon.catalogrecords import ExtentRecord

T = TypeVar("T")


def size_of(extent: ExtentRecord) -> int:
    """Bytes of the whole file."""
    return extent.total or extent.size


def stop_of(extent: ExtentRecord) -> int:
    """The byte after the last one that is here."""
    return extent.start + extent.size


def copies_of(extents: Iterable[tuple[ExtentRecord, int]]) -> int:
    """Discs that hold each byte of a file, at least; the number beside an extent is that of
    the discs that have it."""
    known = list(extents)
    whole = max((size_of(extent) for extent, _ in known), default=0)
    if all(extent.size == whole for extent, _ in known):
        return sum(discs for _, discs in known)
    edges: Counter[int] = Counter({0: 0, whole: 0})
    for extent, discs in known:
        edges[extent.start] += discs
        edges[stop_of(extent)] -= discs
    here, counts = 0, []
    for at in sorted(edges):
        here += edges[at]
        if at < whole:
            counts.append(here)
    return min(counts)


def cover(places: Sequence[tuple[T, ExtentRecord]]) -> list[T]:
    """Few places that hold the whole file together, each first one that reaches furthest;
    empty where they do not."""
    whole = max((size_of(extent) for _, extent in places), default=0)
    chosen: list[T] = []
    at = 0
    while at < whole or not chosen:
        fit = [one for one in places if one[1].start <= at and stop_of(one[1]) > at]
        fit = fit or ([one for one in places if not whole] if not chosen else [])
        if not fit:
            return []
        place, extent = max(fit, key=lambda one: stop_of(one[1]))
        chosen.append(place)
        at = stop_of(extent)
    return chosen
