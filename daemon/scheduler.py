"""Which drive does what next: a pure function from a picture to actions.

The order in which drives are given away:

1. discs that leave are unloaded;
2. burn work that is behind its floor (``Rules.burn_floor``) takes the next drives;
3. recalls, in the order of ``_rank``: those that waited for half of their
   bound first, by deadline; then readers, bulk, background; within a class by
   the waiting time of all requests of the disc, each user's requests weighing
   one together. In each of these groups discs in idle drives are read there first; any other
   goes to the drive that costs least (``_cost``), and a drive
   that just served a disc keeps it for ``hold_s``, but not from urgent ones;
4. burns, images for fresh copies, proofs, each a drive if more than the
   reserve of recalls is left; scrubs when nobody waits for a drive;
5. where recalls still wait, drives that read for a lower class, or for long, are told to
   come to an end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from hsmfs.daemon.picture import (
    BURN_WORK,
    ENDLESS,
    LONG_WORK,
    Action,
    Burn,
    BurnDemand,
    DriveView,
    Picture,
    Priority,
    Read,
    ReadDemand,
    Rules,
    Share,
    StageDemand,
    StageImage,
    Unload,
    Verify,
    VerifyDemand,
    Work,
    Yield,
)

__all__ = [
    "Action", "Burn", "BurnDemand", "DriveView", "Picture", "Priority", "Read", "ReadDemand",
    "Rules", "Share", "StageDemand", "StageImage", "Unload", "Verify", "VerifyDemand", "Work",
    "Yield", "plan",
]  # fmt: skip
BURN_PATIENCE_S: Final = 120.0
VERIFY_PATIENCE_S: Final = 120.0
RECALL_DRIVES: Final = 2
"""So many keep one robot busy: a load is 10 s of its time and 20 s of a drive's."""

URGENT: Final = -1
Rank = tuple[int, float, float, str]


@dataclass(slots=True)
class _Board:
    """What is still free while a plan is made."""

    picture: Picture
    now_s: float
    idle: dict[str, DriveView]
    holder: dict[str, DriveView]
    long_left: int
    """Drives that long work may still take."""
    burns_left: int
    """Of these, drives that burns may take."""
    loads_left: int
    """Recalls that may still ask for the robot."""
    used: set[str] = field(default_factory=set)
    """Discs that an action of this plan has."""
    wanted: set[str] = field(default_factory=set)
    waiting: list[ReadDemand] = field(default_factory=list)
    """Recalls that got no drive, in order."""
    actions: list[Action] = field(default_factory=list)

    def take(self, drive: str, disc: str = "") -> bool:
        """Use an idle drive, and a disc that no other action has; False if that is not so."""
        if disc and disc in self.used:
            return False
        if self.idle.pop(drive, None) is None:
            return False
        self.used.add(disc)
        return True

    def cheapest(
        self, without: str = "", keep: Container[str] = (), urgent: bool = False
    ) -> str | None:
        """An idle drive: empty first, then longest idle; none held or kept."""
        usable = [
            view
            for view in self.idle.values()
            if view.name != without and (not view.disc or self._may_unload(view, keep, urgent))
        ]
        return min(usable, key=_cost).name if usable else None

    def _may_unload(self, view: DriveView, keep: Container[str], urgent: bool) -> bool:
        held = self.now_s - view.read_at_s < self.picture.rules.hold_s
        return view.disc not in keep and (urgent or view.yields or not held)

    def in_slots(self, discs: Iterable[str]) -> list[str]:
        return [disc for disc in discs if disc not in self.holder and disc not in self.used]


def _cost(view: DriveView) -> tuple[bool, bool, float, float, str]:
    """Healthy and empty first, then what is wanted least often, then idle for longest."""
    return (view.is_doubtful, bool(view.disc), view.heat, view.idle_since_s, view.name)


