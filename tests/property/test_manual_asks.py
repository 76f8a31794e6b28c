"""What a person is asked for, against simple rules; and a person who does as told ends all work."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from hsmfs.daemon.manual.asks import Ask, Desk, Rank, plan_by_hand
from hsmfs.daemon.picture import (
    Action,
    Burn,
    BurnDemand,
    DriveView,
    Picture,
    Priority,
    Read,
    ReadDemand,
    Verify,
    VerifyDemand,
)

NEEDED = 100
DISCS = [f"D{number}" for number in range(8)]
"""Two copies of each volume: D0 and D1 of V0, and so on."""
VOLUMES = {f"V{number}": (DISCS[2 * number], DISCS[2 * number + 1]) for number in range(4)}


@dataclass
class Site:
    """Drives, what is to be done, and what was asked for so far."""

    inside: dict[str, str]
    """Disc in each drive; ``blank``, ``small`` or empty."""
    reads: dict[str, Priority]
    burns: dict[str, int]
    """Copies left by volume."""
    verifies: set[str]
    busy: set[str] = field(default_factory=set)
    asks: dict[str, Ask] = field(default_factory=dict)
    now_s: float = 0.0
    exchanges: int = 0

    def plan(self) -> list[Action]:
        picture = Picture(
            drives=tuple(
                DriveView(name, name in self.busy, disc if disc in DISCS else "")
                for name, disc in self.inside.items()
            ),
            reads=tuple(
                ReadDemand(volume, VOLUMES[volume], 0.0, priority)
                for volume, priority in self.reads.items()
            ),
            burns=tuple(BurnDemand(volume, left, 0.0) for volume, left in self.burns.items()),
            verifies=tuple(VerifyDemand(disc, "drive0", 0.0) for disc in sorted(self.verifies)),
        )
        sizes = {"blank": NEEDED, "small": NEEDED - 1}
        desk = Desk(
            blanks={name: sizes.get(disc, 0) for name, disc in self.inside.items()},
            needed=lambda volume: NEEDED,
            before=dict(self.asks),
        )
        actions, self.asks = plan_by_hand(picture, desk, self.now_s)
        self.check(actions)
        return actions

    def check(self, actions: list[Action]) -> None:
        """Nothing needs a disc that is not there; nothing is asked for twice or in vain."""
        used: list[str] = []
        for action in actions:
            match action:
                case Burn(_, drives):
                    assert all(self.inside[drive] == "blank" for drive in drives)
                    used += drives
                case Read(drive, volume, disc):
                    assert self.inside[drive] == disc in VOLUMES[volume]
                    used.append(drive)
                case Verify(drive, disc):
                    assert self.inside[drive] == disc in self.verifies
                    used.append(drive)
        assert len(set(used)) == len(used) and not self.busy & set(used)
        assert not set(used) & self.asks.keys() and not self.busy & self.asks.keys()
        put = [ask.put for ask in self.asks.values() if ask.put]
        assert len(set(put)) == len(put) and not set(put) & set(self.inside.values())
        idle = self.inside.keys() - self.busy
        if idle and not self.busy and (self.reads or self.burns or self.verifies):
            assert actions or self.asks, "work, an idle drive, and nobody is asked"
        for volume in self.reads:
            holders = {name for name in idle if self.inside[name] in VOLUMES[volume]}
            assert not holders or holders & set(used), "what lies in a drive is used first"

    def do(self, action: Action) -> None:
        """The drive's work, at once."""
        match action:
            case Burn(volume, drives):
                for drive in drives:
                    self.inside[drive] = f"{volume} burned"
                self.burns[volume] -= len(drives)
                if not self.burns[volume]:
                    del self.burns[volume]
            case Read(_, volume, _):
                del self.reads[volume]
            case Verify(_, disc):
                self.verifies.discard(disc)

    def person(self, drive: str, ask: Ask) -> None:
        self.exchanges += 1
        self.inside[drive] = ask.put or ("blank" if ask.blank_sectors else "")


@st.composite
def sites(draw: st.DrawFn) -> Site:
    names = [f"drive{number}" for number in range(draw(st.integers(1, 3)))]
    stock = draw(st.permutations([*DISCS, "blank", "blank", "small", "", "", ""]))
    return Site(
        inside=dict(zip(names, stock, strict=False)),
        reads=draw(st.dictionaries(st.sampled_from(sorted(VOLUMES)), st.sampled_from(Priority))),
        burns=draw(st.dictionaries(st.sampled_from(["V8", "V9"]), st.integers(1, 3))),
        verifies=set(draw(st.lists(st.sampled_from(DISCS), max_size=2))),
        busy=set(draw(st.lists(st.sampled_from(names), max_size=1))),
    )


@given(sites())
def test_a_person_who_does_as_told_ends_all_work_with_few_exchanges(site: Site) -> None:
    fewest = len(site.reads) + sum(site.burns.values()) + len(site.verifies)
    site.plan()
    site.busy.clear()
    for _ in range(100):
        site.now_s += 1.0
        for action in site.plan():
            site.do(action)
        site.plan()
        if not site.asks and not (site.reads or site.burns or site.verifies):
            break
        for drive, ask in sorted(site.asks.items())[:1]:
            site.person(drive, ask)
    assert not (site.reads or site.burns or site.verifies)
    assert site.exchanges <= fewest


@given(sites())
def test_an_ask_stays_while_it_makes_sense(site: Site) -> None:
    """Time alone changes nothing that a person was asked for."""
    site.plan()
    before = dict(site.asks)
    for _ in range(3):
        site.now_s += 700.0
        if site.plan():
            return
        assert {drive: site.asks.get(drive) for drive in before} == before


def test_recalls_are_asked_for_before_burns_and_take_over_their_ask() -> None:
    site = Site({"drive0": ""}, {}, {"V9": 1}, set())
    site.plan()
    assert site.asks["drive0"].rank is Rank.BURN and site.asks["drive0"].blank_sectors == NEEDED
    site.reads["V1"] = Priority.BULK
    site.plan()
    assert site.asks["drive0"] == Ask("drive0", Rank.BULK, "D2", volume="V1")
    site.reads["V2"] = Priority.READERS
    site.plan()
    assert site.asks["drive0"].put == "D4"
    site.inside["drive0"] = "blank"  # what was asked for first is brought all the same
    assert site.plan() == [Burn("V9", ("drive0",))]
