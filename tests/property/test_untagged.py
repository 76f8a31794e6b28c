"""Numbers of discs without barcodes, against what robot and people did with them."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hsmfs.changer.library import Element, Inventory
from hsmfs.daemon.untagged import Untagged
from hsmfs.types import ElementAddress

SLOTS, DRIVES = range(100, 106), range(1, 3)
PLACES = [*SLOTS, *DRIVES]


class Library(RuleBasedStateMachine):
    """Discs are letters; the model knows where each is, the robot tells only what is full."""

    def __init__(self) -> None:
        super().__init__()
        self.untagged = Untagged()
        self.discs: dict[int, str] = {}
        self.moved_by_hand = False

    @initialize(full=st.sets(st.sampled_from(list(SLOTS)), min_size=1))
    def discs_in_slots(self, full: set[int]) -> None:
        self.discs = {at: f"disc {at}" for at in full}
        self.untagged.seed({}, self.inventory())
        self.read()

    def inventory(self) -> Inventory:
        def element(at: int, kind: str) -> Element:
            return Element(ElementAddress(at), kind, at in self.discs, None, None, True, None)

        slots = tuple(element(at, "slot") for at in SLOTS)
        return Inventory(slots, tuple(element(at, "drive") for at in DRIVES), (), ())

    @rule()
    def read(self) -> None:
        named = self.untagged.named(self.inventory())
        told = {int(e.address): e.barcode for e in (*named.slots, *named.drives) if e.full}
        assert told.keys() == self.discs.keys()
        assert all(told[at] in (None, disc) for at, disc in self.discs.items())

    @rule(source=st.sampled_from(PLACES), destination=st.sampled_from(PLACES), early=st.booleans())
    def robot_moves(self, source: int, destination: int, early: bool) -> None:
        """Element status may be read before the move is told of."""
        if source not in self.discs or destination in self.discs:
            return
        self.discs[destination] = self.discs.pop(source)
        if early:
            self.untagged.named(self.inventory())
        self.untagged.moved(source, destination)

    @rule(data=st.data())
    @precondition(lambda self: self.untagged.unknown)
    def look(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(self.untagged.unknown)))
        if at in self.discs:
            self.untagged.is_at(at, self.discs[at])

    @rule(source=st.sampled_from(PLACES), destination=st.sampled_from(PLACES))
    def a_person_moves(self, source: int, destination: int) -> None:
        """While the door is open; the library is read before and after."""
        if source not in self.discs or destination in self.discs:
            return
        disc = self.discs.pop(source)
        self.read()
        self.discs[destination] = disc
        self.read()

    @invariant()
    def nobody_is_believed_to_be_what_he_is_not(self) -> None:
        for at, number in self.untagged.there.items():
            assert self.discs.get(at, number) == number


TestLibrary = Library.TestCase


def test_a_disc_with_a_barcode_stays_known_when_it_is_moved() -> None:
    untagged = Untagged()
    slots = [Element(ElementAddress(100), "slot", True, "HSM00001", None, True, None)]
    untagged.named(Inventory(tuple(slots), (), (), ()))
    untagged.moved(100, 1)
    assert not untagged.unknown and not untagged.there
