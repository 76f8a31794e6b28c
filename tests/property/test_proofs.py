"""Proofs in pieces: whatever pauses them, they find the same and read nothing twice."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.importsystem import DISC, System

from hsmfs import config
from hsmfs.daemon.alarms import Alarms
from hsmfs.daemon.care import Care
from hsmfs.daemon.catalogrecords import (
    DiscRecord,
    DiscState,
    ExtentRecord,
    VolumeRecord,
    VolumeState,
)
from hsmfs.daemon.discproof import (
    DAMAGED_MAX,
    READ_SECTORS,
    Damage,
    FilesProof,
    ImageProof,
    ProofPaused,
    all_files,
    sample,
)
from hsmfs.daemon.scheduler import Work
from hsmfs.daemon.verifyjob import VerifyJob
from hsmfs.daemon.ward import Ward
from hsmfs.errors import MediumError
from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES

PIECES_MAX = 500
PERCENTS = st.sampled_from([100.0, 40.0, 1.0])


class Disc:
    """Bytes, sectors that cannot be read, and what was asked for."""

    def __init__(self, data: bytes, bad: set[int]) -> None:
        self.data, self.bad = data, bad
        self.asked: list[tuple[int, int]] = []

    def read(self, lba: int, count: int) -> bytes:
        self.asked.append((lba, count))
        if not self.bad.isdisjoint(range(lba, lba + count)):
            raise MediumError(f"sectors {lba} to {lba + count}: cannot be read")
        return self.data[lba * SECTOR_BYTES : (lba + count) * SECTOR_BYTES]


class Pauses:
    """A check that stops at the numbers that were drawn."""

    def __init__(self, at: set[int]) -> None:
        self.at, self.count, self.stopped = at, 0, 0

    def __call__(self) -> None:
        self.count += 1
        if self.count in self.at:
            self.stopped += 1
            raise ProofPaused("a reader")


def in_pieces(proof: ImageProof | FilesProof, disc: Disc, check: Pauses) -> str | Damage:
    for _ in range(PIECES_MAX):
        try:
            return proof.go_on(disc.read, check)
        except ProofPaused:
            continue
    raise AssertionError("it does not end")


pauses = st.sets(st.integers(1, 40), max_size=20)


@given(st.integers(1, 6 * READ_SECTORS), pauses)
@settings(max_examples=25, deadline=None)
def test_an_image_in_pieces_has_the_hash_of_the_whole(sectors: int, at: set[int]) -> None:
    data = os.urandom(64) * (sectors * SECTOR_BYTES // 64)
    disc, check = Disc(data, set()), Pauses(at)
    assert in_pieces(ImageProof(sectors), disc, check) == xxhash.xxh3_128_hexdigest(data)
    assert sum(count for _, count in disc.asked) == sectors, "each sector is read once"
    assert check.stopped == len([n for n in at if n <= check.count])


@st.composite
def discs(draw: st.DrawFn) -> tuple[list[ExtentRecord], bytes, set[int]]:
    """A few files, one of several chunks, with damage."""
    sizes = draw(st.lists(st.integers(0, 5_000), min_size=1, max_size=8))
    sizes.insert(draw(st.integers(0, len(sizes))), 2 * CHUNK_BYTES + 77)
    data, extents = bytearray(), []
    for number, size in enumerate(sizes):
        body = bytes([number + 1]) * size
        chunks = [
            xxhash.xxh3_64_intdigest(body[at : at + CHUNK_BYTES])
            for at in range(0, size, CHUNK_BYTES)
        ]
        extents.append(
            ExtentRecord(
                offset=len(data), size=size, xxh3_128=xxhash.xxh3_128_hexdigest(body),
                sha256=hashlib.sha256(body).hexdigest(), chunks=chunks, path=f"f{number}",
            )
        )  # fmt: skip
        data += body + bytes(-size % SECTOR_BYTES)
    for at in draw(st.lists(st.integers(0, len(data) - 1), max_size=3)):
        data[at] ^= 0x80
    bad = draw(st.sets(st.integers(0, len(data) // SECTOR_BYTES), max_size=2))
    return extents, bytes(data), bad


@given(discs(), pauses, PERCENTS, st.integers(0, 9))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_files_in_pieces_give_what_one_go_gives(
    made: tuple[list[ExtentRecord], bytes, set[int]], at: set[int], percent: float, seed: int
) -> None:
    extents, data, bad = made

    def proof() -> FilesProof:
        return all_files(extents) if percent == 100.0 else sample(extents, percent, seed)

    once, parts = Disc(data, bad), Disc(data, bad)
    whole = proof().go_on(once.read, lambda: None)
    assert in_pieces(proof(), parts, Pauses(at)) == whole
    assert parts.asked == once.asked
    assert whole.total >= len(whole.files) and len(whole.files) <= DAMAGED_MAX


# -- the daemon's own jobs on an emulated drive ---------------------------------------------


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> System:
    return System(tmp_path_factory.mktemp("proofs"))


def a_care(system: System, root: Path) -> tuple[Care, VolumeRecord]:
    """One disc that was burned and waits for its proof."""
    data = system.library.image(DISC).read_bytes()
    sectors = len(data) // SECTOR_BYTES
    record = VolumeRecord(
        label="V1", pool="p", state=VolumeState.COMPLETE, copies=1, total_sectors=sectors,
        image_xxh3=xxhash.xxh3_128_hexdigest(data[: sectors * SECTOR_BYTES]),
    )  # fmt: skip
    core: Any = system.importer.core
    core.catalog.volumes["V1"] = record
    disc = core.catalog.discs[DISC]
    disc.volume, disc.state, disc.verified_ns = "V1", DiscState.BURNED, 0
    core.metrics = SimpleNamespace(
        verify_seconds=SimpleNamespace(observe=lambda _s: None),
        errors=SimpleNamespace(labels=lambda _k: SimpleNamespace(inc=lambda: None)),
    )
    core.librarian.units = [system.unit]
    core.librarian.alive_units = lambda: [system.unit]
    alarms = Alarms(core.clock)
    core.ward = Ward(config.Health(), [system.unit], core.catalog, alarms, core.clock, lambda: None)
    core.config, core.policy = SimpleNamespace(care=config.Care()), SimpleNamespace(pools={})
    return Care(core, root), record


def prove(care: Care, system: System, yield_after: list[int]) -> list[tuple[int, int]]:
    """Run the disc's proof to its end, told to make room after so many reads; what was read."""
    unit, asked = system.unit, []
    real = unit.drive.read

    def read(lba: int, count: int) -> bytes:
        asked.append((lba, count))
        if len(asked) in yield_after:
            unit.yields = True
        return real(lba, count)

    async def pieces() -> None:
        while care.verify_demands():
            unit.yields, unit.work = False, Work.VERIFY
            job = care.start_verify(DISC)
            assert isinstance(job, VerifyJob)
            await job.run(unit)

    unit.drive.read = read  # type: ignore[method-assign]
    try:
        trio.run(pieces)
    finally:
        unit.drive.read = real  # type: ignore[method-assign]
    return asked


