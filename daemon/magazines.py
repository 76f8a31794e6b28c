"""Magazines in and out of the library, and the operator tasks about them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol

import structlog
import trio

from hsmfs.daemon.catalogrecords import DiscState, MagazineRecord, MagazineState, TaskRecord
from hsmfs.daemon.core import Core
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.magazinebelief import LEFT_UNASKED
from hsmfs.daemon.recaller import Recaller
from hsmfs.daemon.taskcheck import BLANKS, FILL, TAKE_OUT, problem_of
from hsmfs.errors import CallerError, HsmError

log = structlog.get_logger(__name__)
WATCH_S: Final = 0.5
WORDS_CHARACTERS_MAX: Final = 200
GONE_S: Final = 60.0
"""So long a disc of a magazine that is inside may be nowhere before it is told."""
PERSON_WAIT_S: Final = 86_400.0
"""How long an export or import waits for the person to act."""
SPANS_TOLD_MAX: Final = 8


def check_words(key: str, text: str) -> None:
    """CallerError for what cannot be shown in a line."""
    if not text.isprintable() or len(text) > WORDS_CHARACTERS_MAX:
        raise CallerError(
            f"{key}: found {text!r}, expected at most {WORDS_CHARACTERS_MAX} characters that can "
            "be printed"
        )


class Hands(Protocol):
    """Somebody who carries magazines; an emulated library has one built in."""

    async def take_out(self, magazine: MagazineRecord, index: int) -> None:
        """Take the magazine at this span of slots out of the library."""

    async def put_in(self, magazine: MagazineRecord) -> None:
        """Put the magazine back into free slots."""


class Magazines:
    """Owner of operator tasks; asks people, and sees by inventory what they did."""

    def __init__(self, core: Core, recaller: Recaller, hands: Hands | None) -> None:
        self.core = core
        self.recaller = recaller
        self._hands = hands
        self._gone_since_s: dict[str, float] = {}
        """Discs that should be inside and are nowhere."""
        self.confirm: Callable[[TaskRecord], Awaitable[None]] | None = None
        """Looks whether a task at a drive of a manual library was done."""

    def get(self, name: str) -> MagazineRecord:
        """CallerError for an unknown name."""
        try:
            return self.core.catalog.magazines[name]
        except KeyError:
            known = ", ".join(sorted(self.core.catalog.magazines)) or "none"
            raise CallerError(f"magazine {name!r} is not known; known: {known}") from None

    # -- out -------------------------------------------------------------------

    @asynccontextmanager
    async def leaving(self, name: str, job: Job) -> AsyncIterator[MagazineRecord]:
        """Its discs are brought home and used no more, and the library is unlocked. After a
        restart meanwhile it still counts as to be taken out."""
        magazine = self.get(name)
        if not magazine.is_seen:
            raise CallerError(f"magazine {name} is not in the library: it is {magazine.state}")
        job.add(1, 0)
        magazine.exporting = True
        await self.core.catalog.save(magazine)
        self.core.wake()
        try:
            await self._discs_home(name)
            await self.core.librarian.robot.allow_removal()
            yield magazine
        except trio.Cancelled:
            raise  # hsmd ends; the person may be on the way
        except BaseException:
            await self._stays(magazine)
            raise
        await self._stays(magazine)
        job.note = ""
        job.done(0)

    async def _stays(self, magazine: MagazineRecord) -> None:
        """Nobody is asked to take it out any more."""
        magazine.exporting = False
        await self.core.catalog.save(magazine)
        for task in self.open_tasks():
            if task.kind == TAKE_OUT and task.magazine == magazine.name:
                await self.finish(task)
        self.core.wake()

    async def stay(self, name: str) -> MagazineRecord:
        """It is not to be taken out after all."""
        magazine = self.get(name)
        if not magazine.exporting:
            raise CallerError(f"magazine {name} is not to be taken out")
        await self._stays(magazine)
        return magazine

    async def export(self, name: str, job: Job) -> None:
        """Bring its discs home, unlock, have it taken out, see it gone."""
        async with self.leaving(name, job) as magazine:
            text = f"Take magazine {name} out of library {magazine.library}."
            where = f"{self.slots_in_words(magazine)}; it goes to the {magazine.outside}"
            why = "hsm magazine export was said"
            task = self.open_task(TAKE_OUT, name)
            if task is None:
                task = await self.add_task(TAKE_OUT, text, name, where, why)
            if self._hands is not None:
                await self._hands.take_out(magazine, self._index(magazine))
            await self._until(lambda: not magazine.is_seen, task, job)
            await self.finish(task)

    def _index(self, magazine: MagazineRecord) -> int:
        return self.core.librarian.span_index(magazine.first_slot)

    async def _discs_home(self, name: str) -> None:
        while any(
            self.core.catalog.discs[unit.disc].magazine == name
            for unit in self.core.librarian.units
            if unit.alive and unit.disc in self.core.catalog.discs
        ):
            self.core.wake()
            await trio.sleep(WATCH_S / 5)

    def leaving_discs(self) -> tuple[str, ...]:
        """Discs in drives whose magazine is about to leave."""
        return tuple(
            unit.disc
            for unit in self.core.librarian.units
            if unit.disc in self.core.catalog.discs
            and (magazine := self._of_disc(unit.disc)) is not None
            and magazine.exporting
        )

    def _of_disc(self, barcode: str) -> MagazineRecord | None:
        """None where the disc was never seen in a slot (after a rebuild)."""
        return self.core.catalog.magazines.get(self.core.catalog.discs[barcode].magazine)

    # -- in --------------------------------------------------------------------------

    async def bring_in(self, name: str, job: Job) -> None:
        """Have it put in and see it there."""
        magazine = self.get(name)
        if magazine.present:
            raise CallerError(f"magazine {name} is in library {magazine.library} already")
        job.add(1, 0)
        text = f"Put magazine {name} into free slots of library {magazine.library}."
        why = "hsm magazine import was said"
        task = self.open_task("bring", name)
        if task is None:
            task = await self.add_task("bring", text, name, self._way_in(magazine), why)
        if self._hands is not None:
            await self._hands.put_in(magazine)
            await self.core.catalog.save(magazine)
        await self._until(lambda: magazine.present, task, job)
        await self.finish(task)
        self.core.wake()
        job.done(0)

    async def _until(self, seen: Callable[[], bool], task: TaskRecord, job: Job) -> None:
        with trio.move_on_after(PERSON_WAIT_S):
            while not seen():
                await self.core.librarian.refresh()
                if seen():
                    job.note = ""
                    return
                if task.done_ns:
                    raise CallerError(f"magazine {task.magazine} stays: hsm magazine stay was said")
                job.note = task.problem or f"{task.text} {task.place}"
                await trio.sleep(WATCH_S)
            return
        raise CallerError("nobody moved the magazine within a day; ask again when it is moved")

    def slots_in_words(self, magazine: MagazineRecord) -> str:
        """Where it stands in the library."""
        if not self.core.librarian.slots:
            return f"box {magazine.name}"
        last = magazine.first_slot + self.core.librarian.config.magazine_slots - 1
        return f"slots {magazine.first_slot} to {last} of library {magazine.library}"

    def _way_in(self, magazine: MagazineRecord) -> str:
        """From where to where it is to be carried."""
        stands = f"{magazine.state}: {magazine.location}" if magazine.location else magazine.state
        free = self._free_slots("take a magazine out first")
        return f"from {stands}{free and '; '}{free}"

    def _free_slots(self, else_: str) -> str:
        """Where there is room for a magazine; empty for a library without slots."""
        if not self.core.librarian.slots:
            return ""
        free = self.core.librarian.free_spans()
        slots = ", ".join(f"{first} to {last}" for first, last in free[:SPANS_TOLD_MAX])
        return f"free slots: {slots or f'none, {else_}'}"

    # -- missing ---------------------------------------------------------------------------

    def check_outside(self, magazine: MagazineRecord) -> None:
        """CallerError for one that element status shows."""
        if magazine.is_seen:
            where = self.slots_in_words(magazine) if magazine.present else "its mailslots"
            raise CallerError(
                f"magazine {magazine.name} is in library {magazine.library} ({where}); a place is "
                "told of one that is outside, and only such a one is missing"
            )

    async def missing(self, name: str, why: str) -> MagazineRecord:
        """Nobody knows where it is: its discs are no copies until it is found."""
        magazine = self.get(name)
        await self.core.librarian.refresh()
        self.check_outside(magazine)
        check_words("why", why)
        if magazine.become(MagazineState.MISSING, self.core.clock.now_ns(), why):
            await self.core.catalog.save(magazine)
            self.core.wake()
        return magazine

    async def found(self, name: str, location: str | None) -> MagazineRecord:
        """It stands outside again; one that is put in is found by itself."""
        magazine = self.get(name)
        if magazine.state != MagazineState.MISSING:
            raise CallerError(f"magazine {name} is not missing: it is {magazine.state}")
        check_words("place", location or "")
        magazine.become(magazine.outside, self.core.clock.now_ns(), "found", location)
        await self.core.catalog.save(magazine)
        self.core.wake()
        return magazine

    # -- tasks -----------------------------------------------------------------------------

    async def add_task(
        self,
        kind: str,
        text: str,
        magazine: str,
        place: str = "",
        why: str = "",
        fill: Callable[[TaskRecord], object] = lambda task: None,
    ) -> TaskRecord:
        """Something a person should do; ``fill`` says more before anybody sees it."""
        log.warning("operator task", kind=kind, text=text)
        now_ns = self.core.clock.now_ns()
        return await self.core.catalog.add_task(kind, text, magazine, now_ns, place, why, fill)

    def open_tasks(self) -> list[TaskRecord]:
        return [task for task in self.core.catalog.tasks.values() if not task.done_ns]

    def open_task(self, kind: str, magazine: str) -> TaskRecord | None:
        """The one about a magazine that is still to be done."""
        for task in self.open_tasks():
            if (task.kind, task.magazine) == (kind, magazine):
                return task
        return None

    async def finish(self, task: TaskRecord) -> None:
        """It is done."""
        if not task.done_ns:
            task.done_ns, task.problem = self.core.clock.now_ns(), ""
            await self.core.catalog.save(task)

    async def done(self, number: int) -> TaskRecord:
        """A person says it is done: believed only as far as the library shows it."""
        task = self.core.catalog.tasks.get(number)
        if task is None:
            raise CallerError(f"task {number} is not known; see hsm tasks")
        if task.drive and self.confirm is not None:
            await self.confirm(task)
            return task
        await self.core.librarian.refresh()
        if task.kind == "bring" and self.core.librarian.by_hand and self._hands is not None:
            await self._hands.put_in(self.get(task.magazine))
            await self.core.catalog.save(self.get(task.magazine))
        why = self._not_done(task)
        if why:
            wrong = problem_of(task, self.core.catalog.magazines.values(), self._all_tasks())
            raise CallerError(f"task {number}: {why}{'; ' if wrong else ''}{wrong}")
        await self.finish(task)
        return task

    def _not_done(self, task: TaskRecord) -> str:
        """By what the library shows."""
        library = f"library {self.core.librarian.config.name}"
        name = task.magazine
        magazine = self.core.catalog.magazines.get(name)
        if magazine is None:
            short = task.kind == BLANKS and self.blanks_wanted
            return f"not enough blank discs yet: {short}" if short else ""
        if task.kind == "bring" and not magazine.present:
            return f"{library} does not show magazine {name} yet; put it into free slots"
        if task.kind == "find" and magazine.state == MagazineState.MISSING:
            return f"{library} does not show magazine {name}; or say hsm magazine found {name}"
        if task.kind == TAKE_OUT and magazine.is_seen:
            return f"{library} still shows magazine {name} ({self.slots_in_words(magazine)})"
        if task.kind == "take-offsite" and magazine.present:
            return (
                f"{library} still shows magazine {name}; say hsm magazine export {name} and "
                "take it out"
            )
        return ""

    def _all_tasks(self) -> list[TaskRecord]:
        return list(self.core.catalog.tasks.values())

    async def run(self) -> None:
        """Open tasks for what readers and burns need, close what is done."""
        while True:
            await trio.sleep(WATCH_S)
            try:
                await self.look()
            except HsmError as error:
                log.warning("tasks wait", error=str(error))

    async def look(self) -> None:
        """Open tasks for what is wanted now, and close or judge what people did."""
        demand = self.recaller.offline_demand()
        for name in demand:
            if name in self.core.catalog.magazines:
                await self._ask_for(self.get(name))
        for task in self.open_tasks():
            magazine = self.core.catalog.magazines.get(task.magazine)
            brought = task.kind in ("bring", "find") and magazine is not None and magazine.present
            is_known = magazine is None or magazine.state != MagazineState.MISSING
            gone = task.kind == TAKE_OUT and magazine is not None and not magazine.is_seen
            if brought or gone or (task.kind == "find" and is_known):
                await self.finish(task)
            else:
                await self._look_at(task)
        self._tell_of_magazines()
        await self._watch_blanks()

    async def _ask_for(self, magazine: MagazineRecord) -> None:
        """Readers wait for it."""
        name = magazine.name
        why = "files that only its discs hold are being read"
        if magazine.state == MagazineState.MISSING:
            if self.open_task("find", name) is None:
                text = f"Find magazine {name}: {why}. Put it in, or say hsm magazine found {name}."
                await self.add_task("find", text, name, self._way_in(magazine), why)
        elif self.open_task("bring", name) is None:
            text = f"Bring magazine {name} to library {self.core.librarian.config.name}: {why}."
            await self.add_task("bring", text, name, self._way_in(magazine), why)

    async def _look_at(self, task: TaskRecord) -> None:
        """Whether something else was done in its place."""
        if task.kind != FILL:  # those are judged by the mailslots
            magazines = self.core.catalog.magazines.values()
            await self.tell(task, problem_of(task, magazines, self._all_tasks()))

    async def tell(self, task: TaskRecord, problem: str) -> None:
        """What was done instead of a task; empty: nothing any more."""
        if problem != task.problem:
            task.problem = problem
            await self.core.catalog.save(task)
            if problem:
                log.warning("an operator task was not done right", task=task.id, why=problem)

    def _tell_of_magazines(self) -> None:
        """Alarms that follow from what is where."""
        gone, missing = [], []
        for magazine in self.core.catalog.magazines.values():
            event = magazine.history[-1] if magazine.history else None
            if event is not None and event.text == LEFT_UNASKED:
                gone.append(
                    f"magazine {magazine.name} {LEFT_UNASKED}; put it back, or say where it is "
                    f"(hsm magazine place {magazine.name} TEXT)"
                )
            if magazine.state == MagazineState.MISSING:
                missing.append(f"magazine {magazine.name} is missing: {self._loss(magazine.name)}")
        doubles = [
            f"barcode {code} is read in elements {', '.join(map(str, places))}: none of these "
            "discs is used; take the wrong one out, or label it anew"
            for code, places in self.core.librarian.oddities.doubles.items()
        ]
        self.core.alarms.follow("magazine-gone", gone)
        self.core.alarms.follow("magazine-missing", missing)
        self.core.alarms.follow("double-barcode", doubles)
        self.core.alarms.follow("disc-gone", self._discs_gone())

    def _loss(self, name: str) -> str:
        """What a missing magazine costs."""
        catalog = self.core.catalog
        labels = {d.volume for d in catalog.discs.values() if d.magazine == name and d.volume}
        last = sum(not catalog.verified_discs(label) for label in labels)
        return f"{len(labels)} volumes have a copy less, {last} of them have no other"

    def _discs_gone(self) -> list[str]:
        """Discs of magazines that are inside which no element has held for a while."""
        librarian, now_s = self.core.librarian, self.core.clock.monotonic_s()
        coming = {task.magazine for task in self.open_tasks() if task.kind == FILL}
        nowhere = [
            disc
            for disc in self.core.catalog.discs.values()
            if librarian.is_nowhere(disc) and disc.magazine not in coming
        ]
        self._gone_since_s = {
            disc.barcode: self._gone_since_s.get(disc.barcode, now_s) for disc in nowhere
        }
        return [
            f"disc {disc.barcode} of magazine {disc.magazine} (position {disc.position}, "
            f"{disc.volume or disc.state}) is not in the library; look for it, or say hsm disc "
            f"quarantine {disc.barcode}"
            for disc in nowhere
            if now_s - self._gone_since_s[disc.barcode] >= GONE_S
        ]

    async def _watch_blanks(self) -> None:
        short = self.blanks_wanted
        task = self.open_task(BLANKS, "")
        if short and task is None:
            where = self._free_slots("take a magazine out (hsm magazine plan-export)")
            await self.add_task(BLANKS, short, "", where, "a volume waits to be burned")
        elif not short and task is not None:
            await self.finish(task)

    blanks_wanted: str = ""
    """Set by the dispatcher while a volume waits for blank discs."""

    def counts(self) -> dict[str, int]:
        """Discs by state."""
        counts = dict.fromkeys((state.value for state in DiscState), 0)
        for disc in self.core.catalog.discs.values():
            counts[disc.state.value] += 1
        return counts