def plan(picture: Picture, now_s: float) -> list[Action]:
    """Actions that may start now; each drive and each disc is in at most one of them."""
    idle = {view.name: view for view in picture.drives if not view.busy}
    if not idle and not (picture.reads and _any_may_yield(picture, now_s)):
        return []
    long_now = sum(view.busy and view.work in LONG_WORK for view in picture.drives)
    alive = len(picture.drives)
    board = _Board(
        picture=picture,
        now_s=now_s,
        idle=idle,
        holder={view.disc: view for view in picture.drives if view.disc},
        loads_left=picture.rules.loads_ahead,
        long_left=max(0, alive - int(alive * picture.rules.reserved) - long_now),
        burns_left=_burns_left(picture),
    )
    board.loads_left -= sum(view.moving for view in picture.drives)
    board.wanted = {disc for demand in picture.reads for disc in demand.discs}
    groups = _order(picture, _servable(board), now_s)
    if idle:
        _unload(board)
        _owed(board)
        for group, demands in groups:
            _read(board, demands, group == URGENT)
        _leave_drives(board)
        _burn(board, picture.burns)
        _stage(board)
        _verify(board, [demand for demand in picture.verifies if not demand.is_scrub])
        if not board.waiting:
            _verify(board, [demand for demand in picture.verifies if demand.is_scrub])
    else:
        board.waiting = [demand for _, demands in groups for demand in demands]
    _yield(board)
    return board.actions


def _burns_left(picture: Picture) -> int:
    """Drives that burns may hold until their end: while recalls come, one is left to those."""
    held = sum(view.busy and view.work in ENDLESS for view in picture.drives)
    is_quiet = picture.robot_share < picture.rules.quiet_below
    return max(0, len(picture.drives) - held - (not is_quiet))


# -- the order of recalls -----------------------------------------------------------


def _servable(board: _Board) -> Sequence[ReadDemand]:
    """While the robot has enough to do, those in idle drives alone: the rest need no order yet."""
    reads = board.picture.reads
    if board.loads_left > 0 or not board.idle:
        return reads
    inside = {view.disc for view in board.idle.values()}
    chosen = [demand for demand in reads if not inside.isdisjoint(demand.discs)]
    board.waiting = [demand for demand in reads if inside.isdisjoint(demand.discs)]
    return chosen


def _order(
    picture: Picture, reads: Sequence[ReadDemand], now_s: float
) -> list[tuple[int, list[ReadDemand]]]:
    """Groups of demands, each in order: urgent ones by deadline, then class by class."""
    files: defaultdict[str, int] = defaultdict(int)
    for demand in picture.reads:
        for share in demand.shares:
            files[share.user] += share.files
    ranked = [(_rank(demand, files, picture.rules, now_s), demand) for demand in reads]
    ranked.sort(key=lambda pair: pair[0])
    return [
        (group, [demand for _, demand in pairs])
        for group, pairs in groupby(ranked, key=lambda pair: pair[0][0])
    ]


def _rank(demand: ReadDemand, files: dict[str, int], rules: Rules, now_s: float) -> Rank:
    urgent_s = urgent_from_s(demand, rules)
    if now_s >= urgent_s:
        return (URGENT, urgent_s, demand.since_s, demand.volume)
    is_equal = demand.priority == Priority.BULK and now_s >= demand.since_s + rules.equal_s
    from_s = now_s - rules.equal_s if is_equal else now_s
    waited = sum(
        (share.files * from_s - share.since_sum_s) / files[share.user] for share in demand.shares
    )
    if not demand.shares:
        waited = from_s - demand.since_s
    group = Priority.READERS if is_equal else demand.priority
    return (int(group), -waited, demand.since_s, demand.volume)


def urgent_from_s(demand: ReadDemand, rules: Rules) -> float:
    """When a demand goes before all that are not urgent."""
    return min(demand.urgent_s, demand.since_s + rules.patience_s(demand.priority))


# -- who gets a drive ---------------------------------------------------------------


def _unload(board: _Board) -> None:
    for disc in board.picture.unloads:
        view = board.holder.get(disc)
        if view is not None and board.take(view.name, disc):
            board.actions.append(Unload(view.name))


