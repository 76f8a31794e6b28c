"""Malformed and hostile discs of others: an error that says where, soon, and nothing else.

``HSMFS_FUZZ_S=600`` makes it a long run.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
from binascii import crc_hqx
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.foreigndiscs import iso
from support.udfwriter import MKUDFFS, mkudffs
from support.vatdisc import VatDisc
from support.volumes import burn

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.foreign.detect import open_foreign
from hsmfs.volume.foreign.entry import HOLE, Problem
from hsmfs.volume.source import FileSource

FUZZ_S = float(os.environ.get("HSMFS_FUZZ_S", "0"))
READS_MAX = 20_000
"""Requests for one image of at most 2,000 sectors; more is a loop."""
ENTRIES_MAX = 100_000
WORDS = (0, 1, 2, 3, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 30)


class Mutation(NamedTuple):
    """One change of one sector that is in use."""

    sector: int
    place: int
    kind: int
    value: int
    reseal: bool


class Disc:
    """Sectors of an image; counts what is asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def read(self, sector: int, sectors: int) -> bytes:
        self.reads += 1
        assert self.reads <= READS_MAX, "too many reads: a loop"
        assert sector >= 0
        assert 0 < sectors <= 64
        return self.data[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]


def source(root: Path) -> Path:
    folder = root / "source"
    for number in range(12):
        path = folder / f"d{number % 3}/{'n' * number * 5}{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * number * 100)
    (folder / "a/b/c/d/e/f/g/h/i").mkdir(parents=True)
    (folder / "中文").write_bytes(b"x")
    (folder / "link").symlink_to("../a/very/long/" + "target/" * 60)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """One of each sort, small."""
    root = tmp_path_factory.mktemp("fuzz")
    made = [VatDisc(0x0201).image({f"d/{n}": b"y" * n * 400 for n in range(9)} | {"top": b"z"})]
    entries = [FileSource(path=b"d%d/%d" % (n % 3, n), ino=20 + n, size=700 * n) for n in range(12)]
    burn(root / "own.img", "OWN", entries)
    made.append((root / "own.img").read_bytes())
    if MKUDFFS:
        mkudffs(root / "sparable.img", 8_000_000, "--media-type=cdrw", "--udfrev=2.01")
        made.append((root / "sparable.img").read_bytes())
    if shutil.which("genisoimage"):
        folder = source(root)
        for number, options in enumerate((("-R", "-J"), ("-J",), ("-udf",), ("-udf", "-R"))):
            made.append(iso(root / f"{number}.iso", folder, *options).read_bytes())
    return made


def resealed(sector: bytearray) -> None:
    """A descriptor of UDF with right checksums, so that what is behind them is reached."""
    length = struct.unpack_from("<H", sector, 10)[0]
    if length <= SECTOR_BYTES - 16:
        struct.pack_into("<H", sector, 8, crc_hqx(bytes(sector[16 : 16 + length]), 0))
    sector[4] = (sum(sector[:4]) + sum(sector[5:16])) & 0xFF


def mutated(image: bytes, mutations: list[Mutation], cut: int) -> bytes:
    data = bytearray(image)
    used = [n for n in range(len(data) // SECTOR_BYTES) if any(data[n * 2048 : n * 2048 + 512])]
    for one in mutations:
        at = used[one.sector % len(used)] * SECTOR_BYTES
        sector = bytearray(data[at : at + SECTOR_BYTES])
        place = one.place % 2044
        match one.kind % 6:
            case 0:
                sector[place] ^= 1 << one.value % 8
            case 1:
                struct.pack_into("<I", sector, place, WORDS[one.value % len(WORDS)])
            case 2:
                struct.pack_into("<H", sector, place, WORDS[one.value % len(WORDS)] & 0xFFFF)
            case 3:
                other = used[one.value % len(used)] * SECTOR_BYTES
                sector = bytearray(data[other : other + SECTOR_BYTES])
            case 4:
                struct.pack_into("<I", sector, place, used[one.value % len(used)])
            case 5:
                sector[place] = one.value % 256
        if one.reseal and len(sector) == SECTOR_BYTES:
            resealed(sector)
        data[at : at + SECTOR_BYTES] = sector
    if cut:
        del data[cut % len(data) :]
    return bytes(data)


def use(data: bytes) -> None:
    """All that the reader offers; what it gives must be within the disc."""
    disc = Disc(data)
    started_s = time.process_time()
    try:
        volume = open_foreign(disc.read, len(data) // SECTOR_BYTES)
        assert isinstance(volume.label, str)
        assert volume.fingerprint
        for count, found in enumerate(volume.walk()):
            assert count < ENTRIES_MAX
            names = found.path.split(b"/")
            assert not {b"", b".", b".."} & set(names)
            assert not any(len(name) > 255 or b"\0" in name for name in names)
            if isinstance(found, Problem):
                assert found.why
                continue
            assert sum(length for _, length in found.runs) == found.size
            for at, length in found.runs:
                assert length > 0
                assert at == HOLE or 0 <= at <= at + length <= len(data)
    except MediumError as error:
        assert str(error)
    assert time.process_time() - started_s < 20, "took too long"


MUTATIONS = st.lists(
    st.builds(
        Mutation,
        st.integers(0, 10_000),
        st.integers(0, 255) | st.integers(0, 2043),
        st.integers(0, 5),
        st.integers(0, 10_000),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(which=st.integers(0, 10), mutations=MUTATIONS, cut=st.just(0) | st.integers(0, 10**7))
def test_no_disc_breaks_the_reader(
    images: list[bytes], which: int, mutations: list[Mutation], cut: int
) -> None:
    use(mutated(images[which % len(images)], mutations, cut))


@pytest.mark.skipif(not FUZZ_S, reason="HSMFS_FUZZ_S is not set")
def test_no_disc_breaks_the_reader_for_long(images: list[bytes]) -> None:
    seed, end_s = random.SystemRandom().getrandbits(32), time.monotonic() + FUZZ_S
    tried = 0
    while time.monotonic() < end_s:
        chance = random.Random(seed + tried)

        def number(stop: int, chance: random.Random = chance) -> int:
            return chance.randrange(stop)

        words: list[Any] = [
            Mutation(
                number(10_000),
                number(256) if number(2) else number(2044),
                number(6),
                number(10_000),
                number(10) > 1,
            )
            for _ in range(1 + number(8))
        ]
        cut = number(10**7) if number(20) == 0 else 0
        try:
            use(mutated(images[number(len(images))], words, cut))
        except BaseException as error:
            raise AssertionError(f"seed {seed + tried}") from error
        tried += 1
    print(f"{tried} discs")
