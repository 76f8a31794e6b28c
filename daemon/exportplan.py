"""Which magazines to take out of a full library: plain values in and out.

The coldest go first, those with blank discs last. A volume keeps a proved copy in the
library, and no two of its copies come to stand in one place outside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Holding:
    """A magazine in the library."""

    name: str
    destination: str
    """Where it would stand: shelf or off-site."""
    volumes: tuple[str, ...] = ()
    """Of which it holds a disc that counts, or may count again."""
    bound: frozenset[str] = frozenset()
    """Volumes that may leave with it though they have no other copy: parity over its own."""
    blanks: int = 0
    discs: int = 0
    bytes: int = 0
    heat: float = 0.0
    """How often its volumes were read, faded."""
    used_ns: int = 0
    """When one of them was read or burned last."""
    obstacle: str = ""
    """Why it cannot go now, whatever else is taken."""


class Copy(NamedTuple):
    """A proved copy of a volume."""

    magazine: str
    place: str
    """Empty: in the library; else where it stands."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A magazine to take out, and the magazines in the library that have its volumes too."""

    holding: Holding
    kept_in: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExportPlan:
    take: tuple[Chosen, ...]
    stay: tuple[tuple[Holding, str], ...]
    """With why, the coldest first."""


def order(holding: Holding) -> tuple[int, float, int, str]:
    """Full ones first, then such with some blanks, then blank ones; the coldest first."""
    rank = 0 if not holding.blanks else 1 if holding.blanks < holding.discs else 2
    return rank, holding.heat, holding.used_ns, holding.name


def plan_export(
    holdings: Sequence[Holding], copies: Mapping[str, Sequence[Copy]], count: int
) -> ExportPlan:
    """At most ``count`` magazines to take out together."""
    board = _Board(copies)
    take: list[Chosen] = []
    stay: list[tuple[Holding, str]] = []
    for holding in sorted(holdings, key=order):
        why = holding.obstacle or board.against(holding)
        if not why and len(take) >= count:
            why = "could go next"
        if why:
            stay.append((holding, why))
        else:
            take.append(Chosen(holding, board.take(holding)))
    return ExportPlan(tuple(take), tuple(stay))


class _Board:
    """Where all copies would be."""

    def __init__(self, copies: Mapping[str, Sequence[Copy]]) -> None:
        self._inside: defaultdict[str, set[str]] = defaultdict(set)
        self._outside: defaultdict[str, set[str]] = defaultdict(set)
        """Places by volume."""
        for label, found in copies.items():
            self._inside[label] = {copy.magazine for copy in found if not copy.place}
            self._outside[label] = {copy.place for copy in found if copy.place}

    def against(self, holding: Holding) -> str:
        """Why it must stay; empty if it may go."""
        for label in holding.volumes:
            if label in holding.bound:
                continue
            if not self._inside[label] - {holding.name}:
                return f"volume {label} would have no proved copy in the library"
            if holding.destination in self._outside[label]:
                return (
                    f"volume {label} has a copy in the same place outside ({holding.destination})"
                )
        return ""

    def take(self, holding: Holding) -> tuple[str, ...]:
        """Let it go; where its volumes are kept."""
        kept: set[str] = set()
        for label in holding.volumes:
            self._inside[label].discard(holding.name)
            self._outside[label].add(holding.destination)
            kept |= self._inside[label]
        return tuple(sorted(kept))