def _owed(board: _Board) -> None:
    """Burn work behind its floor goes before recalls, up to the floor's drives."""
    picture, rules = board.picture, board.picture.rules
    if picture.burn_debt_s <= 0:
        return
    at_work = sum(view.busy and view.work in BURN_WORK for view in picture.drives)
    drives = math.ceil(rules.burn_floor * len(picture.drives)) - at_work
    before_s = board.now_s - rules.burn_floor_wait_s
    for verify in [v for v in picture.verifies if not v.is_scrub and v.since_s <= before_s]:
        if drives > 0 and _verify(board, [verify]):
            drives -= 1
    burns_left, board.burns_left = board.burns_left, len(picture.drives)
    for burn in [burn for burn in picture.burns if burn.since_s <= before_s]:
        if drives > 0:
            drives -= _burn(board, [burn])
    board.burns_left = burns_left


def _read(board: _Board, demands: list[ReadDemand], urgent: bool) -> None:
    for demand in [demand for demand in demands if not _read_in_place(board, demand)]:
        if not urgent and _gathers(board.picture, demand, board.now_s):
            continue
        in_slot = board.in_slots(demand.discs) if board.idle and board.loads_left > 0 else []
        drive = _drive_to_load(board, urgent) if in_slot else None
        if drive is not None and not urgent and _better_soon(board, drive, demand):
            drive = None
        if drive is not None and board.take(drive, in_slot[0]):
            board.loads_left -= 1
            board.actions.append(Read(drive, demand.volume, in_slot[0]))
        else:
            board.waiting.append(demand)


def _gathers(picture: Picture, demand: ReadDemand, now_s: float) -> bool:
    """Whether it waits for others of its disc: nobody sits before it, and the robot is short."""
    return (
        demand.priority == Priority.BULK
        and picture.robot_share >= picture.rules.gather_from
        and now_s - demand.since_s < picture.rules.gather_s
    )


def _better_soon(board: _Board, drive: str, demand: ReadDemand) -> bool:
    """Whether a drive that reads a disc wanted far less than this one's is free in a moment."""
    rules, view = board.picture.rules, board.idle[drive]
    if not view.disc or board.now_s - demand.since_s >= rules.spare_s:
        return False
    return any(
        other.work is Work.READ and other.disc and other.heat * rules.spare_factor < view.heat
        for other in board.picture.drives
        if other.busy
    )


def _drive_to_load(board: _Board, urgent: bool) -> str | None:
    """One whose disc others want only if there is no other."""
    found = board.cheapest(keep=board.wanted, urgent=urgent)
    return board.cheapest(urgent=urgent) if found is None else found


def _read_in_place(board: _Board, demand: ReadDemand) -> bool:
    for disc in demand.discs:
        view = board.holder.get(disc)
        if view is not None and board.take(view.name, disc):
            board.actions.append(Read(view.name, demand.volume, disc))
            return True
    return False


def _leave_drives(board: _Board) -> None:
    """While readers wait, beyond the floor no long work begins in the last ``RECALL_DRIVES``."""
    if any(demand.priority == Priority.READERS for demand in board.waiting):
        views = board.picture.drives
        long_now = sum(view.busy and view.work in LONG_WORK for view in views)
        board.long_left = min(board.long_left, max(0, len(views) - long_now - RECALL_DRIVES))


def _burn(board: _Board, demands: Iterable[BurnDemand]) -> int:
    """Drives taken. A burn that collects drives keeps verifies off them, so that it starts soon."""
    planned = {action.volume for action in board.actions if isinstance(action, Burn)}
    taken = 0
    for demand in sorted(demands, key=lambda burn: burn.since_s):
        enough = min(
            demand.copies_left, len(board.picture.drives), board.long_left, board.burns_left
        )
        if enough <= 0 or demand.volume in planned:
            continue
        chosen: list[str] = []
        while len(chosen) < enough:
            drive = board.cheapest(keep=board.wanted)
            if drive is None or not board.take(drive):
                break
            chosen.append(drive)
        late = board.now_s - demand.since_s >= BURN_PATIENCE_S
        board.long_left -= len(chosen)
        board.burns_left -= len(chosen)
        taken += len(chosen)
        if chosen and (len(chosen) == enough or late):
            planned.add(demand.volume)
            board.actions.append(Burn(demand.volume, tuple(chosen)))
    return taken


