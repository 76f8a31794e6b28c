"""Rebuild with each single damaged region of a volume, of one copy alone and beside a whole one.

What is expected: all names with their inodes and all files, with places that lead to the bytes
that were burned, but for what is damaged. Where the manifest is, nothing proves the files of the
lost lines; where the set of changes is, it is said that one is missing; data that is
damaged shows when it is recalled. With a whole copy beside it nothing of this is left.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from support import damage
from support.damage import FAULTS, Digests, Region, Volume, bad_sectors
from support.volumes import paths_of, stopped_system

from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.config import Config
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.rebuild.collect import Collected
from hsmfs.tools.rebuild.reading import read_libraries
from hsmfs.tools.rebuild.run import rebuild
from hsmfs.tools.rebuild.tree import Outcome

INODES = {entry.path: entry.ino for entry in damage.entries()}
READ_TIMES_MAX = 2
"""The work is bounded: no more is read than this many images."""
WITHOUT_SET = ("own files", "first 2 MiB")


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return damage.made(tmp_path_factory.mktemp("damage"))


def is_in_manifest(region: Region) -> bool:
    return region.name.startswith(("manifest", "last"))


@contextmanager
def few_reads(bytes_max: int) -> Iterator[None]:
    """No more than this is read in all."""
    inner, left = os.pread, bytes_max

    def counted(descriptor: int, size: int, at: int) -> bytes:
        nonlocal left
        data = inner(descriptor, size, at)
        left -= len(data)
        assert left >= 0
        return data

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "pread", counted)
        yield


def rebuilt(
    root: Path, images: Sequence[Path], bad: range, bytes_max: int
) -> tuple[Config, Collected, Outcome]:
    """The first image has sectors that cannot be read."""
    config = stopped_system(root)
    with bad_sectors(images[0], bad) if bad else nullcontext(), few_reads(bytes_max):
        *_, collected, outcome = rebuild(config, images, lambda what, path, why: None)
    return config, collected, outcome


def catalog_of(config: Config, data: bytes) -> tuple[dict[str, DiscState], Digests]:
    """States of discs, and what is where the extents say, which have its hash."""
    store = LmdbStore(Path(config.catalog.path), config.catalog.map_bytes, read_only=True)
    found: Digests = {}
    try:
        catalog = Catalog(store)
        for one in catalog.volume_extents(damage.LABEL):
            digest = hashlib.sha256(data[one.offset : one.offset + one.size]).hexdigest()
            if digest == one.sha256:
                found[one.path] = digest
        return {code: disc.state for code, disc in catalog.discs.items()}, found
    finally:
        store.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_one_copy_gives_all_but_what_is_damaged(volume: Volume, fault: str, tmp_path: Path) -> None:
    image = tmp_path / "D.img"
    for number, region in enumerate(volume.regions):
        data = volume.damaged(region, fault)
        image.write_bytes(data)
        bad = region.sectors if fault == "unreadable" else range(0)
        config, collected, outcome = rebuilt(
            tmp_path / f"{number}", [image], bad, READ_TIMES_MAX * len(data)
        )
        # What cannot be read and has no line is lost: no hash of it is known.
        is_lost = region.name == "last 2 MiB" and fault == "unreadable"
        lost = {path.encode() for path in region.hit if is_lost}
        assert paths_of(config) == {p: ino for p, ino in INODES.items() if p not in lost}, region
        assert (outcome.files, outcome.lost) == (len(volume.expected) - is_lost, is_lost), region
        assert (outcome.unproved > 0) == is_in_manifest(region), region
        assert collected.is_complete() == (region.name not in WITHOUT_SET), region
        _, found = catalog_of(config, data if fault != "unreadable" else volume.image)
        good = {p: d for p, d in volume.expected.items() if found.get(p) == d}
        assert good.keys() >= volume.expected.keys() - region.hit, region
        assert bool(collected.notes) == (is_in_manifest(region) or region.name in WITHOUT_SET), (
            region
        )


@pytest.mark.parametrize("fault", ["flipped", "unreadable"])
def test_a_library_gives_what_an_image_gives(volume: Volume, fault: str, tmp_path: Path) -> None:
    """The drive is asked for all that a rebuild makes use of."""
    image = tmp_path / "D.img"
    for number, region in enumerate(volume.regions):
        data = volume.damaged(region, fault)
        image.write_bytes(data)
        bad = region.sectors if fault == "unreadable" else range(0)
        first, *of_image = rebuilt(tmp_path / f"{number}", [image], bad, len(data) * 9)
        config = stopped_system(tmp_path / f"{number}l")
        put_into_library(config, data, bad)
        shelf = read_libraries(config, config.library, again=False)
        *_, collected, outcome = rebuild(config, [], lambda what, path, why: None, shelf)
        assert paths_of(config) == paths_of(first), region
        assert catalog_of(config, data)[1] == catalog_of(first, data)[1], region
        assert told(collected, outcome) == told(*of_image), region


def put_into_library(config: Config, data: bytes, bad: range) -> None:
    """Of one drive and one disc."""
    path = Path(config.library[0].path)
    library = EmulatedLibrary.create(path, drives=1, slots=1, magazine_slots=1, disc_bytes=1 << 23)
    code = library.state.slots[0]
    library.hands.load_foreign(code, data)
    fault = {"device": code, "op": "read", "sense": [3, 0x11, 0]}
    faults = [fault | {"lba_from": bad.start, "lba_to": bad.stop}] if bad else []
    (path / "faults.json").write_text(json.dumps(faults))


def told(collected: Collected, outcome: Outcome) -> tuple[object, ...]:
    return outcome.files, outcome.lost, outcome.unproved, collected.sets, len(collected.notes)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_whole_copy_beside_it_gives_all(volume: Volume, fault: str, tmp_path: Path) -> None:
    image, whole = tmp_path / "D.img", tmp_path / "W.img"
    whole.write_bytes(volume.image)
    for number, region in enumerate(volume.regions):
        image.write_bytes(volume.damaged(region, fault))
        bad = region.sectors if fault == "unreadable" else range(0)
        config, collected, outcome = rebuilt(
            tmp_path / f"{number}", [image, whole], bad, READ_TIMES_MAX * 2 * len(volume.image)
        )
        assert paths_of(config) == INODES, region
        assert (outcome.files, outcome.lost) == (len(volume.expected), 0), region
        assert (outcome.unproved, collected.is_complete()) == (0, True), region
        states, found = catalog_of(config, volume.image)
        assert {path: found[path] for path in volume.expected} == volume.expected, region
        expected = DiscState.DAMAGED if is_in_manifest(region) else DiscState.VERIFIED
        assert states == {"D": expected, "W": DiscState.VERIFIED}, region