def test_a_proof_that_made_room_goes_on_where_it_was(system: System, tmp_path: Path) -> None:
    care, record = a_care(system, tmp_path)
    asked = prove(care, system, [1, 2])
    assert sum(count for _, count in asked) == record.total_sectors
    disc = system.catalog.discs[DISC]
    assert disc.state == DiscState.VERIFIED and not care.paused
    assert not care.core.reserved


@pytest.mark.allow_warnings
def test_damage_is_told_after_a_pause(system: System, tmp_path: Path) -> None:
    """The image differs; then all files are looked at."""
    care, record = a_care(system, tmp_path)
    record.image_xxh3 = "0" * 32
    reads = -(-record.total_sectors // READ_SECTORS)
    asked = prove(care, system, [1, reads])
    assert sum(count for _, count in asked) == record.total_sectors
    disc = system.catalog.discs[DISC]
    assert disc.state == DiscState.SUSPECT and "no file is damaged" in disc.note


def test_a_disc_that_left_meanwhile_is_read_anew(system: System, tmp_path: Path) -> None:
    care, record = a_care(system, tmp_path)
    unit, real = system.unit, care.core.librarian.present
    job = care.start_verify(DISC)
    assert isinstance(job, VerifyJob)
    unit.yields = True
    trio.run(job.run, unit)
    assert care.paused and job.is_paused and job.error is None
    care.core.librarian.present = lambda disc: False  # type: ignore[method-assign]
    assert care.verify_demands() == [] and not care.paused
    care.core.librarian.present = real  # type: ignore[method-assign]
    asked = prove(care, system, [])
    assert sum(count for _, count in asked) == record.total_sectors


@pytest.mark.allow_warnings
def test_alarms_about_discs_end_when_their_volume_has_its_copies(
    system: System, tmp_path: Path
) -> None:
    care, record = a_care(system, tmp_path)
    core: Any = care.core
    core.alarms = Alarms(core.clock)
    bad = DiscRecord(
        barcode="BAD", magazine="m", position=0, library="l", state=DiscState.DAMAGED, volume="V1"
    )
    core.catalog.discs["BAD"] = bad
    core.alarms.raise_("verify-failed", "disc BAD: found damage")
    core.alarms.raise_("repair-failed", "volume V1: 3 burns failed")
    core.alarms.raise_("damaged-copy", "disc OTHER: found damage")
    trio.run(care._enough, record)
    assert list(core.alarms.active) == [("damaged-copy", "disc OTHER: found damage")]
