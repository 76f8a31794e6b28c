"""A library is qualified step by step; whatever fails, the disc comes home and is told of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.libraries import DRIVE, SLOT, content, new_library, put_faults
from support.tgtd import CHANGER_LUN, FIRST_DRIVE, FIRST_SLOT, TARGET, jukebox, needs_libiscsi

from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, open_library
from hsmfs.changer.emulated.iscsi.target import NAME, IscsiTarget
from hsmfs.changer.library import Changer
from hsmfs.changer.transport.interface import Transport
from hsmfs.changer.transport.iscsi import IscsiAddress, IscsiTransport
from hsmfs.changer.transport.stack import Stack
from hsmfs.clock import Clock, ManualClock, SystemClock
from hsmfs.daemon.qualify import Bench, Qualification

DISC = "HSM00002"
BEFORE = ["robot", "drive", "elements", "mapping", "empty", "door", "refusal", "load", "ready"]
BURN = ["blank", "burn", "close", "reload", "verify", "final"]
AFTER = ["eject", "unload", "restored"]
MIB = 1 << 20


def bench(
    changer: Transport, drive: Transport, clock: Clock, scratch: str = DISC, element: int = DRIVE
) -> Bench:
    stacks = Stack("changer", changer, clock), Stack("drive0", drive, clock)
    return Bench(
        Changer(stacks[0].top), Drive(stacks[1].top, clock.sleep), element, scratch, clock, stacks,
        "site", 8 * MIB, 30.0,
    )  # fmt: skip


def small(tmp_path: Path, **options: Any) -> EmulatedLibrary:
    return new_library(tmp_path, disc_bytes=16 * MIB, **options)


def qualified(library: EmulatedLibrary, scratch: str = DISC) -> Qualification:
    clock = ManualClock()
    done = Qualification(
        bench(library.changer_transport(), library.drive_transport(0), clock, scratch)
    )
    done.run()
    return done


def outcome(done: Qualification) -> dict[str, str]:
    return {step.name: step.result for step in done.results}


def test_the_emulated_library_passes(tmp_path: Path) -> None:
    library = small(tmp_path)
    library.change(lambda state: state.slots.__setitem__(5, ""))
    done = qualified(library)
    assert done.passed and done.is_used and list(outcome(done)) == [*BEFORE, *BURN, *AFTER], (
        done.results
    )
    facts = {step.name: step.facts for step in done.results}
    assert facts["elements"]["scratch_at"] == SLOT + 1 and facts["elements"]["discs"] == 5
    assert facts["blank"] == {"profile": "BD-R SRM", "capacity_bytes": 16 * MIB}
    assert facts["burn"]["bytes"] > 8 * MIB and facts["verify"]["volume"] == "QUALIFY"
    assert "05/3B/0E" in facts["refusal"]["refused"] and "07/27/00" in facts["final"]["refused"]
    assert "changer: 06/29/00 power on or reset" in facts["elements"]["senses"]
    assert "drive0: 06/28/00 medium may have changed" in facts["ready"]["senses"]
    assert library.state.slots[1] == DISC and (library.path / "closed" / DISC).exists()


def test_times_and_speeds_are_those_of_the_library(tmp_path: Path) -> None:
    clock = ManualClock()
    made = small(tmp_path)
    made.change(lambda state: setattr(state.timing, "buffer_bytes", 0))
    library = open_library(made.path, clock, "realistic")
    done = Qualification(bench(library.changer_transport(), library.drive_transport(0), clock))
    steps = {step.name: step for step in done.run()}
    assert done.passed
    assert steps["load"].seconds == pytest.approx(5, abs=0.1)
    assert steps["ready"].seconds == pytest.approx(6, abs=0.2)
    assert steps["burn"].facts["mb_per_s"] == pytest.approx(27, rel=0.1)
    assert steps["close"].facts["mb_per_s"] == pytest.approx(27, rel=0.1)
    assert steps["verify"].facts["mb_per_s"] == pytest.approx(36, rel=0.1)


def test_a_disc_gets_spare_areas_first(tmp_path: Path) -> None:
    library = small(tmp_path)
    one = bench(library.changer_transport(), library.drive_transport(0), ManualClock())
    done = Qualification(replace(one, spares="least"))
    facts = {step.name: step.facts for step in done.run()}
    assert done.passed and facts["format"]["spare_bytes"] == 3 * 32 * 2048
    assert facts["format"]["capacity_bytes"] + facts["format"]["spare_bytes"] == 16 * MIB


@pytest.mark.parametrize("closed", [True, False])
def test_a_disc_that_is_not_blank_is_never_written(tmp_path: Path, closed: bool) -> None:
    library = small(tmp_path)
    image = content(64)
    library.hands.load_foreign(DISC, image, closed)
    done = qualified(library)
    bad = {name for name, result in outcome(done).items() if result != "pass"}
    assert bad == set(BURN)
    (blank,) = [step for step in done.results if step.name == "blank"]
    assert blank.text.endswith("expected blank; nothing was written") and not done.is_used
    assert library.image(DISC).read_bytes() == image and library.state.slots[1] == DISC


@pytest.mark.allow_warnings
@pytest.mark.parametrize(
    ("fault", "failed", "is_home"),
    [
        ({"device": "drive0", "op": "load"}, "ready", True),
        (
            {"device": DISC, "op": "write", "after_bytes": 2 * MIB, "sense": [3, 12, 0]},
            "burn",
            True,
        ),
        ({"device": "drive0", "op": "close"}, "close", True),
        ({"device": DISC, "op": "read", "lba_from": 512, "sense": [3, 17, 5]}, "verify", True),
        ({"device": "drive0", "op": "eject"}, "reload", False),
        ({"device": "changer", "op": "move", "sense": [4, 21, 1]}, "load", True),
        ({"device": DISC, "op": "move", "sense": [4, 21, 1], "done": True}, "", True),
    ],
)
def test_each_fault_ends_in_its_step(
    tmp_path: Path, fault: dict[str, Any], failed: str, is_home: bool
) -> None:
    library = small(tmp_path)
    put_faults(library, fault)
    done = qualified(library)
    first = next((step.name for step in done.results if step.result == "fail"), "")
    assert first == failed, done.results
    assert done.passed == (not failed)
    assert (library.state.slots[1] == DISC) == is_home


def test_a_lying_library_is_found(tmp_path: Path) -> None:
    library = small(tmp_path)
    library.change(lambda state: state.slots.__setitem__(4, DISC))
    done = qualified(library)
    (step,) = [step for step in done.results if step.result == "fail"]
    assert (step.name, step.text) == ("elements", f"barcode {DISC} is in elements 1025, 1028")
    assert library.state.drive_discs == ["", ""]
    done = qualified(small(tmp_path / "other"), "NOSUCH")
    assert done.results[2].text == "disc NOSUCH is in no slot; put it in and try again"
    library = small(tmp_path / "full")

    def load(state: Any) -> None:
        state.slots[0], state.drive_discs[0] = "", "HSM00001"

    library.change(load)
    text = qualified(library).results[4].text
    assert "holds disc HSM00001, and its slot is not known or not empty" in text
    library.change(lambda state: state.sources.__setitem__("HSM00001", SLOT))
    done = qualified(library)
    assert done.passed and done.results[4].facts["brought_home"] == "HSM00001 to 1024"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[EmulatedLibrary, IscsiTarget]]:
    needs_libiscsi()
    library = small(tmp_path, clock=SystemClock())
    with IscsiTarget(library, "127.0.0.1", 0, NAME) as target:
        yield library, target


def test_over_iscsi(served: tuple[EmulatedLibrary, IscsiTarget]) -> None:
    library, target = served
    devices = [IscsiTransport(IscsiAddress(target.portal, NAME, lun)) for lun in (0, 1)]
    try:
        done = Qualification(bench(*devices, SystemClock()))
        done.run()
    finally:
        for device in devices:
            device.close()
    assert done.passed, done.results
    assert library.state.slots[1] == DISC


def test_as_far_as_it_goes_on_a_changer_of_others(tmp_path: Path) -> None:
    """tgtd has no BD-R: what it loads is a complete disc, which must stay as it is."""
    with jukebox(tmp_path, drives=2, slots=6) as daemon:
        media = daemon.work / "media" / "DVD_0002"
        before = media.read_bytes()
        devices = [
            IscsiTransport(IscsiAddress(daemon.portal, TARGET, lun)) for lun in (CHANGER_LUN, 1)
        ]
        try:
            done = Qualification(bench(*devices, SystemClock(), "DVD_0002", FIRST_DRIVE))
            done.run()
        finally:
            for device in devices:
                device.close()
        assert media.read_bytes() == before
    results = outcome(done)
    passed = [name for name, result in results.items() if result == "pass"]
    assert passed == [*BEFORE, *AFTER], done.results
    assert results["blank"] == "fail" and done.results[2].facts["scratch_at"] == FIRST_SLOT + 2
