"""An audit finds what is otherwise than believed, and takes over what is provable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.librarysite import LibrarySite
from support.volumes import SITE, burn

from hsmfs.changer.library import Element, Inventory
from hsmfs.daemon.audit import Auditor
from hsmfs.daemon.auditcheck import Belief, DiscFound, Finding, Kind, compare, judge
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    MagazineRecord,
    VolumeRecord,
    VolumeState,
)
from hsmfs.errors import CallerError
from hsmfs.types import ElementAddress
from hsmfs.volume.source import VolumeHeader


class AuditSite(LibrarySite):
    """With real volumes on discs, and both drives idle."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, mailslots=2)
        self.root = root
        self.core.config.site = type("Site", (), {"id": SITE})
        self.look_once()
        self.auditor = Auditor(self.core)

    def record(self, barcode: str, label: str, site: str = SITE, created_ns: int = 1) -> None:
        """Lay a burned volume under this barcode."""
        image = self.root / "volume.img"
        burn(image, label, [], site=site, created_ns=created_ns)
        self.library.hands.load_foreign(barcode, image)

    def believe(self, label: str, *barcodes: str) -> None:
        self.write(label, *barcodes, created_ns=1, state=VolumeState.COMPLETE, total_sectors=99)

    def audit(self, **flags: bool) -> dict[str, Any]:
        options = {"discs": False, "repair": False, "rescan": False} | flags
        job = self.core.jobs.new("audit")

        async def drives() -> None:
            while True:
                await trio.sleep(0.1)
                for demand in self.auditor.demands():
                    assert self.auditor.wants(demand.disc)
                    await self.auditor.start(demand.disc).run(self.librarian.units[0])

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drives)
                await self.auditor.audit(job, **options)
                nursery.cancel_scope.cancel()

        self.run(main)
        assert job.state == "done" and job.details is not None, job.errors
        return job.details

    def told(self, **flags: bool) -> list[tuple[str, str, str, str]]:
        """Kind, disc, what was found and what expected."""
        found = self.audit(**flags)["findings"]
        return sorted((f["kind"], f["disc"], f["found"], f["expected"]) for f in found)


@pytest.fixture
def site(tmp_path: Path) -> AuditSite:
    return AuditSite(tmp_path)


def test_a_library_in_order_has_no_differences(site: AuditSite) -> None:
    one, two = site.barcodes("M01")[0], site.barcodes("M02")[0]
    for barcode in (one, two):
        site.record(barcode, "v-1")
    site.believe("v-1", one, two)
    found = site.audit(discs=True, rescan=True)
    assert (found["findings"], found["discs_read"]) == ([], 12)


def test_discs_that_are_not_what_they_should_be(site: AuditSite) -> None:
    first, second, third = (site.barcodes(f"M0{n}") for n in (1, 2, 3))
    for barcode, label, facts in (
        (first[0], "v-1", {}),
        (second[0], "v-2", {}),  # wrong disc in the slot: v-1 is expected
        (first[1], "v-1", {"created_ns": 7}),  # another volume of that label
        (first[2], "v-2", {"site": "elsewhere"}),  # blank is expected
        (third[0], "v-2", {}),  # blank is expected, and it is a copy of ours
    ):
        site.record(barcode, label, **facts)  # type: ignore[arg-type]
    site.library.hands.load_foreign(third[1], bytes(65536), closed=True)
    site.believe("v-1", first[0], second[0], first[1], third[1], third[2])
    site.believe("v-2", second[1])
    for barcode in (second[1],):
        site.record(barcode, "v-2")
    before = {code: msgspec.structs.replace(d) for code, d in site.catalog.discs.items()}
    expected = [
        ("blank", third[2], "a blank disc", "volume v-1"),
        ("not-blank", first[2], "volume v-2 of site elsewhere", "a blank disc"),
        ("not-blank", third[0], "volume v-2 of site sandbox", "a blank disc"),
        ("wrong-disc", first[1], "volume v-1 of site sandbox", "volume v-1"),
        ("wrong-disc", second[0], "volume v-2 of site sandbox", "volume v-1"),
    ]
    told = site.told(discs=True)
    (foreign,) = [row for row in told if row[0] == "foreign"]
    assert foreign[1] == third[1] and foreign[2].startswith("no volume of hsmfs")
    assert sorted(row for row in told if row[0] != "foreign") == sorted(expected)
    assert all(
        msgspec.structs.replace(disc, capacity_sectors=0, loads=0)
        == msgspec.structs.replace(before[code], capacity_sectors=0, loads=0)
        for code, disc in site.catalog.discs.items()
    )
    found = site.audit(discs=True, repair=True)
    assert found["repaired"] == len(found["findings"]) == 6
    states = {code: (site.catalog.discs[code].state, site.catalog.discs[code].volume)
              for code in (*first, *second[:2], *third)}  # fmt: skip
    assert states == {
        first[0]: (DiscState.VERIFIED, "v-1"),
        first[1]: (DiscState.FOREIGN, ""),
        first[2]: (DiscState.FOREIGN, ""),
        second[0]: (DiscState.BURNED, "v-2"),
        second[1]: (DiscState.VERIFIED, "v-2"),
        third[0]: (DiscState.BURNED, "v-2"),
        third[1]: (DiscState.FOREIGN, ""),
        third[2]: (DiscState.FOREIGN, ""),
    }
    assert site.told(discs=True) == []
    site.start()
    assert site.catalog.discs[second[0]].state == DiscState.BURNED
    ((_, entry),) = site.catalog.history(second[0])
    assert entry.what == "audit" and "it was verified v-1" in entry.text


