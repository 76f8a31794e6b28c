"""A discrete-event simulation of a site around the scheduler's own function.

Time moves from event to event. Drives and the robot take the times of the emulator's
realistic mode; the queue of a volume is the daemon's own. Who decides is a function
from a picture to actions: ``scheduler.plan``, or first come, first served for comparison.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from hsmfs.daemon.busyshare import BusyShare
from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.floor import BurnFloor
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.picture import (
    BURN_WORK,
    Action,
    Burn,
    BurnDemand,
    DriveView,
    Picture,
    Priority,
    Read,
    ReadDemand,
    Rules,
    StageImage,
    Unload,
    Verify,
    VerifyDemand,
    Work,
    Yield,
)
from hsmfs.daemon.recallqueue import Request, VolumeQueue, Waiter
from hsmfs.daemon.volumeheat import VolumeHeat
from hsmfs.tools.bench.sitebound import LongWork
from hsmfs.tools.bench.sitemodel import Day, Recall
from hsmfs.types import FileVersion, Inode

TICK_S: Final = 5.0
"""The dispatcher looks at least so often while something waits."""
LOOK_MAX: Final = 200
"""Requests that first come, first served looks at."""
END_MAX_S: Final = 30 * 86_400.0
Decide = Callable[[Picture, float], list[Action]]


@dataclass(slots=True)
class Served:
    """How a request fared."""

    recall: Recall
    begun_s: float
    done_s: float

    @property
    def wait_s(self) -> float:
        return self.done_s - self.recall.at_s


@dataclass(slots=True)
class Outcome:
    """What a run gave."""

    served: list[Served] = field(default_factory=list)
    loads: int = 0
    burn_loads: int = 0
    """Of these, for burns and proofs."""
    moves: int = 0
    burned: int = 0
    proved: int = 0
    yields: int = 0
    suspended: int = 0
    """Times that a proof made room for recalls."""
    plans: int = 0
    end_s: float = 0.0
    works: list[LongWork] = field(default_factory=list)
    """Burns and proofs, each with the moment from which it could have a drive."""
    claimed_s: float = 0.0
    """Drive seconds of spells with burn work that had to claim its floor."""
    burn_work_s: float = 0.0
    """Of these, what burn work had."""


@dataclass(slots=True)
class _Drive:
    view: DriveView
    position: int = 0


@dataclass(slots=True)
class _BurnWork:
    """A volume on its way to proved copies."""

    name: str
    since_s: float
    left: int


@dataclass(slots=True)
class _Proof:
    """A disc that is to be read; what was read stays proved when it makes room."""

    demand: VerifyDemand
    left_s: float
    ready_s: float
    """From when its drive time could have begun in any schedule."""
    place: int = -1
    """In ``Outcome.works``, once it began."""
    started_s: float = 0.0
    runs: int = 0


class Simulation:
    """One run; ``one_by_one`` serves each request by itself."""

    def __init__(
        self, day: Day, decide: Decide, rules: Rules, drives: int, *, one_by_one: bool = False
    ) -> None:
        self.day, self.site, self.rules = day, day.site, rules
        self.outcome = Outcome()
        self._decide, self._one_by_one = decide, one_by_one
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._now_s = 0.0
        self._robot_free_s = 0.0
        self._drives = {f"d{i:02d}": _Drive(DriveView(f"d{i:02d}", False)) for i in range(drives)}
        self._queues: dict[str, VolumeQueue] = {}
        self._demands: dict[str, ReadDemand] = {}
        self._recalls: dict[int, Recall] = {}
        self._requests: dict[str, Request] = {}
        """Waiting requests in order of arrival, where they are served one by one."""
        self._busy_volumes: set[str] = set()
        self._burns: dict[str, _BurnWork] = {}
        self._verifies: dict[str, VerifyDemand] = {}
        self._proofs: dict[str, _Proof] = {}
        self._jobs: dict[str, Job] = {}
        self._heat = VolumeHeat()
        self._floor = BurnFloor(rules.burn_floor)
        self._robot_share = BusyShare()
        self._spell_s, self._spell_work_s, self._claims = 0.0, 0.0, False

    # -- the clock ----------------------------------------------------------------

    def run(self) -> Outcome:
        """Until all work is done."""
        for recall in self.day.recalls:
            self._at(recall.at_s, lambda recall=recall: self._arrive(recall))  # type: ignore[misc]
        for number, at_s in enumerate(self.day.burns):
            self._at(at_s, lambda number=number: self._fill(number))  # type: ignore[misc]
        while (self._events or self._waits) and self._now_s < END_MAX_S:
            at_s = self._events[0][0] if self._events else END_MAX_S
            self._pass(min(at_s, self._now_s + TICK_S) if self._waits else at_s)
            while self._events and self._events[0][0] <= self._now_s:
                heapq.heappop(self._events)[2]()
            self._dispatch()
        self._end_spell()
        self.outcome.end_s = self._now_s
        return self.outcome

    @property
    def _waits(self) -> bool:
        return bool(self._queues or self._requests or self._burns or self._verifies)

    def _at(self, at_s: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (at_s, self._count, what))

    def _pass(self, at_s: float) -> None:
        """Time goes on; of a spell with burn work count what it has."""
        before_s = self._now_s - self.rules.burn_floor_wait_s
        since = [burn.since_s for burn in self._burns.values()]
        since += [verify.since_s for verify in self._verifies.values()]
        at_work = sum(drive.view.work in BURN_WORK for drive in self._drives.values())
        passed_s, self._now_s = at_s - self._now_s, at_s
        if not since and not at_work:
            self._end_spell()
            return
        self._spell_s += passed_s * len(self._drives)
        self._spell_work_s += passed_s * at_work
        self._claims |= any(since_s <= before_s for since_s in since)

    def _end_spell(self) -> None:
        if self._claims:
            self.outcome.claimed_s += self._spell_s
            self.outcome.burn_work_s += self._spell_work_s
        self._spell_s, self._spell_work_s, self._claims = 0.0, 0.0, False

    # -- what comes in ----------------------------------------------------------------

    def _arrive(self, recall: Recall) -> None:
        volume = f"v{recall.volume:04d}"
        extent = ExtentRecord(
            offset=recall.offset, size=self.site.study_bytes, xxh3_128="", sha256="",
            chunks=[], path="",
        )  # fmt: skip
        file = FileVersion(Inode(recall.number + 2), 1)
        request = Request(file, "", {volume: extent}, volume, self._now_s)
        if recall.priority is Priority.READERS:
            uid = int(recall.user.split()[1])
            request.waiters[uid] = Waiter("", uid, uid, "")
        else:
            job = self._jobs.setdefault(recall.user, Job(0, "recall", user=recall.user))
            request.jobs.append(job)
        self._recalls[recall.number] = recall
        self._heat.add(volume, self._now_s)
        if self._one_by_one:
            self._requests[f"{volume}/{recall.number}"] = request
        else:
            self._queues.setdefault(volume, VolumeQueue()).put(request)
            self._demands.pop(volume, None)

    def _fill(self, number: int) -> None:
        name = f"new{number:02d}"
        self._burns[name] = _BurnWork(name, self._now_s, self.site.copies)

    # -- the dispatcher -----------------------------------------------------------------

    def _dispatch(self) -> None:
        drives = tuple(
            replace(drive.view, heat=self._heat.of(drive.view.disc[:5]))
            for drive in self._drives.values()
        )
        burns = tuple(
            BurnDemand(burn.name, burn.left, burn.since_s) for burn in self._burns.values()
        )
        verifies = tuple(self._verifies.values())
        debt_s = self._floor.update(self._now_s, drives, burns, verifies)
        picture = Picture(
            drives, self._reads(), burns, verifies, rules=self.rules, burn_debt_s=debt_s,
            robot_share=self._robot_share.of(self._now_s),
        )  # fmt: skip
        self.outcome.plans += 1
        for action in self._decide(picture, self._now_s):
            self._start(action)

    def _reads(self) -> tuple[ReadDemand, ...]:
        if self._one_by_one:
            return tuple(
                ReadDemand(name, _copies(name.split("/")[0]), request.since_s)
                for name, request in islice(self._requests.items(), LOOK_MAX)
            )
        for volume, queue in self._queues.items():
            if volume not in self._demands and volume not in self._busy_volumes:
                self._demands[volume] = queue.demand(volume, _copies(volume), self.rules)
        return tuple(
            demand for name, demand in self._demands.items() if name not in self._busy_volumes
        )

    def _start(self, action: Action) -> None:
        match action:
            case Read(name, volume, disc):
                self._busy_volumes.add(volume)
                request = self._requests.pop(volume, None)
                self._work(name, Work.READ)
                self._load(name, disc, lambda: self._read(name, volume, request))
            case Burn(volume, names):
                work = self._burns[volume]
                for name in names:
                    disc = f"{volume}/{work.left}"
                    work.left -= 1
                    self._work(name, Work.BURN)
                    self._load(name, disc, lambda n=name, d=disc: self._burn(n, d))  # type: ignore[misc]
                if not work.left:
                    del self._burns[volume]
            case Verify(name, disc):
                del self._verifies[disc]
                self._work(name, Work.VERIFY)
                self._load(name, disc, lambda: self._verify(name, disc))
            case Unload(name):
                self._work(name, Work.OTHER)
                self._unload(name, lambda: self._idle(name))
            case Yield(name):
                self.outcome.yields += 1
                self._set(name, yields=True)
                if self._drives[name].view.work is Work.VERIFY:
                    self._suspend(name, self._drives[name].view.disc)
            case StageImage():
                raise AssertionError("no images are wanted here")

    # -- drives ---------------------------------------------------------------------------

    def _set(self, name: str, **changes: object) -> None:
        drive = self._drives[name]
        drive.view = replace(drive.view, **changes)  # type: ignore[arg-type]

    def _work(self, name: str, work: Work) -> None:
        self._set(name, busy=True, work=work, since_s=self._now_s, yields=False)

    def _idle(self, name: str) -> None:
        self._set(name, busy=False, work=Work.NONE, idle_since_s=self._now_s)

    def _move(self, then: Callable[[], None]) -> None:
        """The one robot, in order of asking."""
        self._robot_free_s = max(self._robot_free_s, self._now_s) + self.site.timing.move_s
        self.outcome.moves += 1

        def moved() -> None:
            self._robot_share.add(self.site.timing.move_s, self._now_s)
            then()

        self._at(self._robot_free_s, moved)

    def _unload(self, name: str, then: Callable[[], None]) -> None:
        def gone() -> None:
            self._set(name, disc="")
            then()

        self._move(gone)

    def _load(self, name: str, disc: str, then: Callable[[], None]) -> None:
        view = self._drives[name].view
        if view.disc == disc:
            then()
            return
        if view.disc:
            self._set(name, moving=True)
            self._unload(name, lambda: self._load(name, disc, then))
            return
        self._set(name, disc=disc, moving=True)
        self.outcome.loads += 1
        self.outcome.burn_loads += view.work in BURN_WORK
        self._drives[name].position = 0

        def arrived() -> None:
            self._set(name, moving=False)
            self._at(self._now_s + self.site.timing.load_s, then)

        self._move(arrived)

    def _read(self, name: str, volume: str, only: Request | None) -> None:
        """Serve the next request, or end."""
        request = only if self._one_by_one else self._next(name, volume)
        if request is None:
            self._busy_volumes.discard(volume)
            self._set(name, read_at_s=self._now_s)
            self._idle(name)
            return
        self._set(name, priority=request.priority)
        drive, timing = self._drives[name], self.site.timing
        seek_s = 0.0 if request.extent.offset == drive.position else timing.seek_s
        drive.position = request.extent.offset + request.extent.size
        begun_s = self._now_s
        recall = self._recalls[int(request.file.ino) - 2]

        def done() -> None:
            self.outcome.served.append(Served(recall, begun_s, self._now_s))
            self._one_by_one_end(name, volume) if only else self._read(name, volume, None)

        self._at(self._now_s + seek_s + request.extent.size / timing.read_bytes_s, done)

    def _one_by_one_end(self, name: str, volume: str) -> None:
        self._busy_volumes.discard(volume)
        self._idle(name)

    def _next(self, name: str, volume: str) -> Request | None:
        drive = self._drives[name]
        queue = self._queues.get(volume)
        if queue is None or drive.view.yields:
            return None
        request = queue.after(drive.position, drive.view.disc)
        assert request is not None
        queue.drop(request)
        self._demands.pop(volume, None)
        if not len(queue):
            del self._queues[volume]
        return request

    def _burn(self, name: str, disc: str) -> None:
        site = self.site
        ready_s = self.day.burns[int(disc[3:5])]
        hold_s = site.pre_s + site.burn_s + site.post_s
        self.outcome.works.append(LongWork(ready_s, self._now_s - site.pre_s, hold_s))

        def done() -> None:
            self.outcome.burned += 1
            demand = VerifyDemand(disc, name, self._now_s)
            self._proofs[disc] = _Proof(demand, site.verify_s, ready_s + hold_s)
            self._verifies[disc] = demand
            self._idle(name)

        self._at(self._now_s + site.burn_s, lambda: self._unload(name, done))

    def _verify(self, name: str, disc: str) -> None:
        proof, site = self._proofs[disc], self.site
        if proof.place < 0:
            proof.place = len(self.outcome.works)
            hold_s = site.pre_s + site.verify_s + site.post_s
            self.outcome.works.append(LongWork(proof.ready_s, self._now_s - site.pre_s, hold_s))
        proof.started_s = self._now_s
        proof.runs = run = proof.runs + 1

        def done() -> None:
            if proof.runs == run:
                self.outcome.proved += 1
                self._idle(name)

        self._at(self._now_s + proof.left_s, done)

    def _suspend(self, name: str, disc: str) -> None:
        """Its drive time is in pieces now: for the bound it is a load alone."""
        proof = self._proofs[disc]
        proof.left_s -= self._now_s - proof.started_s
        proof.runs += 1
        self.outcome.suspended += 1
        work = self.outcome.works[proof.place]
        self.outcome.works[proof.place] = work._replace(hold_s=0.0)
        self._verifies[disc] = proof.demand
        self._idle(name)


def _copies(volume: str) -> tuple[str, ...]:
    return (f"{volume}a", f"{volume}b")


def first_come(picture: Picture, now_s: float) -> list[Action]:
    """First come, first served: each request by itself, in the order of arrival.

    To be fair to it: a disc that lies in an idle drive is read there without a move, requests
    whose disc is in use are passed over, and the drive that is empty or idle for longest is used.
    """
    idle = {view.name: view for view in picture.drives if not view.busy}
    holder = {view.disc: view for view in picture.drives if view.disc}
    actions: list[Action] = []
    demands: list[ReadDemand | BurnDemand | VerifyDemand] = [
        *picture.reads, *picture.burns, *picture.verifies
    ]  # fmt: skip
    for demand in sorted(demands, key=lambda demand: demand.since_s):
        if not idle:
            break
        order = sorted(idle.values(), key=lambda view: (bool(view.disc), view.idle_since_s))
        if isinstance(demand, BurnDemand):
            names = tuple(view.name for view in order[: demand.copies_left])
            actions.append(Burn(demand.volume, names))
        else:
            discs = demand.discs if isinstance(demand, ReadDemand) else (demand.disc,)
            inside = [holder[disc] for disc in discs if disc in holder]
            free = [view for view in inside if view.name in idle] or ([] if inside else order)
            if not free:
                continue
            names = (free[0].name,)
            disc = free[0].disc if inside else discs[0]
            holder[disc] = free[0]
            is_read = isinstance(demand, ReadDemand)
            actions.append(
                Read(names[0], demand.volume, disc) if is_read else Verify(names[0], disc)  # type: ignore[union-attr]
            )
        for name in names:
            idle.pop(name)
    return actions
