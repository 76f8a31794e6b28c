"""Sources that fail while they are written, and discs that fail when read."""

from __future__ import annotations

import io
import random
import struct
from binascii import crc_hqx
from collections.abc import Callable
from types import TracebackType

import pytest

from hsmfs.errors import CallerError, MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.layout import FileSource, VolumeHeader, plan_volume
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.writer import VolumeWriter

HEADER = VolumeHeader(label="HSM7", site="s", pool="p", created_ns=1)
FILES = [FileSource(path=b"d%d/f%d" % (i % 3, i), ino=i + 2, size=3000 * i) for i in range(9)]
LAYOUT = plan_volume(HEADER, FILES, 1 << 20)
GEOMETRY = LAYOUT.geometry
TOTAL = LAYOUT.total_sectors


class Failing(io.BytesIO):
    """Reads some, then fails."""

    def readinto(self, buffer: memoryview) -> int:
        if self.tell():
            raise OSError(5, "bad block below the cache")
        return super().readinto(buffer[:1000])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def content(entry: FileSource) -> bytes:
    return bytes([entry.ino]) * entry.size


def image_of(open_source: Callable[[FileSource], io.BytesIO]) -> tuple[bytearray, VolumeWriter]:
    writer = VolumeWriter(LAYOUT)
    return bytearray().join(writer.stream(open_source)), writer


@pytest.fixture
def image() -> bytearray:
    return image_of(lambda entry: io.BytesIO(content(entry)))[0]


def reader_of(image: bytes, unreadable: range = range(0), total: int | None = TOTAL):
    def read(sector: int, sectors: int) -> bytes:
        if any(s in unreadable for s in range(sector, sector + sectors)):
            raise MediumError(f"sector {sector}: unrecovered read error")
        return bytes(image[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES])

    return VolumeReader(read, total)


def whole(reader: VolumeReader) -> None:
    """All can be read."""
    assert sum(not entry.is_directory for entry in reader.walk()) == len(FILES) + 2
    assert len(list(reader.manifest())) == len(FILES)
    for entry in FILES:
        assert reader.read_file(entry.path) == content(entry)


def blank(image: bytearray, first: int, sectors: int = 1) -> bytearray:
    image[first * SECTOR_BYTES : (first + sectors) * SECTOR_BYTES] = bytes(sectors * SECTOR_BYTES)
    return image


# -- sources ---------------------------------------------------------------------------


def source_that_is(fault: str) -> Callable[[FileSource], io.BytesIO]:
    def open_source(entry: FileSource) -> io.BytesIO:
        data = content(entry)
        if entry.ino != 7:
            return io.BytesIO(data)
        if fault == "missing":
            raise FileNotFoundError(2, "gone")
        if fault == "failing":
            return Failing(data)
        return io.BytesIO(data[:-1] if fault == "shorter" else data + b"x")

    return open_source


@pytest.mark.parametrize("fault", ["missing", "failing", "shorter", "longer"])
def test_a_bad_source_is_void_and_moves_nothing(fault: str, image: bytearray):
    found, writer = image_of(source_that_is(fault))
    assert [result.ino for result in writer.results if result.void] == [7]
    void = next(result for result in writer.results if result.void)
    assert void.sha256 == "0" * 64 and void.chunk_xxh3 == [0]
    reader = reader_of(found)
    told = [e.source.ino for e in reader.manifest() if e.result is not None and e.result.void]
    assert told == [7]
    assert len(reader.read_file(b"d2/f5")) == 15000
    assert len(found) == len(image)
    assert all(reader.read_file(e.path) == content(e) for e in FILES if e.ino != 7)


def test_an_empty_file_needs_no_source():
    def open_source(entry: FileSource) -> io.BytesIO:
        if not entry.size:
            raise FileNotFoundError(2, "the cache keeps nothing of it")
        return io.BytesIO(content(entry))

    _, writer = image_of(open_source)
    assert not any(result.void for result in writer.results)


# -- discs ---------------------------------------------------------------------------------

