"""Which disc a person should put into which drive: a pure function around the scheduler.

1. What lies in a drive is used first: reads, proofs, and a blank for a burn.
2. The scheduler is asked about all other drives and demands; where it would load
   a disc, a person is asked for it. A demand with a disc in some drive waits for that.
3. An ask that was made stays as long as it makes sense and nothing of a better
   class needs the drive: a person may be on the way.
4. Discs that should leave anyhow are asked out of drives that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final

from hsmfs.daemon.picture import (
    Action,
    Burn,
    BurnDemand,
    DriveView,
    Picture,
    Priority,
    Read,
    StageImage,
    Unload,
    Verify,
    Work,
    Yield,
)
from hsmfs.daemon.scheduler import plan

SET_PATIENCE_S: Final = 600.0
"""A burn that waited for so long begins with the blanks that are in."""


class Rank(IntEnum):
    """What an ask is for; lower goes first."""

    READERS = 0
    BULK = 1
    BACKGROUND = 2
    PROOF = 3
    BURN = 4
    SCRUB = 5
    NOTHING = 6
    """A disc should only come out."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What should be in a drive."""

    drive: str
    rank: Rank = Rank.NOTHING
    put: str = ""
    """A disc; empty with ``blank_sectors`` 0: what is in should come out."""
    blank_sectors: int = 0
    """A blank disc of so many sectors at least."""
    volume: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Equal for asks of which one is enough."""
        return self.put, "" if self.put else self.volume


@dataclass(frozen=True, slots=True)
class Desk:
    """What a plan must know besides the picture."""

    blanks: Mapping[str, int]
    """Sectors of the blank disc in a drive."""
    needed: Callable[[str], int]
    """Sectors that a disc for this volume must have."""
    leaving: frozenset[str] = frozenset()
    """Drives whose content should come out when nothing needs it."""
    loading: frozenset[str] = frozenset()
    """Drives that are about to be known: nothing new is asked for there."""
    before: Mapping[str, Ask] = field(default_factory=dict)
    """What was asked for so far, by drive."""


def plan_by_hand(picture: Picture, desk: Desk, now_s: float) -> tuple[list[Action], dict[str, Ask]]:
    """Actions that need nobody, and what to ask for."""
    actions = _in_place(picture, now_s)
    used = {drive for action in actions for drive in _drives(action)}
    burns = _burns_in_place(picture, desk, used, now_s)
    actions += burns
    used |= {drive for action in burns for drive in action.drives}
    rest = _rest(picture, actions, used)
    far = [action for action in plan(rest, now_s) if not _is_patient(action, picture)]
    actions += [action for action in far if isinstance(action, Yield)]
    asks = _asked(far, picture, desk)
    free = {view.name for view in picture.drives if not view.busy} - used
    return actions, _settled(asks, picture, desk, free)


def _drives(action: Action) -> tuple[str, ...]:
    return action.drives if isinstance(action, Burn) else (action.drive,)


# -- without a person ---------------------------------------------------------------


def _inside(picture: Picture) -> set[str]:
    return {view.disc for view in picture.drives if view.disc}


def _in_place(picture: Picture, now_s: float) -> list[Action]:
    """What the discs in the drives are wanted for."""
    inside = _inside(picture)
    near = replace(
        picture,
        reads=tuple(
            replace(one, discs=tuple(disc for disc in one.discs if disc in inside))
            for one in picture.reads
            if not inside.isdisjoint(one.discs)
        ),
        burns=(),
        verifies=tuple(
            replace(one, burned_in="") for one in picture.verifies if one.disc in inside
        ),
        stages=tuple(one for one in picture.stages if not inside.isdisjoint(one.discs)),
        unloads=(),
        burn_debt_s=0.0,
        rules=replace(picture.rules, reserved=0.0),
    )
    return [action for action in plan(near, now_s) if not isinstance(action, Yield | Unload)]


def _burns_in_place(picture: Picture, desk: Desk, used: set[str], now_s: float) -> list[Burn]:
    """Burns whose blanks lie in drives: all that the burn can get at once, or those that are
    there when it waited for long."""
    free = [view.name for view in picture.drives if not view.busy and view.name not in used]
    burns = []
    for demand in sorted(picture.burns, key=lambda one: one.since_s):
        fitting = [name for name in free if desk.blanks.get(name, 0) >= desk.needed(demand.volume)]
        chosen = fitting[: demand.copies_left]
        enough = min(demand.copies_left, len(free))
        late = now_s - demand.since_s >= SET_PATIENCE_S
        if chosen and (len(chosen) >= enough or late):
            burns.append(Burn(demand.volume, tuple(chosen)))
            free = [name for name in free if name not in chosen]
    return burns


# -- with a person ------------------------------------------------------------------------


def _rest(picture: Picture, actions: Iterable[Action], used: set[str]) -> Picture:
    """What is left to be decided: drives in use are busy, demands that are served are gone."""
    inside = _inside(picture)
    burning = {action.volume for action in actions if isinstance(action, Burn)}
    return replace(
        picture,
        drives=tuple(_as_free(view, view.name in used) for view in picture.drives),
        reads=tuple(one for one in picture.reads if inside.isdisjoint(one.discs)),
        burns=tuple(one for one in picture.burns if one.volume not in burning),
        verifies=tuple(
            replace(one, burned_in="") for one in picture.verifies if one.disc not in inside
        ),
        stages=tuple(one for one in picture.stages if inside.isdisjoint(one.discs)),
        unloads=(),
        burn_debt_s=0.0,
        rules=replace(picture.rules, hold_s=0.0, loads_ahead=len(picture.drives)),
    )


def _as_free(view: DriveView, used: bool) -> DriveView:
    return replace(view, busy=True, work=Work.OTHER) if used and not view.busy else view


def _is_patient(action: Action, picture: Picture) -> bool:
    """Nothing but a scrub is broken off for a disc that somebody has to bring first."""
    if not isinstance(action, Yield):
        return False
    views = {view.name: view for view in picture.drives}
    return views[action.drive].work is not Work.SCRUB


def _asked(far: Iterable[Action], picture: Picture, desk: Desk) -> dict[str, Ask]:
    priorities = {one.volume: one.priority for one in picture.reads}
    scrubs = {one.disc for one in picture.verifies if one.is_scrub}
    asks: dict[str, Ask] = {}
    for action in far:
        match action:
            case Read(drive, volume, disc):
                rank = Rank(int(priorities.get(volume, Priority.BULK)))
                asks[drive] = Ask(drive, rank, disc, volume=volume)
            case Verify(drive, disc):
                asks[drive] = Ask(drive, Rank.SCRUB if disc in scrubs else Rank.PROOF, disc)
            case StageImage(drive, volume, disc):
                asks[drive] = Ask(drive, Rank.PROOF, disc, volume=volume)
            case Burn(volume, drives):
                sectors = desk.needed(volume)
                for drive in drives:
                    if desk.blanks.get(drive, 0) < sectors:
                        asks[drive] = Ask(drive, Rank.BURN, "", sectors, volume)
    return asks


def _settled(asks: dict[str, Ask], picture: Picture, desk: Desk, free: set[str]) -> dict[str, Ask]:
    """What was asked for before stays where it may; then the new asks; then what should leave."""
    settled: dict[str, Ask] = {}
    for drive, old in desk.before.items():
        new = asks.get(drive)
        stays = new is None or new.rank >= old.rank
        here = 0 < old.blank_sectors <= desk.blanks.get(drive, 0)
        wanted = not here and _still_wanted(old, picture)
        if drive in free | desk.loading and stays and wanted:
            settled[drive] = old
    copies = {one.volume: one.copies_left for one in picture.burns}
    for drive, ask in asks.items():
        if drive in free and drive not in settled and _adds(ask, settled, copies):
            settled[drive] = ask
    for drive in sorted((free & desk.leaving) - settled.keys()):
        settled[drive] = Ask(drive)
    return settled


def _adds(ask: Ask, settled: Mapping[str, Ask], wanted: Mapping[str, int]) -> bool:
    """Whether no other drive is asked the same already, or more blanks than copies."""
    same = sum(other.key == ask.key for other in settled.values())
    return same < (1 if ask.put else wanted.get(ask.volume, 0))


def _still_wanted(old: Ask, picture: Picture) -> bool:
    if old.put in _inside(picture):
        return False
    match old.rank:
        case Rank.READERS | Rank.BULK | Rank.BACKGROUND:
            return any(
                one.volume == old.volume
                and old.put in one.discs
                and _inside(picture).isdisjoint(one.discs)
                and int(one.priority) == old.rank
                for one in picture.reads
            )
        case Rank.BURN:
            return any(_lacks(one, old) for one in picture.burns)
        case Rank.PROOF | Rank.SCRUB:
            return any(one.disc == old.put for one in picture.verifies) or any(
                old.put in one.discs for one in picture.stages
            )
    return False


def _lacks(demand: BurnDemand, old: Ask) -> bool:
    return demand.volume == old.volume
