"""libudfread (behind VLC, Kodi, libbluray) reads all of a volume."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from support.udfread import LIBRARY, Disc

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.geometry import PARTITION_SECTOR
from hsmfs.volume.layout import FileSource, Layout, VolumeHeader, plan_volume
from hsmfs.volume.writer import VolumeWriter

needs_libudfread = pytest.mark.skipif(LIBRARY is None, reason="libudfread is not installed")
ENTRIES = [
    FileSource(path="目录/é — 文件.dcm".encode(), ino=2, size=5000),
    FileSource(path=b"a/empty", ino=3),
    FileSource(path=b"a/long" + b"n" * 248, ino=4, size=3 << 20),
    FileSource(path=b"a/again", ino=2, link_of="目录/é — 文件.dcm".encode()),
    *(FileSource(path=b"wide/%04d" % i, ino=100 + i, size=i) for i in range(300)),
]


def content(ino: int, size: int) -> bytes:
    return random.Random(ino).randbytes(size)


@pytest.fixture(scope="module")
def volume() -> tuple[Layout, bytes]:
    header = VolumeHeader(label="HSM 卷 1", site="s", pool="p", created_ns=1)
    layout = plan_volume(header, ENTRIES, 1 << 20)
    chunks = VolumeWriter(layout).stream(lambda e: io.BytesIO(content(e.ino, e.size)))
    return layout, b"".join(chunks)


def test_metadata_file_and_mirror_have_extended_file_entries(volume: tuple[Layout, bytes]):
    """What libudfread insists on, also where it is not installed."""
    layout, image = volume
    for sector in (PARTITION_SECTOR, layout.geometry.mirror_entry_sector):
        assert image[sector * SECTOR_BYTES : sector * SECTOR_BYTES + 2] == b"\x0a\x01"


LOST = {
    "nothing": (),
    "anchor at 256": (256,),
    "main sequence": range(32, 48),
    "metadata file's entry": (PARTITION_SECTOR,),
}


@needs_libudfread
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_libudfread_reads_every_file(
    lost: range | tuple[int, ...], volume: tuple[Layout, bytes], tmp_path: Path
):
    image = bytearray(volume[1])
    for sector in lost:
        image[sector * SECTOR_BYTES : (sector + 1) * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    path = tmp_path / "volume.img"
    path.write_bytes(image)
    disc = Disc(path)
    try:
        found = disc.files()
        assert disc.label.decode() == "HSM 卷 1"
    finally:
        disc.close()
    sizes = {entry.ino: entry.size for entry in ENTRIES if entry.has_data}
    assert {p: d for p, d in found.items() if not p.startswith(b".hsm/")} == {
        entry.path: content(entry.ino, sizes[entry.ino]) for entry in ENTRIES
    }
