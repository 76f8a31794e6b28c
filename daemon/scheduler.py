"""Which drive does what next: a pure function from a picture to actions.

Rules, in this order. Discs wanted by readers come first; a disc that lies in
an idle drive is served there; else the copy in a slot goes to the idle drive
that costs least (empty, then the one idle for longest), and a drive that just
served a disc keeps it for ``hold_s``. Burns take as many idle drives as they
have copies left, or as many as live; one that waited for ``BURN_PATIENCE_S``
takes what it gets. Verifying prefers a drive that did not burn the disc. Images for
fresh copies are read before discs are verified, from a disc in a drive if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

BURN_PATIENCE_S: Final = 120.0
VERIFY_PATIENCE_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class DriveView:
    """One drive that lives."""

    name: str
    busy: bool
    disc: str = ""
    idle_since_s: float = 0.0
    read_at_s: float = float("-inf")
    """When it last served readers: their next requests may follow soon."""


@dataclass(frozen=True, slots=True)
class ReadDemand:
    """Requests for one volume; ``discs`` are usable copies, best first."""

    volume: str
    discs: tuple[str, ...]
    since_s: float
    has_readers: bool = True


@dataclass(frozen=True, slots=True)
class BurnDemand:
    """A volume that lacks ``copies_left`` discs."""

    volume: str
    copies_left: int
    since_s: float


@dataclass(frozen=True, slots=True)
class VerifyDemand:
    disc: str
    burned_in: str
    since_s: float


@dataclass(frozen=True, slots=True)
class StageDemand:
    """A volume whose image is wanted in a file; ``discs`` may give it, best first."""

    volume: str
    discs: tuple[str, ...]
    since_s: float


@dataclass(frozen=True, slots=True)
class Picture:
    """All that a decision needs."""

    drives: tuple[DriveView, ...]
    reads: tuple[ReadDemand, ...] = ()
    burns: tuple[BurnDemand, ...] = ()
    verifies: tuple[VerifyDemand, ...] = ()
    stages: tuple[StageDemand, ...] = ()
    unloads: tuple[str, ...] = ()
    """Discs that must go back to their slots (their magazine leaves)."""
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Read:
    drive: str
    volume: str
    disc: str


@dataclass(frozen=True, slots=True)
class Burn:
    volume: str
    drives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verify:
    drive: str
    disc: str


@dataclass(frozen=True, slots=True)
class StageImage:
    drive: str
    volume: str
    disc: str


@dataclass(frozen=True, slots=True)
class Unload:
    drive: str


Action = Read | Burn | Verify | StageImage | Unload


@dataclass(slots=True)
class _Board:
    """What is still free while a plan is made."""

    picture: Picture
    now_s: float
    idle: dict[str, DriveView]
    holder: dict[str, DriveView]
    wanted: set[str] = field(default_factory=set)
    actions: list[Action] = field(default_factory=list)

    def take(self, drive: str) -> bool:
        """Use an idle drive; False if it is not idle (any more)."""
        return self.idle.pop(drive, None) is not None

    def cheapest(self, without: str = "", keep: frozenset[str] = frozenset()) -> str | None:
        """An idle drive: empty first, then longest idle; none held or kept."""
        usable = [
            view
            for view in self.idle.values()
            if view.name != without and (not view.disc or self._may_unload(view, keep))
        ]
        best = min(usable, key=lambda view: (bool(view.disc), view.idle_since_s), default=None)
        return best.name if best else None

    def _may_unload(self, view: DriveView, keep: frozenset[str]) -> bool:
        held = self.now_s - view.read_at_s < self.picture.hold_s
        return view.disc not in keep and not held


def plan(picture: Picture, now_s: float) -> list[Action]:
    """Actions that may start now; each drive is in at most one of them."""
    board = _Board(
        picture=picture,
        now_s=now_s,
        idle={view.name: view for view in picture.drives if not view.busy},
        holder={view.disc: view for view in picture.drives if view.disc},
    )
    _unload(board)
    _read(board)
    _burn(board)
    _stage(board)
    _verify(board)
    return board.actions


def _unload(board: _Board) -> None:
    for disc in board.picture.unloads:
        view = board.holder.get(disc)
        if view is not None and board.take(view.name):
            board.actions.append(Unload(view.name))


def _read(board: _Board) -> None:
    order = sorted(board.picture.reads, key=lambda read: (not read.has_readers, read.since_s))
    board.wanted = {disc for demand in order for disc in demand.discs}
    for demand in [demand for demand in order if not _read_in_place(board, demand)]:
        in_slot = [disc for disc in demand.discs if disc not in board.holder]
        drive = board.cheapest() if in_slot else None
        if drive is not None:
            board.idle.pop(drive)
            board.actions.append(Read(drive, demand.volume, in_slot[0]))


def _read_in_place(board: _Board, demand: ReadDemand) -> bool:
    for disc in demand.discs:
        view = board.holder.get(disc)
        if view is not None and board.take(view.name):
            board.actions.append(Read(view.name, demand.volume, disc))
            return True
    return False


def _burn(board: _Board) -> None:
    """A burn that collects drives keeps verifies off them, so that it starts soon."""
    for demand in sorted(board.picture.burns, key=lambda burn: burn.since_s):
        enough = min(demand.copies_left, len(board.picture.drives))
        chosen: list[str] = []
        while len(chosen) < enough:
            drive = board.cheapest(keep=frozenset(board.wanted))
            if drive is None:
                break
            board.idle.pop(drive)
            chosen.append(drive)
        late = board.now_s - demand.since_s >= BURN_PATIENCE_S
        if chosen and (len(chosen) == enough or late):
            board.actions.append(Burn(demand.volume, tuple(chosen)))


def _stage(board: _Board) -> None:
    for demand in board.picture.stages:
        in_drives = [disc for disc in demand.discs if disc in board.holder]
        taken = next((disc for disc in in_drives if board.take(board.holder[disc].name)), None)
        if taken is not None:
            board.actions.append(StageImage(board.holder[taken].name, demand.volume, taken))
            continue
        in_slot = [disc for disc in demand.discs if disc not in board.holder]
        free = board.cheapest(keep=frozenset(board.wanted)) if in_slot else None
        if free is not None:
            board.idle.pop(free)
            board.actions.append(StageImage(free, demand.volume, in_slot[0]))


def _verify(board: _Board) -> None:
    alone = len(board.picture.drives) == 1
    for demand in sorted(board.picture.verifies, key=lambda verify: verify.since_s):
        anywhere = alone or board.now_s - demand.since_s >= VERIFY_PATIENCE_S
        holder = board.holder.get(demand.disc)
        if holder is None:
            avoid = "" if anywhere else demand.burned_in
            drive = board.cheapest(without=avoid, keep=frozenset(board.wanted))
            if drive is not None:
                board.idle.pop(drive)
                board.actions.append(Verify(drive, demand.disc))
        elif board.take(holder.name):
            if anywhere or holder.name != demand.burned_in:
                board.actions.append(Verify(holder.name, demand.disc))
            else:
                board.actions.append(Unload(holder.name))