LOST = {
    "anchor at 256": range(256, 257),
    "anchors at the end": range(TOTAL - 257, TOTAL),
    "main sequence": range(32, 48),
    "one descriptor of the main sequence": range(34, 35),
    "all of the first 2 MiB but the metadata": range(16, 288),
    "reserve sequence": range(TOTAL - 512, TOTAL - 496),
    "metadata file entry": range(288, 289),
    "one block of metadata": range(322, 323),
    "all metadata": range(320, GEOMETRY.data_sector),
    "mirror": range(GEOMETRY.mirror_sector, GEOMETRY.mirror_entry_sector + 1),
}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_what_is_there_twice_may_be_lost_once(lost: range, image: bytearray):
    whole(reader_of(image, unreadable=lost))
    whole(reader_of(blank(image, lost.start, len(lost))))


def test_each_copy_of_the_metadata_may_have_its_own_bad_block(image: bytearray):
    blank(image, 321)
    blank(image, GEOMETRY.mirror_sector + 5)
    whole(reader_of(image))


def test_without_the_disc_size_the_anchor_at_256_may_be_lost(image: bytearray):
    whole(reader_of(image, unreadable=range(256, 257), total=None))


def test_a_blank_disc_is_a_medium_error():
    with pytest.raises(MediumError, match="blank, foreign or badly damaged"):
        reader_of(bytes(2048 * 1024))


def test_error_names_sector_and_descriptor(image: bytearray):
    for start in (320, GEOMETRY.mirror_sector):
        image[(start + 2) * SECTOR_BYTES + 40] ^= 1
    with pytest.raises(MediumError, match=r"sector 322: file entry: CRC"):
        list(reader_of(image).walk())


def test_a_changed_manifest_is_found(image: bytearray):
    at = image.index(b'"path":"d0/f0"')
    image[at + 8 : at + 9] = b"e"
    with pytest.raises(MediumError, match="lines before it are missing or changed"):
        list(reader_of(image).manifest())


def test_a_newer_format_is_refused(image: bytearray):
    at = image.index(b'"format":2,')
    image[at : at + 11] = b'"format":9,'
    with pytest.raises(CallerError, match="newer than this reader"):
        _ = reader_of(image).header


def test_a_missing_file_is_an_os_error(image: bytearray):
    with pytest.raises(FileNotFoundError):
        reader_of(image).read_file(b"d0/none")
    with pytest.raises(IsADirectoryError):
        reader_of(image).read_file(b"d0")


def reseal(image: bytearray, at: int) -> None:
    """Make tag and CRC right again: damage that looks like a descriptor."""
    (length,) = struct.unpack_from("<H", image, at + 10)
    crc = crc_hqx(bytes(image[at + 16 : at + 16 + length]), 0)
    struct.pack_into("<H", image, at + 8, crc)
    image[at + 4] = (sum(image[at : at + 4]) + sum(image[at + 5 : at + 16])) & 0xFF


def test_malformed_but_sealed_descriptors_give_medium_errors(image: bytearray):
    chance = random.Random(11)
    blank(image, GEOMETRY.mirror_sector, GEOMETRY.metadata_blocks + 1)
    sealed = [34, 35, 256, 288, 320, *range(322, 340)]
    failed = 0
    for _ in range(400):
        bad = bytearray(image)
        at = chance.choice(sealed) * SECTOR_BYTES
        size = chance.choice((1, 2, 4, 16))
        start = at + 16 + chance.randrange(480)
        bad[start : start + size] = chance.choice((b"\xff" * size, chance.randbytes(size)))
        reseal(bad, at)
        try:
            reader = reader_of(bad)
            for entry in reader.walk():
                if not entry.is_directory and entry.size < 1 << 20:
                    reader.read_file(entry.path)
            list(reader.manifest())
        except (MediumError, FileNotFoundError, IsADirectoryError):
            failed += 1
    assert failed > 20


def test_garbage_gives_medium_errors_and_nothing_else(image: bytearray):
    chance = random.Random(7)
    places = [*range(32, 38), 256, 288, *range(320, 350)]
    for _ in range(60):
        bad = bytearray(image)
        blank(bad, GEOMETRY.mirror_sector, GEOMETRY.metadata_blocks)
        at = chance.choice(places) * SECTOR_BYTES
        size = chance.choice((1, 8, 200))
        start = at + chance.randrange(500)
        bad[start : start + size] = chance.randbytes(size)
        try:
            reader = reader_of(bad)
            list(reader.walk())
            list(reader.manifest())
        except MediumError:
            pass
