"""Write-once rules of an emulated disc against a model, through power cycles."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.libraries import CLUSTER, DRIVE, SLOT, content, new_library, sense_of

from hsmfs.changer import cdb
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary, open_library
from hsmfs.changer.library import Changer
from hsmfs.clock import ManualClock
from hsmfs.errors import CallerError, DriveError, LibraryError
from hsmfs.types import SECTOR_BYTES

CAPACITY = 6 * CLUSTER
SECTORS = st.integers(1, 3 * CLUSTER)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), SECTORS),
        st.tuples(st.just("write"), SECTORS, st.integers(0, CAPACITY + CLUSTER)),
        st.tuples(st.just("read"), SECTORS, st.integers(0, CAPACITY + CLUSTER)),
        st.tuples(st.sampled_from(["close", "track", "sync", "reload", "return", "power"])),
    ),
    max_size=14,
)


class Model:
    """What a write-once disc is: recorded bytes and whether it is closed."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    @property
    def written(self) -> int:
        return len(self.data) // SECTOR_BYTES

    def write(self, lba: int, data: bytes) -> tuple[int, int, int] | None:
        if self.closed:
            return (7, 0x27, 0)
        if lba != self.written:
            return (5, 0x21, 2)
        if len(self.data) + len(data) > CAPACITY * SECTOR_BYTES:
            return (5, 0x63, 0)
        self.data += data
        return None

    def info(self) -> tuple[str, int, int, int]:
        if self.closed:
            return ("complete", self.written, 0, cdb.PROFILE_BD_ROM)
        state = "incomplete" if self.data else "blank"
        return (state, CAPACITY, self.written, cdb.PROFILE_BD_R_SRM)


class Bench:
    """The emulated disc beside its model."""

    def __init__(self, root: Path) -> None:
        self.library = new_library(root, drives=1, slots=1, disc_bytes=CAPACITY * SECTOR_BYTES)
        self.model = Model()
        self.seed = 0
        self.carry(SLOT, DRIVE)

    @property
    def drive(self) -> Drive:
        return Drive(self.library.drive_transport(0))

    def carry(self, source: int, destination: int) -> None:
        Changer(self.library.changer_transport()).move(source, destination)
        if destination == DRIVE:
            self.drive.ready()

    def write(self, sectors: int, lba: int) -> None:
        self.seed += 1
        data = content(sectors, self.seed)
        device = self.library.drive_transport(0)
        said = sense_of(device, cdb.write_12(lba, sectors), data)
        assert said == self.model.write(lba, data)

    def append(self, sectors: int) -> None:
        self.write(sectors, self.model.written)

    def read(self, sectors: int, lba: int) -> None:
        length = sectors * SECTOR_BYTES
        reply = self.library.drive_transport(0).execute(cdb.read_12(lba, sectors), b"", length)
        if lba + sectors > self.model.written:
            assert (reply.sense[2], reply.sense[12], reply.sense[13]) == (5, 0x21, 0)
        else:
            assert reply.data == self.model.data[lba * SECTOR_BYTES :][:length]

    def close(self) -> None:
        command = cdb.close_track_session(cdb.CLOSE_SESSION, 1)
        refused = sense_of(self.library.drive_transport(0), command)
        assert (refused is None) == bool(self.model.data)
        self.model.closed = bool(self.model.data)

    def track(self) -> None:
        """Closing the track alone makes no disc complete."""
        sense_of(self.library.drive_transport(0), cdb.close_track_session(cdb.CLOSE_TRACK, 1))

    def sync(self) -> None:
        self.drive.sync()

    def reload(self) -> None:
        self.drive.eject()
        self.drive.load()
        self.drive.ready()

    def back(self) -> None:
        self.drive.eject()
        self.carry(DRIVE, SLOT)
        self.carry(SLOT, DRIVE)

    def power(self) -> None:
        """As after a kill: nothing is closed or saved in an orderly way."""
        self.library = open_library(self.library.path, ManualClock())
        self.drive.ready()

    def check(self) -> None:
        assert self.drive.disc_info() == self.model.info()
        image = self.library.image("HSM00001")
        assert (image.read_bytes() if image.exists() else b"") == self.model.data


@given(STEPS)
def test_a_disc_keeps_the_rules_of_write_once_media(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root))
        for name, *arguments in steps:
            getattr(bench, {"return": "back"}.get(name, name))(*arguments)
            bench.check()


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("move"), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("out"), st.integers(0, 1)),
        st.tuples(st.just("in"), st.integers(0, 3)),
        st.tuples(st.just("power"), st.just(0)),
    ),
    max_size=20,
)
ADDRESSES = [SLOT + n for n in range(6)] + [DRIVE, DRIVE + 1, 0x0300, 0x7777]


def everywhere(library: EmulatedLibrary) -> Iterator[str]:
    """Every disc, inside as the robot sees it and outside."""
    found = Changer(library.changer_transport()).inventory()
    for element in (*found.slots, *found.drives, *found.mailslots):
        if element.full:
            yield str(element.barcode)
    for tray in library.state.trays:
        yield from filter(None, tray.discs)


@given(MOVES)
def test_no_disc_is_ever_lost_or_doubled(steps: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        library = new_library(Path(root), mailslots=1)
        for name, *arguments in steps:
            library = act(library, name, *arguments)
            assert sorted(everywhere(library)) == [f"HSM{n:05d}" for n in range(1, 7)]


def act(library: EmulatedLibrary, name: str, *arguments: int) -> EmulatedLibrary:
    try:
        match name:
            case "move":
                source, destination = (ADDRESSES[index] for index in arguments)
                if source in (DRIVE, DRIVE + 1):
                    Drive(library.drive_transport(source - DRIVE)).eject()
                Changer(library.changer_transport()).move(source, destination)
            case "out":
                library.hands.take_out_magazine(arguments[0])
            case "in" if arguments[0] < len(library.state.trays):
                library.hands.put_in_magazine(library.state.trays[arguments[0]].id)
            case "power":
                return open_library(library.path, ManualClock())
    except (CallerError, LibraryError, DriveError):
        pass
    return library


@pytest.mark.parametrize("sectors", [1, CLUSTER - 1, CLUSTER, 512, 513])
def test_large_transfers_are_split_and_joined(tmp_path: Path, sectors: int) -> None:
    library = new_library(tmp_path)
    Changer(library.changer_transport()).move(SLOT, DRIVE)
    drive = Drive(library.drive_transport(0))
    drive.ready()
    data = content(sectors)
    drive.write(0, memoryview(data))
    assert drive.read(0, sectors) == data
    assert drive.read(0, 0) == b""