def _stage(board: _Board) -> None:
    for demand in board.picture.stages:
        if board.long_left <= 0:
            return
        found = _stage_place(board, demand)
        if found is not None:
            board.long_left -= 1
            board.actions.append(StageImage(found[0], demand.volume, found[1]))


def _stage_place(board: _Board, demand: StageDemand) -> tuple[str, str] | None:
    """A disc in a drive if there is one, else one in a slot."""
    for disc in demand.discs:
        view = board.holder.get(disc)
        if view is not None and board.take(view.name, disc):
            return view.name, disc
    in_slot = board.in_slots(demand.discs)
    drive = board.cheapest(keep=board.wanted) if in_slot else None
    if drive is not None and board.take(drive, in_slot[0]):
        return drive, in_slot[0]
    return None


def _verify(board: _Board, demands: Iterable[VerifyDemand]) -> int:
    """Proofs begun; a disc in the drive that burned it goes to another one."""
    alone = len(board.picture.drives) == 1
    begun = 0
    for demand in sorted(demands, key=lambda verify: verify.since_s):
        if board.long_left <= 0 or not board.idle:
            break
        if demand.disc in board.used:
            continue
        anywhere = alone or board.now_s - demand.since_s >= VERIFY_PATIENCE_S
        begun += _verify_one(board, demand, anywhere)
    return begun


def _verify_one(board: _Board, demand: VerifyDemand, anywhere: bool) -> bool:
    holder = board.holder.get(demand.disc)
    if holder is not None and not anywhere and holder.name == demand.burned_in:
        if board.take(holder.name, demand.disc):
            board.actions.append(Unload(holder.name))
        return False
    avoid = "" if anywhere else demand.burned_in
    drive = holder.name if holder else board.cheapest(without=avoid, keep=board.wanted)
    if drive is None or not board.take(drive, demand.disc):
        return False
    board.long_left -= 1
    board.actions.append(Verify(drive, demand.disc))
    return True


# -- who makes room -------------------------------------------------------------------


def _yield(board: _Board) -> None:
    """As many drives as recalls wait for discs in slots; those at it for longest first."""
    waiting = [demand for demand in board.waiting if board.in_slots(demand.discs)]
    if not waiting or board.idle:
        return
    picture, now_s = board.picture, board.now_s
    coming = sum(view.yields for view in picture.drives)
    able = [view for view in picture.drives if _may_yield(view, picture, now_s)]
    able.sort(key=lambda view: (-_yield_class(view), view.since_s, view.name))
    for demand in waiting[coming : len(picture.drives)]:
        chosen = next((view for view in able if _should_yield(view, demand, board)), None)
        if chosen is None:
            return
        able.remove(chosen)
        board.actions.append(Yield(chosen.name))


def _yield_class(view: DriveView) -> int:
    """Scrubs first, then reading for the background, proofs, reading by hand and for readers."""
    if view.work is Work.SCRUB:
        return 2 * len(Priority)
    return 2 * Priority.BULK + 1 if view.work is Work.VERIFY else 2 * int(view.priority)


def _any_may_yield(picture: Picture, now_s: float) -> bool:
    return any(_may_yield(view, picture, now_s) for view in picture.drives)


def _may_yield(view: DriveView, picture: Picture, now_s: float) -> bool:
    """Scrubs at once, reading after its turn, proofs after theirs where the floor is kept."""
    if not view.busy or view.yields or view.moving:
        return False
    if view.work is Work.SCRUB:
        return True
    had_turn = now_s - view.since_s >= picture.rules.turn_s
    is_owed = view.work is Work.VERIFY and picture.burn_debt_s > 0
    return had_turn and not is_owed and view.work in (Work.READ, Work.VERIFY)


def _should_yield(view: DriveView, demand: ReadDemand, board: _Board) -> bool:
    rules, now_s = board.picture.rules, board.now_s
    if view.work is Work.SCRUB or now_s >= urgent_from_s(demand, rules):
        return True
    if view.work is Work.VERIFY:
        reads = any(other.busy and other.work is Work.READ for other in board.picture.drives)
        patient = reads and now_s - demand.since_s < rules.spare_s
        return demand.priority == Priority.READERS and not patient
    return view.priority > demand.priority
