"""Which magazines are taken out: the coldest, and never the last copy of anything."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.librarysite import LibrarySite

from hsmfs.daemon.exportfacts import export_plan, note_read
from hsmfs.daemon.exportplan import Copy, Holding, order, plan_export
from hsmfs.daemon.volumeheat import SHELF_HALF_LIFE_S, faded

NAMES = [f"M{n}" for n in range(6)]
PLACES = ["", "", "", "shelf", "off-site"]
DAY_NS = 86_400 * 10**9


@st.composite
def sites(draw: st.DrawFn) -> tuple[list[Holding], dict[str, list[Copy]]]:
    """Magazines inside, each volume in up to three of them or outside."""
    volumes = [f"v{n}" for n in range(draw(st.integers(0, 8)))]
    copies: dict[str, list[Copy]] = {}
    held: dict[str, list[str]] = {name: [] for name in NAMES}
    for volume in volumes:
        inside = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
        outside = draw(st.lists(st.sampled_from(["shelf", "off-site"]), max_size=2))
        copies[volume] = [Copy(name, "") for name in inside]
        copies[volume] += [Copy(f"X{n}", place) for n, place in enumerate(outside)]
        for name in inside:
            held[name].append(volume)
    parity = draw(st.sets(st.sampled_from(volumes), max_size=2)) if volumes else set()
    holdings = [
        Holding(
            name,
            draw(st.sampled_from(["shelf", "off-site"])),
            tuple(held[name]),
            frozenset(parity.intersection(held[name])),
            blanks=draw(st.integers(0, 3)),
            discs=3,
            heat=draw(st.sampled_from([0.0, 0.5, 2.0])),
            used_ns=draw(st.integers(0, 3)),
            obstacle=draw(st.sampled_from(["", "", "", "readers wait"])),
        )
        for name in NAMES
    ]
    return holdings, copies


@given(sites(), st.integers(1, 6))
def test_a_copy_stays_and_copies_stand_apart(
    site: tuple[list[Holding], dict[str, list[Copy]]], count: int
) -> None:
    holdings, copies = site
    plan = plan_export(holdings, copies, count)
    gone = [chosen.holding for chosen in plan.take]
    names = {holding.name for holding in gone}
    assert len(gone) <= count and not any(holding.obstacle for holding in gone)
    assert gone == sorted(gone, key=order)
    assert names | {holding.name for holding, _ in plan.stay} == set(NAMES)
    for volume, found in copies.items():
        leaving = [h for h in gone if volume in h.volumes and volume not in h.bound]
        stays = {copy.magazine for copy in found if not copy.place and copy.magazine not in names}
        assert not leaving or stays
        places = [copy.place for copy in found if copy.place]
        for holding in leaving:
            assert holding.destination not in places
            places.append(holding.destination)
    for holding, why in plan.stay:
        assert (why == "could go next") <= (len(gone) == count)
        if why not in ("could go next", holding.obstacle):
            # Nothing that was taken makes it possible after all.
            left = {
                label: [c for c in found if c.magazine not in names or c.place]
                for label, found in copies.items()
            }
            for chosen in gone:
                for label in chosen.volumes:
                    left[label].append(Copy(chosen.name, chosen.destination))
            assert not plan_export([holding], left, 1).take


def test_full_and_cold_first_blanks_last() -> None:
    copies = {f"v{n}": [Copy(f"M{n}", ""), Copy("Z", "")] for n in range(4)}
    holdings = [
        Holding("M0", "shelf", ("v0",), heat=3.0, discs=3),
        Holding("M1", "shelf", ("v1",), heat=0.2, discs=3),
        Holding("M2", "shelf", ("v2",), heat=0.0, blanks=1, discs=3),
        Holding("M3", "shelf", ("v3",), heat=0.2, used_ns=-1, discs=3),
        Holding("B", "shelf", blanks=3, discs=3),
        Holding("Z", "shelf", tuple(copies), discs=3),
    ]
    plan = plan_export(holdings, copies, 9)
    # Z is the coldest full one; what it holds then stays in the others.
    assert [chosen.holding.name for chosen in plan.take] == ["Z", "B"]
    assert plan.take[0].kept_in == ("M0", "M1", "M2", "M3")
    whys = {holding.name: why for holding, why in plan.stay}
    assert whys["M3"] == "volume v3 would have no proved copy in the library"
    plan = plan_export(holdings[:-1], copies, 3)
    assert [chosen.holding.name for chosen in plan.take] == ["M3", "M1", "M0"]
    assert [why for _, why in plan.stay] == ["could go next", "could go next"]


def test_the_plan_of_a_site(tmp_path: Path) -> None:
    site = LibrarySite(tmp_path)
    site.look_once()
    one, two, three = (site.barcodes(f"M0{n}") for n in (1, 2, 3))
    hot = site.write("v-1", one[0], two[0])
    site.write("v-2", two[1], three[1])
    site.write("v-3", three[2])
    note_read(hot, site.clock.now_ns())
    note_read(hot, site.clock.now_ns())
    before = {name: magazine.state for name, magazine in site.catalog.magazines.items()}
    plan = export_plan(site.core, (), 4)
    assert [m["name"] for m in plan["take"]] == ["M01", "M04"]
    assert plan["take"][0]["kept_in"] == ["M02"] and plan["take"][0]["heat"] == 2.0
    assert [(m["name"], m["why"]) for m in plan["stay"]] == [
        ("M03", "volume v-3 would have no proved copy in the library"),
        ("M02", "volume v-1 would have no proved copy in the library"),
    ]
    site.clock.advance(SHELF_HALF_LIFE_S)
    assert export_plan(site.core, ("v-1",), 1)["take"][0]["name"] == "M04"
    assert before == {name: m.state for name, m in site.catalog.magazines.items()}
    assert export_plan(site.core, (), 1)["take"][0]["heat"] == 1.0
    # A copy on the shelf already: another one does not join it.
    site.take_out(0)
    site.look_once()
    site.write("v-1", one[0], two[0], site.barcodes("M04")[0])
    whys = {m["name"]: m["why"] for m in export_plan(site.core, (), 4)["stay"]}
    assert whys["M04"] == "volume v-1 has a copy in the same place outside (shelf)"


@given(st.floats(0, 1e6), st.integers(0, 10_000 * DAY_NS), st.integers(0, 10_000 * DAY_NS))
def test_counts_fade(heat: float, since: int, now: int) -> None:
    assert 0 <= faded(heat, since, now) <= heat
    assert faded(heat, now, now) == heat
