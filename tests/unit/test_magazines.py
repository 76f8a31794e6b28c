"""Magazines go out, come back, are lost and found; what people do wrong is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.librarysite import NAME, LibrarySite

from hsmfs.daemon.catalogrecords import MAGAZINE_TRANSITIONS, MagazineRecord, MagazineState
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.magazinebelief import LEFT_UNASKED, TAKEN_OUT
from hsmfs.daemon.magazinereport import magazine as magazine_report
from hsmfs.daemon.mailslots import Mailslots
from hsmfs.errors import CallerError

S = MagazineState


@pytest.fixture
def site(tmp_path: Path) -> LibrarySite:
    made = LibrarySite(tmp_path)
    made.look_once()
    return made


def refused(site: LibrarySite, work: Any) -> str:
    with pytest.raises(BaseExceptionGroup) as caught:
        site.run(work)
    found, rest = caught.value.split(CallerError)
    assert rest is None and found is not None
    return str(found.exceptions[0])


# -- life cycle -------------------------------------------------------------------------


@given(st.lists(st.sampled_from(list(S)), max_size=30))
def test_the_table_is_all_that_a_magazine_can_do(wanted: list[MagazineState]) -> None:
    record = MagazineRecord(name="M01", library="l", first_slot=0, present=False)
    for now, state in enumerate(wanted, 1):
        before = msgspec.structs.replace(record)
        assert record.state is not None
        if state != record.state and state not in MAGAZINE_TRANSITIONS[record.state]:
            with pytest.raises(AssertionError, match="may not become"):
                record.become(state, now)
            assert record == before
            continue
        assert record.become(state, now, location="here") == (record.state != before.state) or (
            record.location != before.location
        )
        assert record.state == state
        assert record.present == (state in (S.BLANK, S.LIBRARY))
        assert record.location == ("" if state in (S.BLANK, S.LIBRARY, S.MAILSLOT) else "here")
    times = [event.time_ns for event in record.history]
    assert times == sorted(times)


def test_a_record_of_an_older_version_gets_its_state() -> None:
    for present, offsite, state in (
        (True, True, S.LIBRARY),
        (False, False, S.SHELF),
        (False, True, S.OFFSITE),
    ):
        old = {"name": "M", "library": "l", "first_slot": 0, "present": present, "offsite": offsite}
        record = msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=MagazineRecord)
        assert (record.state, record.present) == (state, present)


def test_from_blank_to_the_shelf_and_back(site: LibrarySite) -> None:
    assert {site.state(f"M0{n}") for n in range(1, 5)} == {S.BLANK}
    site.write("v-1", site.barcodes("M01")[0])
    site.look_once()
    assert site.state("M01") == S.LIBRARY and site.state("M02") == S.BLANK
    tray = site.take_out(0)
    site.look_once()
    assert site.state("M01") == S.SHELF
    (text,) = site.alarm_texts("magazine-gone")
    assert text.startswith(f"magazine M01 {LEFT_UNASKED}")
    site.library.hands.put_in_magazine(tray)
    site.start()
    site.look_once()
    assert site.state("M01") == S.LIBRARY and not site.alarm_texts("magazine-gone")
    history = magazine_report(site.core, "M01")["history"]
    assert [event["state"] for event in history] == ["blank", "library", "shelf", "library"]


def test_a_missing_magazine_counts_for_nothing_until_it_is_found(site: LibrarySite) -> None:
    here, gone = site.barcodes("M01")[0], site.barcodes("M02")[0]
    site.write("v-1", here, gone)
    site.write("v-2", site.barcodes("M02")[1])
    text = refused(site, lambda: site.magazines.missing("M02", ""))
    assert f"magazine M02 is in library {NAME} (slots 1027 to 1029" in text
    tray = site.take_out(1)
    site.look_once()
    site.run(lambda: site.magazines.missing("M02", "not where it should be"))
    assert [disc.barcode for disc in site.catalog.verified_discs("v-1")] == [here]
    site.look_once()
    (alarm,) = site.alarm_texts("magazine-missing")
    assert "2 volumes have a copy less, 1 of them have no other" in alarm
    site.demand = {"M02": [object()]}
    site.look_once()
    (task,) = site.open_tasks()
    assert task.kind == "find" and "shelf" not in task.text
    assert "does not show magazine M02" in refused(site, lambda: site.magazines.done(task.id))
    site.library.hands.put_in_magazine(tray)
    site.demand = {}
    site.look_once()
    assert site.state("M02") == S.LIBRARY and not site.open_tasks()
    assert not site.alarm_texts("magazine-missing")
    assert len(site.catalog.verified_discs("v-1")) == 2
    assert site.catalog.magazines["M02"].history[-1].text.startswith("found")
    text = refused(site, lambda: site.magazines.found("M02", None))
    assert "magazine M02 is not missing: it is library" in text


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["out", "in", "missing", "found"]), st.integers(0, 2)),
        max_size=12,
    )
)
def test_whatever_is_done_belief_follows_the_slots(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    site = LibrarySite(tmp_path_factory.mktemp("site"), magazines=3)
    site.look_once()
    trays: dict[int, str] = {}
    model = [S.BLANK] * 3

    async def say(word: str, name: str) -> None:
        if word == "missing":
            await site.magazines.missing(name, "")
        else:
            await site.magazines.found(name, None)

    for word, number in steps:
        name = f"M0{number + 1}"
        allowed = {
            "out": (S.BLANK,),
            "in": (S.SHELF, S.MISSING),
            "missing": (S.SHELF, S.MISSING),
            "found": (S.MISSING,),
        }[word]
        if model[number] not in allowed:
            if word in ("missing", "found"):
                refused(site, lambda w=word, n=name: say(w, n))  # type: ignore[misc]
            continue
        model[number] = {"out": S.SHELF, "in": S.BLANK, "missing": S.MISSING, "found": S.SHELF}[
            word
        ]
        if word == "out":
            trays[number] = site.take_out(number)
        elif word == "in":
            site.library.hands.put_in_magazine(trays.pop(number))
        else:
            site.run(lambda w=word, n=name: say(w, n))  # type: ignore[misc]
        site.look_once()
        assert [site.state(f"M0{n + 1}") for n in range(3)] == model
    site.start()
    site.look_once()
    assert [site.state(f"M0{n + 1}") for n in range(3)] == model


# -- guided tasks -----------------------------------------------------------------------


def with_person(site: LibrarySite, work: Any, *steps: Any) -> Job:
    """A job of hsmd while a person acts, one step after the other, each seen by hsmd."""
    job = site.core.jobs.new("export")

    async def person() -> None:
        looks = 0

        async def seen() -> None:
            nonlocal looks
            while True:
                await trio.sleep(0.2)
                site.clock.advance(0.2)
                await site.librarian.refresh()
                await site.magazines.look()
                looks += 1

        async def wait_for_looks(number: int) -> None:
            before = looks
            while looks < before + number:
                await trio.sleep(0.2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(seen)
            nursery.start_soon(work, job)
            for step in steps:
                await wait_for_looks(8)
                step()
            await job.wait()
            nursery.cancel_scope.cancel()

    site.run(person)
    return job


def test_the_wrong_magazine_taken_out_is_told(site: LibrarySite) -> None:
    seen, trays = [], []

    def check() -> None:
        (task,) = site.open_tasks()
        seen.append(task.problem)

    steps = (
        lambda: trays.append(site.take_out(2)),
        check,
        lambda: site.library.hands.put_in_magazine(trays[0]),
        check,
        lambda: site.take_out(1),
    )
    job = with_person(site, lambda job: site.magazines.export("M02", job), *steps)
    assert job.state == "done" and not job.note
    assert seen == [
        "magazine M03 was taken out, expected M02; put M03 back and take M02 out",
        "",
    ]
    assert site.state("M02") == S.SHELF and site.state("M03") == S.BLANK
    (task,) = site.catalog.tasks.values()
    assert (
        task.done_ns and task.place == "slots 1027 to 1029 of library robot; it goes to the shelf"
    )
    assert not site.alarm_texts("magazine-gone")


def test_the_wrong_magazine_brought_is_told(site: LibrarySite) -> None:
    trays = {n: site.take_out(n) for n in (1, 2)}
    site.look_once()
    site.catalog.magazines["M02"].become(S.SHELF, site.clock.now_ns(), location="room 7")
    seen = []

    def check() -> None:
        (task,) = site.open_tasks()
        seen.append((task.problem, task.place))

    async def early() -> None:
        (task,) = site.open_tasks()
        await site.magazines.done(task.id)

    steps = (
        check,
        lambda: site.library.hands.put_in_magazine(trays[2]),
        check,
        lambda: site.library.hands.put_in_magazine(trays[1]),
    )
    job = with_person(site, lambda job: site.magazines.bring_in("M02", job), *steps)
    assert job.state == "done"
    place = "from shelf: room 7; free slots: 1027 to 1029, 1030 to 1032"
    wrong = "magazine M03 was put in (slots from 1030 on), expected M02; take M03 out again and put"
    assert seen[0] == ("", place) and seen[1][0].startswith(wrong)
    assert not site.open_tasks()


def test_a_task_confirmed_without_being_done_stays_open(site: LibrarySite) -> None:
    site.take_out(0)
    site.look_once()
    site.demand = {"M01": []}
    site.look_once()
    (task,) = site.open_tasks()
    assert (task.kind, task.why) == ("bring", "files that only its discs hold are being read")
    text = refused(site, lambda: site.magazines.done(task.id))
    assert text == ("task 1: library robot does not show magazine M01 yet; put it into free slots")
    assert site.open_tasks() == [task]


# -- discs that cannot be ---------------------------------------------------------------


def test_two_discs_of_one_barcode_are_both_left_alone(site: LibrarySite) -> None:
    twin = site.barcodes("M01")[0]
    site.write("v-1", twin)
    site.lay(11, twin)
    site.look_once()
    assert twin not in site.librarian.place
    assert site.alarm_texts("double-barcode") == [
        f"barcode {twin} is read in elements 1024, 1035: none of these discs is used; take the "
        "wrong one out, or label it anew"
    ]
    assert site.catalog.discs[twin].magazine == "M01"
    assert not site.alarm_texts("disc-gone")
    site.lay(11, "")
    site.look_once()
    assert site.librarian.place[twin] == 1024 and not site.alarm_texts("double-barcode")


def test_a_disc_that_is_nowhere_is_told(site: LibrarySite) -> None:
    code = site.barcodes("M02")[1]
    site.write("v-1", code)
    site.lay(4, "")
    site.look_once()
    assert not site.alarm_texts("disc-gone")
    site.clock.advance(60)
    site.look_once()
    (text,) = site.alarm_texts("disc-gone")
    assert text.startswith(f"disc {code} of magazine M02 (position 1, v-1) is not in the library")


def test_a_disc_laid_into_an_empty_place_leaves_its_magazine_where_it_is(site: LibrarySite) -> None:
    code = site.barcodes("M01")[2]
    site.take_out(3)
    site.lay(2, "")
    site.lay(9, code)
    site.look_once()
    assert site.catalog.magazines["M01"].first_slot == 1024
    assert len(site.catalog.magazines) == 4 and site.librarian.place[code] == 1033
    site.lay(9, "")
    site.lay(5, code)
    site.lay(2, "NEW001")
    site.look_once()
    disc = site.catalog.discs[code]
    assert (disc.magazine, disc.position) == ("M02", 2)
    ((_, entry),) = site.catalog.history(code)
    assert (entry.what, entry.text) == ("moved", "from M01 2 to M02 2")


# -- mailslots ---------------------------------------------------------------------------


@pytest.fixture
def boxed(tmp_path: Path) -> LibrarySite:
    """A library with two mailslots."""
    made = LibrarySite(tmp_path, mailslots=2)
    made.look_once()
    return made


def test_a_magazine_goes_out_and_comes_back_through_mailslots(boxed: LibrarySite) -> None:
    site, table = boxed, list[str]()
    way = Mailslots(site.core, site.magazines)
    discs = site.barcodes("M02")
    seen: list[tuple[MagazineState | None, str]] = []

    def take() -> None:
        (task,) = site.open_tasks()
        seen.append((site.state("M02"), task.text))

        def change(state: Any) -> None:
            table.extend(code for code in state.mailslots if code)
            state.mailslots = ["", ""]

        site.library.change(change)

    job = with_person(site, lambda job: way.export("M02", job), take, take)
    assert job.state == "done", job.errors
    assert sorted(table) == discs and site.state("M02") == S.SHELF
    assert [(state, text[:15]) for state, text in seen] == [
        (S.BLANK, "Take 2 discs of"),
        (S.MAILSLOT, "Take 1 discs of"),
    ]
    assert not site.alarm_texts("magazine-gone") and not site.alarm_texts("disc-gone")
    problems = []

    def put(*codes: str) -> Any:
        def change(state: Any) -> None:
            state.mailslots = [*codes, ""][:2]

        return lambda: site.library.change(change)

    def check() -> None:
        (task,) = site.open_tasks()
        problems.append(task.problem)

    steps = (put(discs[2], "ALIEN1"), check, put(discs[0], discs[1]))
    job = with_person(site, lambda job: way.bring_in("M02", job), *steps)
    assert job.state == "done", job.errors
    assert problems == ["mailslot 769: disc ALIEN1 is not known, expected M02; take it out"]
    assert site.library.state.slots[3:6] == discs
    assert site.state("M02") == S.BLANK and not site.open_tasks()


def test_what_mailslots_cannot_do_is_told(site: LibrarySite, tmp_path: Path) -> None:
    def words(job: Job) -> Any:
        return Mailslots(site.core, site.magazines).export("M01", job)

    text = refused(site, lambda: words(site.core.jobs.new("export")))
    assert "library robot has no mailslots" in text


def test_an_export_can_be_called_off(site: LibrarySite) -> None:
    job = site.core.jobs.new("export")
    told = []

    async def person() -> None:
        async with trio.open_nursery() as nursery:

            async def export() -> None:
                try:
                    await site.magazines.export("M01", job)
                except CallerError as error:
                    told.append(str(error))
                nursery.cancel_scope.cancel()

            nursery.start_soon(export)
            while not site.open_tasks():
                await trio.sleep(0.1)
            await site.magazines.stay("M01")
            await trio.sleep_forever()

    site.run(person)
    assert told == ["magazine M01 stays: hsm magazine stay was said"]
    assert site.state("M01") == S.BLANK and not site.open_tasks()
    assert site.librarian.present(site.catalog.discs[site.barcodes("M01")[0]])
    assert (
        refused(site, lambda: site.magazines.stay("M01")) == "magazine M01 is not to be taken out"
    )


def test_an_export_that_a_restart_cut_ends_when_the_magazine_is_gone(site: LibrarySite) -> None:
    async def cut() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(site.magazines.export, "M01", site.core.jobs.new("export"))
            while not site.open_tasks():
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    site.run(cut)
    site.start()
    site.look_once()
    (task,) = site.open_tasks()
    assert site.catalog.magazines["M01"].exporting and task.kind == "take-out"
    site.take_out(0)
    site.look_once()
    assert not site.open_tasks() and not site.alarm_texts("magazine-gone")
    assert site.catalog.magazines["M01"].history[-1].text == TAKEN_OUT


def test_a_disc_with_a_barcode_is_known_wherever_the_robot_lays_it(boxed: LibrarySite) -> None:
    site, code = boxed, boxed.barcodes("M01")[0]

    async def carry() -> None:
        unit = site.librarian.units[0]
        await site.librarian.load(unit, code)
        assert site.librarian.unknown_places() == []
        await site.librarian.unload(unit)
        assert site.librarian.unknown_places() == []
        await site.librarian.carry(code, site.librarian.mailslots[0])
        assert site.librarian.unknown_places() == []

    site.run(carry)
