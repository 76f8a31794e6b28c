"""Rebuild from a library: disc after disc through the drives of an emulated one."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.discplaces import BYTES, FILES, Place, label, names_of
from support.volumes import burn, content

from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import DiscState, VolumeState
from hsmfs.errors import CallerError
from hsmfs.fsck.findings import Summary
from hsmfs.namespace.tables import NEXT_INO_KEY
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.fsckcommand import findings
from hsmfs.tools.rebuild.catalogonly import check_catalog_missing, rebuild_catalog
from hsmfs.tools.rebuild.run import discs_of, rebuild
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.source import FileSource


@pytest.fixture(params=[1, 2], ids=["one drive", "two drives"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path, request.param)


def count_reads(monkeypatch: pytest.MonkeyPatch, hit: Callable[[str, int], None]) -> None:
    from hsmfs.changer.emulated.disc import DiscFile

    real = DiscFile.read

    def read(self: DiscFile, lba: int, sectors: int) -> bytes:
        hit(self.barcode, sectors)
        return real(self, lba, sectors)

    monkeypatch.setattr(DiscFile, "read", read)


def test_all_is_known_after_one_load_of_each_disc(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        place.volume(number, number + 4)
    read: dict[str, int] = {}
    count_reads(monkeypatch, lambda code, n: read.update({code: read.get(code, 0) + n}))
    shelf, collected, outcome, left_out = place.rebuilt()
    assert (left_out, collected.notes, shelf.problems) == ([], [], [])
    assert (outcome.files, outcome.lost, dict(outcome.waiting)) == (3 * FILES, 0, {})
    assert place.names() == names_of(1, 2, 3)
    assert collected.is_complete()
    assert shelf.loads == 12
    assert place.in_drives() == []
    # of a second copy only its beginning and the manifest's end are read
    for number in range(3):
        once = sorted(read[place.barcode(slot)] for slot in (number, number + 4))
        assert once[0] < once[1]
    catalog = place.catalog()
    assert {m.name: m.first_slot for m in catalog.magazines.values()} == {
        "M01": 0x400,
        "M02": 0x404,
        "M03": 0x408,
    }
    assert all(volume.state == VolumeState.COMPLETE for volume in catalog.volumes.values())
    for slot in range(12):
        disc = catalog.discs[place.barcode(slot)]
        assert (disc.magazine, disc.position) == (f"M{slot // 4 + 1:02d}", slot % 4)
        is_written = slot % 4 < 3 and slot < 8
        assert disc.state == (DiscState.VERIFIED if is_written else DiscState.BLANK)
        assert disc.volume == (label(slot % 4 + 1) if is_written else "")
        assert is_written or disc.capacity_sectors == 2048


def test_a_missing_volume_is_known_by_a_later_one(place: Place) -> None:
    place.volume()
    place.volume(0, 4)
    _, collected, outcome, _ = place.rebuilt()
    assert (set(collected.missing), dict(outcome.waiting)) == ({label(1)}, {label(1): FILES})
    assert (outcome.files, place.names()) == (FILES, names_of(1, 2))


def test_a_damaged_manifest_is_made_up_for_by_the_second_copy(place: Place) -> None:
    image = place.volume(0, 4)
    data = bytearray(image.read_bytes())
    data[data.rindex(b'"path":"v1-115"')] ^= 0xFF
    place.put(0, bytes(data))
    _, collected, outcome, _ = place.rebuilt()
    assert (outcome.files, place.names()) == (FILES, names_of(1))
    states = {place.record(slot).state for slot in (0, 4)}
    # where the sound one came first, the other's header and end agreed
    assert states <= {DiscState.VERIFIED, DiscState.DAMAGED}
    if collected.notes:
        assert place.record(0).state == DiscState.DAMAGED


def test_unreadable_sectors_cost_what_they_hold(place: Place) -> None:
    image = place.volume(0)
    sector = image.read_bytes().rindex(b'"path":"v1-115"') // SECTOR_BYTES
    place.faults(
        {"device": place.barcode(0), "op": "read", "sense": [3, 0x11, 0], "lba_from": sector,
         "lba_to": sector + 1}
    )  # fmt: skip
    place.volume(1)
    _, collected, outcome, _ = place.rebuilt()
    # the later volume repeats its manifest
    assert outcome.files == 2 * FILES
    assert place.names() == names_of(1, 2)
    assert any("could not be read" in note for note in collected.notes)


def test_what_is_not_ours_is_told_by_barcode(place: Place) -> None:
    image = place.volume(0)
    place.put(1, random.Random(1).randbytes(1 << 20))
    burn(place.images / "other.img", "other-000001", [], site="other")
    place.put(2, place.images / "other.img")
    place.put(3, image.read_bytes()[: 200 * SECTOR_BYTES], closed=False)
    shelf, _, outcome, left_out = place.rebuilt()
    assert outcome.files == FILES
    assert {code for code, _ in left_out} == {place.barcode(1), place.barcode(2)}
    assert "found a disc of site 'other'" in dict(left_out)[place.barcode(2)]
    assert place.record(1).state == place.record(2).state == DiscState.FOREIGN
    assert place.record(3).state == DiscState.SUSPECT
    facts = shelf.as_facts()
    assert (facts["cut"], facts["blank"]) == (1, 8)


def test_two_volumes_of_one_label_are_refused_after_all_is_read(place: Place) -> None:
    place.volume(0)
    burn(place.images / "twin.img", label(1), [], created_ns=99)
    place.put(1, place.images / "twin.img")
    shelf = place.read()
    with pytest.raises(CallerError, match="two different volumes of label"):
        rebuild(place.config, [], lambda what, path, why: None, shelf)
    assert place.read().loads == 0


def test_barcodes_that_are_there_twice_or_not_at_all(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.volume(0)
    place.volume(1, 2)
    state = json.loads((place.library.path / "library.json").read_text())
    twice = state["slots"][5] = state["slots"][2]
    (place.library.path / "library.json").write_text(json.dumps(state))
    _, _, outcome, left_out = place.rebuilt()
    assert outcome.files == 2 * FILES
    assert [code for code, _ in left_out] == [twice]
    assert "2 discs have this barcode (slot 1026, slot 1029)" in left_out[0][1]
    catalog = place.catalog()
    assert catalog.discs[twice].state == DiscState.FOREIGN
    assert "hsm disc identify tries again" in catalog.discs[twice].note


def test_a_drive_that_always_fails(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for number in range(3):
        place.volume(number, number + 4)
    place.faults({"device": "drive0", "op": "read"})
    shelf, _, outcome, left_out = place.rebuilt()
    assert (outcome.files, left_out) == (3 * FILES, [])
    assert shelf.problems in ([], ["drive0: it failed 3 times in a row; it is used no more"])
    assert {one.drive for one in shelf.facts.values() if one.header is not None} == {"drive1"}
    assert place.in_drives() == []


def test_all_drives_fail(place: Place) -> None:
    place.volume(0)
    place.faults({"device": "drive0", "op": "load"}, {"device": "drive1", "op": "load"})
    shelf = place.read()
    assert len(shelf.left_out) == 12
    assert shelf.facts == {}
    with pytest.raises(CallerError, match="found no volume"):
        rebuild(place.config, [], lambda what, path, why: None, shelf)
    # they are repaired: nothing of it was taken for an answer
    place.faults()
    assert place.rebuilt()[2].files == FILES


def test_a_fault_that_passes_costs_a_load(place: Place) -> None:
    place.volume(0, 4)
    place.faults({"device": place.barcode(0), "op": "load", "count": 1})
    shelf, _, outcome, left_out = place.rebuilt()
    assert (outcome.files, left_out, shelf.problems) == (FILES, [], [])
    assert shelf.loads == 13


def test_a_disc_that_the_robot_cannot_move(place: Place) -> None:
    place.volume(0)
    place.volume(1)
    place.faults({"device": place.barcode(0), "op": "move", "sense": [4, 0x15, 1]})
    _, _, outcome, left_out = place.rebuilt()
    assert [code for code, _ in left_out] == [place.barcode(0)]
    assert "MOVE MEDIUM 1024" in left_out[0][1]
    assert (outcome.files, dict(outcome.waiting)) == (FILES, {label(1): FILES})
    assert place.record(0).state == DiscState.FOREIGN


def test_a_disc_that_is_stuck_in_a_drive(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.volume(0, 4)
    place.volume(1, 5)
    slots = list(place.library.state.slots)
    # the robot takes it there and cannot take it back
    place.faults({"device": "drive0", "op": "eject"})
    shelf, _, outcome, left_out = place.rebuilt()
    assert (outcome.files, left_out) == (2 * FILES, [])
    (stuck,) = place.in_drives()
    assert len(shelf.problems) == 1
    assert f"disc {stuck} is stuck in it" in shelf.problems[0]
    disc, slot = place.catalog().discs[stuck], slots.index(stuck)
    assert (disc.magazine, disc.position) == (f"M{slot // 4 + 1:02d}", slot % 4)


def test_the_robot_fails(place: Place) -> None:
    place.volume(0)
    place.faults({"device": "changer", "op": "move"})
    shelf = place.read()
    assert len(shelf.left_out) == 12
    assert all("MOVE MEDIUM" in why or "robot" in why for _, why in shelf.left_out)
    assert any("the robot failed" in problem for problem in shelf.problems)


def test_discs_in_drives_are_read_where_they_are_and_brought_home(place: Place) -> None:
    from hsmfs.changer.library import Changer

    place.volume(0, 4)
    code = place.barcode(0)
    Changer(place.library.changer_transport()).move(0x400, 0x100)
    shelf, _, outcome, left_out = place.rebuilt()
    assert (outcome.files, left_out, shelf.loads) == (FILES, [], 11)
    assert place.in_drives() == []
    disc = place.catalog().discs[code]
    assert (disc.magazine, disc.position) == ("M01", 0)


def test_images_and_library_together(place: Place) -> None:
    place.volume(0)
    place.volume()
    third = place.volume(4)
    again = place.images / f"{place.barcode(4)}.img"
    again.write_bytes(third.read_bytes())
    _, collected, outcome, _ = place.rebuilt([place.images / "2.img", again])
    assert (outcome.files, place.names()) == (3 * FILES, names_of(1, 2, 3))
    assert collected.is_complete()
    # a disc that is given twice is one copy
    assert sum(disc.volume == label(3) for disc in place.catalog().discs.values()) == 1


def test_what_was_read_is_not_loaded_again(place: Place) -> None:
    place.volume(0, 4)
    place.volume(1, 5)
    place.faults({"device": place.barcode(1), "op": "load"})
    first = place.read()
    assert [code for code, _ in first.left_out] == [place.barcode(1)]
    (discs_of(place.config) / f"{place.barcode(1)}.img").write_bytes(b"cut")
    place.faults()
    shelf, _, outcome, _ = place.rebuilt()
    assert (shelf.loads, shelf.known) == (1, 11)
    assert (outcome.files, place.names()) == (2 * FILES, names_of(1, 2))
    assert place.record(1).state == DiscState.VERIFIED


def test_again_reads_all_discs(place: Place) -> None:
    place.volume(0)
    place.read()
    shelf, *_ = place.rebuilt(again=True)
    assert shelf.loads == 12


def test_discs_that_left_the_library_meanwhile_count(place: Place) -> None:
    """More magazines than the library holds: read, taken out, the next one in."""
    place.volume(0, 4)
    place.volume(1, 5)
    place.read()
    out = place.barcode(0)
    place.library.hands.take_out_magazine(0)
    shelf, _, outcome, left_out = place.rebuilt()
    assert (outcome.files, left_out, shelf.loads) == (2 * FILES, [], 0)
    assert any(out in problem for problem in shelf.problems)
    disc = place.catalog().discs[out]
    assert (disc.state, disc.magazine) == (DiscState.VERIFIED, "")


def test_a_full_disk_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    from hsmfs.errors import OperatorNeeded

    place.volume(0)

    def pwrite(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("hsmfs.tools.rebuild.recording.os.pwrite", pwrite)
        with pytest.raises(OperatorNeeded, match="make room there and run it again"):
            place.read()
    assert place.rebuilt()[2].files == FILES


def test_content_is_as_burned(place: Place) -> None:
    """Extents of the new catalog lead to the bytes."""
    place.volume(0)
    place.rebuilt()
    path = Path(place.config.catalog.path)
    store = LmdbStore(path, place.config.catalog.map_bytes, read_only=True)
    try:
        (extent, *_) = Catalog(store).volume_extents(label(1))
    finally:
        store.close()
    source = FileSource(path=b"v1-100", ino=100, data_version=1, size=BYTES)
    data = place.disc(0).read_bytes()[extent.offset : extent.offset + BYTES]
    assert data == content(source)


def all_extents(place: Place) -> dict[str, int]:
    """Extents of each volume in the catalog."""
    path = Path(place.config.catalog.path)
    store = LmdbStore(path, place.config.catalog.map_bytes, read_only=True)
    try:
        catalog = Catalog(store)
        return {name: len(catalog.volume_extents(name)) for name in catalog.volumes}
    finally:
        store.close()


def test_the_catalog_alone_beside_its_namespace(place: Place) -> None:
    place.volume(0, 4)
    place.volume(1, 5)
    with pytest.raises(CallerError, match="found no namespace"):
        check_catalog_missing(place.config)
    place.rebuilt()
    with pytest.raises(CallerError, match="the catalog knows volumes"):
        check_catalog_missing(place.config)
    before, discs = all_extents(place), place.catalog().discs
    shutil.rmtree(place.config.catalog.path)
    check_catalog_missing(place.config)
    _, left_out, _, matched = rebuild_catalog(
        place.config, [], lambda what, path, why: None, place.read()
    )
    assert (left_out, matched.files, matched.lost, matched.newer) == ([], 2 * FILES, 0, 0)
    assert all_extents(place) == before
    assert place.catalog().discs == discs
    assert not list(findings(place.config, False, None, Summary()))
    assert {path.name for path in (place.root / "state").iterdir()} == {"namespace", "catalog"}


def test_the_catalog_alone_knows_nothing_that_its_namespace_does_not(place: Place) -> None:
    """The namespace is an older backup: its next files get the numbers of newer ones."""
    place.volume(0)
    place.volume(1)
    place.rebuilt()
    store = LmdbStore(Path(place.config.namespace.path), place.config.namespace.map_bytes)
    store.transact(lambda writer: writer.put(NEXT_INO_KEY, b"250 0 0"))
    store.close()
    shutil.rmtree(place.config.catalog.path)
    place.volume(2)
    place.library.hands.replace_disc(place.barcode(1))
    told: list[tuple[str, str]] = []
    _, _, collected, matched = rebuild_catalog(
        place.config, [], lambda what, path, why: told.append((what, path)), place.read()
    )
    assert (matched.files, matched.newer) == (FILES, FILES)
    # the second volume is known by the third one's copy of its manifest
    assert dict(matched.waiting) == {label(2): FILES}
    assert set(collected.missing) == {label(2)}
    assert {what for what, _ in told} == {"waits"}
    assert all_extents(place) == {label(1): FILES, label(2): FILES, label(3): 0}
