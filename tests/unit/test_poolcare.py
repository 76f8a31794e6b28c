"""Which disc is read next, and what magazines owe to pools."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hsmfs.config import Care
from hsmfs.daemon.catalogrecords import DiscRecord, DiscState, VolumeRecord
from hsmfs.daemon.policy.evaluate import YEAR_S, Pool
from hsmfs.daemon.poolcare import due_disc, parity_wanted, scrub_percent

NOW_NS = 2_000_000_000 * 10**9
DAY_NS = 86_400 * 10**9
DEFAULTS = Care()


def pool(name: str, **more: Any) -> Pool:
    return Pool(name, 1, "magazine", True, None, 0, 1, **more)


def core(discs: list[DiscRecord], *pools: Pool, care: Care = DEFAULTS) -> Any:
    volumes = {
        disc.volume: VolumeRecord(label=disc.volume, pool=disc.volume.split("-")[0])
        for disc in discs
        if disc.volume
    }
    return SimpleNamespace(
        catalog=SimpleNamespace(discs={d.barcode: d for d in discs}, volumes=volumes),
        policy=SimpleNamespace(pools={one.name: one for one in pools}),
        config=SimpleNamespace(care=care),
        clock=SimpleNamespace(now_ns=lambda: NOW_NS),
    )


def disc(
    barcode: str, volume: str, days: float, errors: int = 0, magazine: str = "M"
) -> DiscRecord:
    return DiscRecord(
        barcode=barcode,
        magazine=magazine,
        position=0,
        library="l",
        state=DiscState.VERIFIED,
        volume=volume,
        verified_ns=NOW_NS - int(days * DAY_NS) if days >= 0 else 0,
        read_errors=errors,
    )


def order(made: Any) -> list[str]:
    """Barcodes in the order in which they are due, each read as its turn comes."""
    found = []
    while (due := due_disc(made, lambda one: True)) is not None:
        found.append(due.barcode)
        due.verified_ns = NOW_NS
    return found


def test_never_checked_then_worst_then_oldest_each_by_its_pool() -> None:
    discs = [
        disc("old", "p-1", 900),
        disc("older", "p-2", 1000),
        disc("faulty", "p-3", 800, errors=3),
        disc("fresh", "p-4", 10),
        disc("never", "p-5", -1),
        disc("often", "q-1", 40),
        disc("unread", "r-1", 9999),
        disc("parity", "parity-1", 800),
    ]
    pools = (
        pool("p", scrub_s=2 * YEAR_S),
        pool("q", scrub_s=30 * 86_400.0, scrub_percent=10.0),
        pool("r", scrub_s=0.0),
    )
    made = core(discs, *pools)
    assert order(made) == ["never", "faulty", "older", "old", "parity", "often"]
    assert scrub_percent(made, made.catalog.volumes["q-1"]) == 10.0
    assert scrub_percent(made, made.catalog.volumes["parity-1"]) == 100.0


@given(st.lists(st.tuples(st.integers(-1, 3000), st.integers(0, 3)), max_size=12))
def test_all_that_are_due_come_and_no_others(facts: list[tuple[int, int]]) -> None:
    discs = [disc(f"D{n}", f"p-{n}", days, errors) for n, (days, errors) in enumerate(facts)]
    wanted = sorted(f"D{n}" for n, (days, _) in enumerate(facts) if days < 0 or days >= 730)
    assert sorted(order(core(discs, pool("p", scrub_s=2 * YEAR_S)))) == wanted


def test_a_magazine_gets_what_the_most_careful_of_its_pools_asks_for() -> None:
    discs = [disc("a", "p-1", 1), disc("b", "q-1", 1), disc("c", "q-2", 1, magazine="N")]
    pools = pool("p", parity=2), pool("q", parity=1), pool("r", parity=0)
    made = core(discs, *pools)
    assert [parity_wanted(made, name) for name in ("M", "N", "empty")] == [2, 1, 0]
    assert parity_wanted(core([], care=Care(parity=2)), "empty") == 2