def test_what_element_status_shows_otherwise(site: AuditSite) -> None:
    a, b, c = site.barcodes("M01")
    twin = site.barcodes("M02")[0]
    site.believe("v-1", c)

    def change(state: Any) -> None:
        state.slots[0], state.slots[1], state.slots[2] = b, "", ""
        state.slots[4] = twin
        state.mailslots[0], state.drive_discs[1] = a, "NEW001"

    site.library.change(change)
    told = site.told()
    assert {(kind, disc) for kind, disc, *_ in told} == {
        ("place", b),
        ("stray", b),
        ("place", a),
        ("stray", a),
        ("gone", c),
        ("double", twin),
        ("gone", site.barcodes("M02")[1]),
        ("unknown", "NEW001"),
        ("place", "NEW001"),
    }
    places = [f for f in site.audit(repair=True)["findings"] if f["kind"] == "place"]
    assert places and all(f["repaired"] for f in places)
    assert "place" not in {kind for kind, *_ in site.told()}
    assert site.librarian.place[a] == 0x0300 and site.librarian.units[1].disc == "NEW001"


def test_without_a_robot_there_is_nothing_to_compare(site: AuditSite) -> None:
    site.librarian.config = msgspec.structs.replace(site.librarian.config, kind="manual")
    job = site.core.jobs.new("audit")

    async def audit() -> None:
        with pytest.raises(CallerError, match="library robot has no robot, nothing sees where"):
            await site.auditor.audit(job, discs=True, repair=False, rescan=False)

    site.run(audit)


# -- the pure part ----------------------------------------------------------------------


def elements(kind: str, first: int, codes: list[str]) -> tuple[Element, ...]:
    return tuple(
        Element(ElementAddress(first + n), kind, bool(code), code or None, None, True, None)
        for n, code in enumerate(codes)
    )


@given(st.permutations(["A", "B", "C", "D", "", "", ""]))
def test_every_disc_that_moved_is_told_and_no_other(codes: list[str]) -> None:
    """Four slots, two drives, one mailslot; A to D belong into the slots in this order."""
    inventory = Inventory(
        elements("slot", 10, codes[:4]), elements("drive", 0, codes[4:6]), (),
        elements("mailslot", 5, codes[6:]),
    )  # fmt: skip
    discs = {
        code: DiscRecord(barcode=code, magazine="M", position=n, library="l")
        for n, code in enumerate("ABCD")
    }
    magazines = {"M": MagazineRecord(name="M", library="l", first_slot=10)}
    place = {code: 10 + n for n, code in enumerate("ABCD")}
    belief = Belief(place, {0: "", 1: ""}, frozenset({0, 1}), frozenset(), discs, magazines, "l")
    found = compare(belief, inventory)
    moved = {code for n, code in enumerate("ABCD") if codes[n] != code}
    assert {finding.disc for finding in found if finding.disc} == moved
    busy = Belief(place, {}, frozenset({0, 1}), frozenset(moved), discs, magazines, "l")
    assert not compare(busy, inventory)


@given(
    st.sampled_from(list(DiscState)),
    st.sampled_from(["", "v-1", "v-2", "v-9"]),
    st.sampled_from(["here", "there"]),
    st.integers(1, 2),
)
def test_a_disc_is_judged_by_what_is_on_it(
    state: DiscState, label: str, site: str, created_ns: int
) -> None:
    volumes = {
        name: VolumeRecord(label=name, pool="p", created_ns=1, state=VolumeState.COMPLETE)
        for name in ("v-1", "v-2")
    }
    volume = "" if state in (DiscState.BLANK, DiscState.FOREIGN) else "v-1"
    disc = DiscRecord(
        barcode="D", magazine="M", position=0, library="l", state=state, volume=volume
    )
    found = DiscFound("blank")
    if label:
        header = VolumeHeader(label=label, site=site, pool="p", created_ns=created_ns, copies=1)
        found = DiscFound("complete", header)
    is_ours = label in volumes and site == "here" and created_ns == 1
    told: Finding | None = judge(disc, found, volumes, "here")
    right = {
        DiscState.BLANK: not label,
        DiscState.FOREIGN: not is_ours,
    }.get(state, is_ours and label == "v-1")
    assert (told is None) == right
    if told is not None and volume and not label:
        assert told.kind == Kind.BLANK
