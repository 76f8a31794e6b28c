"""Malformed and hostile images: an error that says where, soon, and nothing else.

``HSMFS_FUZZ_S=600`` makes it a long run (``make fuzz``).
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import struct
import time
from binascii import crc_hqx
from pathlib import Path

import pytest
from support.volumes import burn

from hsmfs.errors import HsmError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import recover
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import FileSource
from hsmfs.volume.verify import verify_image

FUZZ_S = float(os.environ.get("HSMFS_FUZZ_S", "6"))
READS_MAX = 50_000
"""Of one image of about 1,000 sectors; more is a loop."""
WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 30)
ENTRIES = [
    FileSource(path=b"d%d/%s%d" % (n % 3, b"n" * n, n), ino=20 + n, size=700 * n, data_version=1)
    for n in range(12)
]
ENTRIES += [
    FileSource(path=b"link", ino=20, size=0, link_of=ENTRIES[0].path),
    FileSource(path="é/中".encode(), ino=50, size=3),
]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("fuzz") / "volume.img"
    burn(path, "FUZZ", ENTRIES, own={b"namespace.jsonl.gz": b"no gzip"})
    return path.read_bytes()


class TooMuch(Exception):
    """More reads than any honest volume needs."""


class Disc:
    """Sectors of an image; counts what is asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def read(self, sector: int, sectors: int) -> bytes:
        self.reads += 1
        if self.reads > READS_MAX or sectors > 100_000:
            raise TooMuch(f"{self.reads} reads, {sectors} sectors at {sector}")
        assert sector >= 0
        assert sectors > 0
        return self.data[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]


def sealed(sector: bytearray) -> None:
    """A descriptor's checksums made right again, so that what is behind them is reached."""
    length = struct.unpack_from("<H", sector, 10)[0]
    if length <= SECTOR_BYTES - 16:
        struct.pack_into("<H", sector, 8, crc_hqx(bytes(sector[16 : 16 + length]), 0))
    sector[4] = (sum(sector[:4]) + sum(sector[5:16])) & 0xFF


def mutated(image: bytes, chance: random.Random) -> bytes:
    data = bytearray(image)
    used = [n for n in range(len(data) // SECTOR_BYTES) if any(data[n * 2048 : n * 2048 + 512])]
    for _ in range(chance.randint(1, 6)):
        at = chance.choice(used) * SECTOR_BYTES
        sector = bytearray(data[at : at + SECTOR_BYTES])
        for _ in range(chance.randint(1, 4)):
            place = chance.choice((chance.randrange(0, 256), chance.randrange(0, 2044)))
            match chance.randrange(5):
                case 0:
                    sector[place] ^= 1 << chance.randrange(8)
                case 1:
                    struct.pack_into("<I", sector, place, chance.choice(WORDS))
                case 2:
                    struct.pack_into("<H", sector, place, chance.choice(WORDS) & 0xFFFF)
                case 3:
                    other = chance.choice(used) * SECTOR_BYTES
                    sector = bytearray(data[other : other + SECTOR_BYTES])
                case 4:
                    sector[place:] = bytes(SECTOR_BYTES - place)
        if chance.random() < 0.8:
            sealed(sector)
        data[at : at + SECTOR_BYTES] = sector
    if chance.random() < 0.05:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def use(data: bytes) -> None:
    """All that the reader offers."""
    disc = Disc(data)
    reader = VolumeReader(disc.read, len(data) // SECTOR_BYTES)
    with contextlib.suppress(HsmError):
        assert reader.header.label is not None
    with contextlib.suppress(HsmError, OSError):
        for entry in reader.walk():
            if not entry.is_directory and entry.size < len(data) * 2:
                for _ in reader.stream_file(entry.path):
                    pass
    for entry in ENTRIES:
        with contextlib.suppress(HsmError, OSError):
            reader.read_file(entry.path)
    for _ in reader.manifest_until_damage():
        pass
    with contextlib.suppress(HsmError):
        assert reader.header_or_rest()[0].label is not None
    listed = set()
    with contextlib.suppress(HsmError):
        for one in reader.manifest_or_rest():
            listed.add(getattr(one, "disc_path", ""))
    for _ in reader.unlisted(listed):
        pass
    reads, disc.reads = disc.reads, 0
    with contextlib.suppress(HsmError):
        for _ in verify_image(disc.read, len(data) // SECTOR_BYTES):
            pass
    disc.reads += reads


def test_no_image_breaks_the_reader(image: bytes) -> None:
    seed, end_s = random.SystemRandom().getrandbits(32), time.monotonic() + FUZZ_S
    tried = 0
    while time.monotonic() < end_s or tried < 50:
        data = mutated(image, random.Random(seed + tried))
        started_s = time.monotonic()
        try:
            use(data)
        except HsmError as error:
            assert str(error)
        except BaseException as error:
            raise AssertionError(f"seed {seed + tried}") from error
        assert time.monotonic() - started_s < 20, f"seed {seed + tried} took too long"
        tried += 1


def test_no_image_breaks_recover(image: bytes, tmp_path: Path) -> None:
    seed, end_s = random.SystemRandom().getrandbits(32), time.monotonic() + FUZZ_S / 2
    tried = 0
    start = image.rindex(b'{"kind":"hsm-manifest"')
    while time.monotonic() < end_s or tried < 20:
        chance = random.Random(seed + tried)
        data = bytearray(image)
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(start, start + 6000)
            data[place : place + chance.randint(0, 3)] = chance.choice(
                (b"", b"-1", b"99999999999999999999", b"null", b"{", b"\xff", b'"', b"[[", b"..")
            )
        path = tmp_path / "volume.img"
        if tried % 2:  # the tree is used where the manifest is damaged, and is damaged too
            data = bytearray(mutated(bytes(data), chance))
        path.write_bytes(data)
        out = tmp_path / str(tried)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                recover.main([str(path), "--into", str(out)])
        except BaseException as error:
            raise AssertionError(f"seed {seed + tried}") from error
        tried += 1
