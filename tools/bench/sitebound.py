"""A lower bound of loads that no schedule can beat, however much it knows in advance.

Each request i of a volume has a window [a_i, d_i]: it comes at a_i and must be begun at
d_i at the latest. A volume's disc lies in a drive for some *stays*; a request is begun in one
of them. A stay that begins its last request at e holds a drive until e + read + post (that
request is read, the robot takes the disc), and from ``pre`` before it can begin its first
(the robot brings the disc, it spins up). Burns and proofs hold a drive for a known time from a
moment in a window of their own, and cost a load each. Time is cut into slots; in no slot can all
together have more drive time than there is. With a price p(k) >= 0 for drive time in slot k

    sum over volumes of min(loads + price of the stays' drive time)
    + sum over burns and proofs of min(1 + price of the drive time) - price of all drive time

is at most the fewest loads (weak duality). ``certified`` computes it, exactly for each
volume by dynamic programming over its requests; it is a bound whatever the prices are. Good
prices come from ``prices``, which solves the linear program of which this is the dual (HiGHS,
by scipy).

What is ignored makes the bound lower: the one robot, that drive time cannot be moved within a slot,
that half a stay is none, that a drive reads one request at a time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog  # type: ignore[import-untyped]
from scipy.sparse import coo_array  # type: ignore[import-untyped]

Floats = npt.NDArray[np.float64]
Window = tuple[int, float, float]
"""Volume, moment of the request, latest moment at which it is begun."""
NOWHERE: Final = -1


class LongWork(NamedTuple):
    """A burn or a proof: a drive for ``hold_s`` from a moment of this window."""

    ready_s: float
    latest_s: float
    hold_s: float


@dataclass(frozen=True, slots=True)
class Hall:
    """What there is: drives, how long a load takes them, and slots up to the day's end."""

    drives: int
    pre_s: float
    post_s: float
    read_s: float
    slot_s: float
    end_s: float

    @property
    def slots(self) -> int:
        return math.ceil(self.end_s / self.slot_s)

    @property
    def edges(self) -> Floats:
        return np.arange(self.slots + 1, dtype=np.float64) * self.slot_s

    def crossings(self, first_s: float, last_s: float, offset_s: float) -> Iterator[float]:
        """Moments u of an open interval at which u - offset is the edge of a slot."""
        step = math.floor((first_s - offset_s) / self.slot_s) + 1
        while (at_s := step * self.slot_s + offset_s) < last_s:
            yield at_s
            step += 1


def fewest_loads(windows: Sequence[Window], works: Sequence[LongWork], hall: Hall) -> float:
    """Loads that any schedule needs for these requests, burns and proofs."""
    volumes = by_volume(windows)
    return certified(volumes, works, hall, prices(volumes, works, hall))


def by_volume(windows: Iterable[Window]) -> list[tuple[list[float], list[float]]]:
    """Of each volume arrivals ascending, and for each the earliest end of it and all later ones."""
    spans: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for volume, start_s, end_s in windows:
        spans[volume].append((start_s, end_s))
    found = []
    for pairs in spans.values():
        pairs.sort()
        ends = [end_s for _, end_s in pairs]
        for i in range(len(ends) - 2, -1, -1):
            ends[i] = min(ends[i], ends[i + 1])
        found.append(([start_s for start_s, _ in pairs], ends))
    return found


# -- the dual: a bound for any prices -----------------------------------------------------


def certified(
    volumes: Sequence[tuple[list[float], list[float]]],
    works: Sequence[LongWork],
    hall: Hall,
    price: Floats,
) -> float:
    """The bound that these prices (loads a second of drive time, by slot) give."""
    paid = np.concatenate(([0.0], np.cumsum(price * hall.slot_s)))
    pre, rest = hall.pre_s, hall.read_s + hall.post_s
    least = 0.0
    for starts, ends in volumes:
        a, e = np.array(starts), np.array(ends)
        short = _cheapest(a - pre, e - pre, pre + rest, hall, paid)
        least += _least(starts, ends, short, _until(e - pre, hall, paid),
                        _until(a + rest, hall, paid))  # fmt: skip
    for work in works:
        ready, latest = np.array([work.ready_s]), np.array([work.latest_s])
        least += 1.0 + _cheapest(ready, latest, work.hold_s, hall, paid)[0]
    return least - hall.drives * float(paid[-1])


def _until(at_s: Floats, hall: Hall, paid: Floats) -> list[float]:
    """Price of a drive from 0 until these moments."""
    found: list[float] = np.interp(at_s, hall.edges, paid).tolist()
    return found


def _cheapest(first: Floats, last: Floats, hold_s: float, hall: Hall, paid: Floats) -> list[float]:
    """Least price of ``hold_s`` from a moment between; it is linear between crossings of edges."""
    edges = hall.edges

    def price(at: Floats) -> Floats:
        return np.interp(at + hold_s, edges, paid) - np.interp(at, edges, paid)

    least = np.minimum(price(first), price(last))
    for offset_s in (0.0, hold_s):
        edge = np.ceil((first + offset_s) / hall.slot_s) * hall.slot_s - offset_s
        while (inside := edge < last).any():
            least = np.where(inside, np.minimum(least, price(edge)), least)
            edge += hall.slot_s
    found: list[float] = least.tolist()
    return found


