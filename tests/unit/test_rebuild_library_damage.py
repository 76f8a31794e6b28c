"""Rebuild from a library whose discs are damaged: the same stores as from their images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.damage import bad_sectors
from support.discplaces import BYTES, FILES, Place, label, names_of
from support.volumes import content, paths_of, stopped_system

from hsmfs.config import Config
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.fsck.findings import Summary
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.fsckcommand import findings
from hsmfs.tools.rebuild.images import opened
from hsmfs.tools.rebuild.ledger import Ledger
from hsmfs.tools.rebuild.libraryread import LibraryReader
from hsmfs.tools.rebuild.run import discs_of, rebuild
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.mount import Mount
from hsmfs.volume.source import FileSource

Damage = Callable[[bytearray, Path], None]


def flipped(mark: bytes) -> Damage:
    def hurt(data: bytearray, _: Path) -> None:
        data[data.rindex(mark)] ^= 0xFF

    return hurt


def without_manifest(data: bytearray, image: Path) -> None:
    with opened(image) as reader:
        manifest = b"".join(reader.stream_manifest())
    at = data.rindex(manifest)
    data[at : at + len(manifest)] = bytes(len(manifest))


def without_tree(data: bytearray, image: Path) -> None:
    """Both copies of the metadata are zeros."""
    with opened(image) as reader:
        copies = Mount(reader.read, reader.total_sectors).copies
    for start, sectors in copies:
        data[start * SECTOR_BYTES : (start + sectors) * SECTOR_BYTES] = bytes(
            sectors * SECTOR_BYTES
        )


FIRST_LINE = flipped(b'"kind":"hsm-manifest"')


def hurt(place: Place, slot: int, image: Path, *damages: Damage) -> Path:
    """On a disc, and as an image of its barcode."""
    data = bytearray(image.read_bytes())
    for one in damages:
        one(data, image)
    copy = place.root / "copies" / f"{place.barcode(slot)}.img"
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(data)
    place.put(slot, bytes(data))
    return copy


def facts_of(config: Config) -> dict[str, Any]:
    """What the stores know: names, and of the catalog all but places."""
    found: dict[str, Any] = {"names": paths_of(config)}
    store = LmdbStore(Path(config.catalog.path), config.catalog.map_bytes, read_only=True)
    try:
        catalog = Catalog(store)
        for name, volume in catalog.volumes.items():
            found[name] = volume, sorted(catalog.volume_extents(name), key=str)
        discs = {c: d for c, d in catalog.discs.items() if d.volume}
        found["discs"] = {code: (one.state, one.volume) for code, one in discs.items()}
    finally:
        store.close()
    return found


def of_images(place: Place) -> tuple[dict[str, Any], Any]:
    """The same discs rebuilt from their images."""
    config = stopped_system(place.root / "other")
    sources = [place.root / "copies"]
    *_, outcome = rebuild(config, sources, lambda what, path, why: None)
    return facts_of(config), outcome


def rebuilt(place: Place) -> tuple[dict[str, Any], Any, list[str]]:
    shelf, collected, outcome, _ = place.rebuilt()
    assert place.in_drives() == []
    return facts_of(place.config), outcome, shelf.problems + collected.notes


ONE_DAMAGE: dict[str, tuple[Damage, int]] = {
    "first line": (FIRST_LINE, 0),
    "a line": (flipped(b'"path":"v1-115"'), 1),
    "last line": (flipped(b'"kind":"end"'), 0),
    "manifest": (without_manifest, FILES),
    "tree": (without_tree, 0),
    "set": (flipped(b"\x1f\x8b\x08"), 0),
}
"""With the files that nothing proves afterwards."""


@pytest.mark.parametrize("name", ONE_DAMAGE)
def test_a_damaged_disc_gives_what_its_image_gives(tmp_path: Path, name: str) -> None:
    place = Place(tmp_path)
    damage, unproved = ONE_DAMAGE[name]
    hurt(place, 0, place.volume(), damage)
    found, outcome, _ = rebuilt(place)
    expected, of_image = of_images(place)
    assert found == expected
    assert (outcome.files, outcome.unproved) == (of_image.files, of_image.unproved)
    assert (outcome.files, outcome.unproved) == (FILES, unproved)
    assert set(found["names"]) == names_of(1)


def test_damaged_discs_of_a_pool_together(tmp_path: Path) -> None:
    """Some repeat manifests of others, one knows the pool of another, copies make up."""
    place = Place(tmp_path)
    hurt(place, 0, place.volume(), without_manifest)  # the second one repeats it
    second = place.volume()
    hurt(place, 1, second, FIRST_LINE, flipped(b'"path":"v2-203"'))
    hurt(place, 2, second, flipped(b'"path":"v2-204"'))
    third = place.volume(with_previous=False)
    hurt(place, 3, third, FIRST_LINE)
    hurt(place, 4, third)
    fourth = place.volume(with_previous=False)
    hurt(place, 5, fourth, without_manifest)
    hurt(place, 6, fourth, without_manifest, flipped(b"v4-401"))
    fifth = place.volume()  # repeats the fourth
    hurt(place, 7, fifth, without_tree)
    found, outcome, _ = rebuilt(place)
    expected, of_image = of_images(place)
    assert found == expected
    assert (outcome.files, outcome.unproved) == (of_image.files, of_image.unproved)
    assert set(found["names"]) == names_of(1, 2, 3, 4, 5)
    states = {place.record(slot).state for slot in (3, 4)}
    assert states == {DiscState.VERIFIED, DiscState.DAMAGED}


@pytest.mark.parametrize("mark", [b'"kind":"hsm-manifest"', b'"path":"v1-115"'])
def test_unreadable_sectors_as_of_an_image(tmp_path: Path, mark: bytes) -> None:
    place = Place(tmp_path)
    image = place.volume()
    sector = image.read_bytes().rindex(mark) // SECTOR_BYTES
    copy = hurt(place, 0, image)
    place.faults(
        {"device": place.barcode(0), "op": "read", "sense": [3, 0x11, 0], "lba_from": sector,
         "lba_to": sector + 1}
    )  # fmt: skip
    found, outcome, _ = rebuilt(place)
    with bad_sectors(copy, range(sector, sector + 1)):
        expected, of_image = of_images(place)
    assert found == expected
    assert outcome.unproved == of_image.unproved > 0
    assert set(found["names"]) == names_of(1)


def test_bytes_of_unlisted_files_are_read_only_where_nothing_makes_up(tmp_path: Path) -> None:
    """A second load at the end, for those that need it."""
    place = Place(tmp_path)
    first = place.volume()
    hurt(place, 0, first, flipped(b'"path":"v1-115"'))
    hurt(place, 8, first)  # comes later, whole
    second = place.volume(with_previous=False)
    hurt(place, 1, second, flipped(b'"path":"v2-203"'))
    shelf = place.read()
    assert shelf.loads == 13
    assert [code for code, one in shelf.facts.items() if one.unhashed] in ([], [place.barcode(0)])
    kept = place.root / "state" / "namespace.rebuild-discs"
    assert discs_of(place.config) == kept
    assert [path.stem for path in kept.glob("*.hashes")] == [place.barcode(1)]
    again = place.read()
    assert (again.loads, again.known) == (0, 12)
    assert place.rebuilt()[2].unproved == 1


def test_a_disc_that_does_not_come_a_second_time(tmp_path: Path) -> None:
    """Its files are told of; the next run tries it again."""
    place = Place(tmp_path)
    hurt(place, 0, place.volume(), flipped(b'"path":"v1-115"'))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Ledger, "lacking", lambda self: [])
        assert place.read().loads == 12
    place.faults({"device": place.barcode(0), "op": "load"})
    shelf = place.read()
    assert any("were not read" in problem for problem in shelf.problems)
    _, collected, outcome, _ = place.rebuilt()
    assert any("its bytes were not read from this disc" in note for note in collected.notes)
    assert (outcome.files, outcome.lost) == (FILES - 1, 1)


def test_a_stopped_reading_of_unlisted_files_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    hurt(place, 0, place.volume(), without_manifest)
    with monkeypatch.context() as patched:

        def stopped(self: LibraryReader, *_: Any) -> None:
            raise KeyboardInterrupt

        patched.setattr(LibraryReader, "_run_drives", stopped)
        with pytest.raises(KeyboardInterrupt):
            place.read()
    assert place.rebuilt()[2].unproved == FILES
    assert set(paths_of(place.config)) == names_of(1)


def test_bytes_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    place = Place(tmp_path)
    image = place.volume()
    source = FileSource(path=b"v1-115", ino=115, data_version=1, size=BYTES)
    sector = image.read_bytes().index(content(source)) // SECTOR_BYTES
    hurt(place, 0, image, without_manifest)
    place.faults(
        {"device": place.barcode(0), "op": "read", "sense": [3, 0x11, 0], "lba_from": sector,
         "lba_to": sector + 1}
    )  # fmt: skip
    _, outcome, notes = rebuilt(place)
    assert (outcome.files, outcome.unproved, outcome.lost) == (FILES - 1, FILES - 1, 1)
    assert any("v1-115" in note for note in notes)
    assert not list(findings(place.config, False, None, Summary()))
    assert label(1) in facts_of(place.config)