def _least(
    starts: list[float],
    ends: list[float],
    short: list[float],
    opened: list[float],
    closed: list[float],
) -> float:
    """Least cost of stays that begin all requests of a volume.

    ``short[i]``: a stay that begins request i alone, and those that came by its end;
    ``opened[i]``, ``closed[i]``: price until a stay that begins i as late as possible, until
    the end of a stay that begins i last. ``rest[i]``: all from i on; ``held[i]``: all after i,
    while the disc is there.
    """
    count = len(starts)
    rest, held = [0.0] * (count + 1), [0.0] * count
    after = count
    for i in range(count - 1, -1, -1):
        if i + 1 < count:
            held[i] = min(rest[i + 1], closed[i + 1] - closed[i] + held[i + 1])
        while after > i + 1 and starts[after - 1] > ends[i]:
            after -= 1
        cost = short[i] + rest[after]
        if after < count:
            cost = min(cost, closed[after] - opened[i] + held[after])
        rest[i] = 1.0 + cost
    return rest[0]


# -- the primal: good prices ----------------------------------------------------------------


@dataclass(slots=True)
class _Program:
    """Paths through each volume's requests; arcs use drive time of slots."""

    hall: Hall
    costs: list[float] = field(default_factory=list)
    given: list[float] = field(default_factory=list)
    """What enters at each node: 1 where a volume begins."""
    flow: list[tuple[int, int, float]] = field(default_factory=list)
    """Node, arc, 1 where the arc begins and -1 where it ends."""
    use: list[tuple[npt.NDArray[np.int64], int, Floats]] = field(default_factory=list)
    """Slots, arc, seconds."""
    edges: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.edges = self.hall.edges

    def node(self, given: float = 0.0) -> int:
        self.given.append(given)
        return len(self.given) - 1

    def arc(self, cost: float, source: int, target: int, start_s: float, stop_s: float) -> None:
        """With a drive from ``start_s`` to ``stop_s``; after the day's end drives are free."""
        number = len(self.costs)
        self.costs.append(cost)
        self.flow.append((source, number, 1.0))
        if target != NOWHERE:
            self.flow.append((target, number, -1.0))
        slot_s = self.hall.slot_s
        first, last = (
            max(0, int(start_s // slot_s)),
            min(self.hall.slots, int(stop_s // slot_s) + 1),
        )
        if first < last and start_s < stop_s:
            edges = self.edges[first : last + 1]
            seconds = np.minimum(stop_s, edges[1:]) - np.maximum(start_s, edges[:-1])
            self.use.append((np.arange(first, last), number, seconds))

    def volume(self, starts: list[float], ends: list[float]) -> None:
        """A node before each request, one while the disc is there after it was begun."""
        count, pre, rest = len(starts), self.hall.pre_s, self.hall.read_s + self.hall.post_s
        before = [self.node(float(i == 0)) for i in range(count)] + [NOWHERE]
        there = [self.node() for _ in range(count)]
        for i in range(count):
            after = self._short_stays(i, starts, ends[i], before)
            if after < count:
                self.arc(1.0, before[i], there[after], ends[i] - pre, starts[after] + rest)
            if i + 1 < count:
                self.arc(0.0, there[i], there[i + 1], starts[i] + rest, starts[i + 1] + rest)
            self.arc(0.0, there[i], before[i + 1], 0.0, 0.0)

    def _short_stays(self, i: int, starts: list[float], end_s: float, before: list[int]) -> int:
        """One for each moment at which something changes; the first request after the last."""
        pre, rest = self.hall.pre_s, self.hall.read_s + self.hall.post_s
        after, moments = i, {starts[i], end_s}
        while after < len(starts) and starts[after] <= end_s:
            moments.add(starts[after])
            after += 1
        for offset_s in (pre, -rest):
            moments.update(self.hall.crossings(starts[i], end_s, offset_s))
        behind = i + 1
        for at_s in sorted(moments):
            # Just before a request that comes at this moment, and with it.
            if at_s > starts[i]:
                self.arc(1.0, before[i], before[behind], at_s - pre, at_s + rest)
            if behind < after and starts[behind] <= at_s:
                while behind < after and starts[behind] <= at_s:
                    behind += 1
                self.arc(1.0, before[i], before[behind], at_s - pre, at_s + rest)
            elif at_s == starts[i]:
                self.arc(1.0, before[i], before[behind], at_s - pre, at_s + rest)
        return after

    def work(self, work: LongWork) -> None:
        node = self.node(1.0)
        moments = {work.ready_s, work.latest_s}
        for offset_s in (0.0, -work.hold_s):
            moments.update(self.hall.crossings(work.ready_s, work.latest_s, offset_s))
        for at_s in moments:
            self.arc(1.0, node, NOWHERE, at_s, at_s + work.hold_s)


def prices(
    volumes: Sequence[tuple[list[float], list[float]]], works: Sequence[LongWork], hall: Hall
) -> Floats:
    """Loads that a second of drive time is worth, by slot; none is negative."""
    program = _Program(hall)
    for starts, ends in volumes:
        program.volume(starts, ends)
    for work in works:
        program.work(work)
    nodes, arcs, signs = (np.array(column) for column in zip(*program.flow, strict=True))
    slots = np.concatenate([slots for slots, _, _ in program.use])
    users = np.repeat([arc for _, arc, _ in program.use], [len(s) for s, _, _ in program.use])
    seconds = np.concatenate([seconds for _, _, seconds in program.use])
    count = len(program.costs)
    solved = linprog(
        program.costs,
        A_ub=coo_array((seconds, (slots, users)), shape=(hall.slots, count)).tocsr(),
        b_ub=np.full(hall.slots, hall.drives * hall.slot_s),
        A_eq=coo_array((signs, (nodes, arcs)), shape=(len(program.given), count)).tocsr(),
        b_eq=program.given,
        method="highs-ipm",
    )
    if solved.ineqlin is None or not np.isfinite(solved.fun):
        raise RuntimeError(f"no prices were found: {solved.message}")
    return np.maximum(0.0, -np.asarray(solved.ineqlin.marginals, dtype=np.float64))
