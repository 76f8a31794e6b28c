"""UDF 2.01, and metadata files of several extents: our reader and those of others."""

from __future__ import annotations

import hashlib
import shutil
import stat
import struct
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from support.discreaders import grub, linux, needs_grub, udfclient
from support.udfread import LIBRARY, Disc
from support.volumes import burn, content

from hsmfs.errors import CallerError, MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import fileentry, geometry, recover
from hsmfs.volume.descriptor import TagId, sealed
from hsmfs.volume.geometry import METADATA_SECTOR, PARTITION_SECTOR, Geometry
from hsmfs.volume.layout import VolumeHeader, plan_volume
from hsmfs.volume.mount import Mount, Read
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import FileSource
from hsmfs.volume.verify import verify_image

SMALL_EXTENT_BLOCKS = 64
"""Instead of 524,256, so that a small volume has several."""
FILES = [
    FileSource(
        path=b"study%d/image %04d.dcm" % (number // 80, number),
        ino=2 + number,
        size=number * 37 % 5000,
        mode=stat.S_IFREG | 0o640,
        mtime_ns=1_600_000_000_000_000_000 + number * 1000,
    )
    for number in range(400)
]
OWN = {b"recover.py": b"print()\n"}


def image_of(path: Path, udf: str) -> Path:
    burn(path, "HSM 卷 7", FILES, own=OWN, udf=udf)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without a metadata partition."""
    return image_of(tmp_path_factory.mktemp("udf201") / "volume.img", "2.01")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a metadata file of more than one extent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "METADATA_EXTENT_BLOCKS", SMALL_EXTENT_BLOCKS)
        patch.setattr(fileentry, "METADATA_EXTENT_BLOCKS", SMALL_EXTENT_BLOCKS)
        return image_of(tmp_path_factory.mktemp("several") / "volume.img", "2.50")


@pytest.fixture(params=["2.01", "several extents"])
def image(request: pytest.FixtureRequest, plain: Path, several: Path) -> Path:
    return plain if request.param == "2.01" else several


def reading(image: Path | bytes | bytearray) -> Read:
    data = image.read_bytes() if isinstance(image, Path) else image
    return lambda sector, count: bytes(
        data[sector * SECTOR_BYTES : (sector + count) * SECTOR_BYTES]
    )


def sectors(image: Path) -> int:
    return image.stat().st_size // SECTOR_BYTES


def test_our_reader_reads_and_proves_all(image: Path):
    read = reading(image)
    assert list(verify_image(read, sectors(image))) == []
    reader = VolumeReader(read, sectors(image))
    assert reader.total_sectors == sectors(image)
    assert sum(not entry.is_directory for entry in reader.walk()) == len(FILES) + 3
    for source in FILES:
        assert reader.read_file(source.path) == content(source)


def test_the_manifest_says_what_is_not_usual(plain: Path, several: Path):
    assert VolumeReader(reading(plain), sectors(plain)).header.udf == "2.01"
    assert VolumeReader(reading(several), sectors(several)).header.udf == "2.50"
    readme = VolumeReader(reading(plain)).read_file("/.hsm/README.txt").decode()
    assert "UDF 2.01 file system" in readme and "2.50" not in readme


def test_recover_restores_it(image: Path, tmp_path: Path):
    assert recover.main(["--into", str(tmp_path / "out"), str(image)]) == 0
    for source in FILES:
        assert (tmp_path / "out").joinpath(source.path.decode()).read_bytes() == content(source)


def test_linux_reads_every_file(image: Path, tmp_path: Path):
    found = linux(image, tmp_path)
    assert found["errors"] == []
    assert not [line for line in found["log"] if "INFO Mounting volume" not in line]
    for source in FILES:
        mode, _, _, _, size, mtime_ns, digest = found["entries"][source.path]
        assert (mode, size, mtime_ns) == (source.mode, source.size, source.mtime_ns)
        assert digest == hashlib.sha256(content(source)).hexdigest(), source.path


def test_udfclient_reads_every_file(image: Path, tmp_path: Path):
    said = udfclient(image, tmp_path / "out")
    assert "error" not in said.lower(), said
    found = Counter(
        path.read_bytes() for path in (tmp_path / "out" / "disc").rglob("*") if path.is_file()
    )
    assert not Counter(map(content, FILES)) - found


@pytest.mark.skipif(LIBRARY is None, reason="libudfread is not installed")
def test_libudfread_reads_every_file(image: Path):
    with closing(Disc(image)) as disc:
        found = disc.files()
    for source in FILES:
        assert found[source.path] == content(source)


@pytest.mark.skipif(shutil.which("7z") is None, reason="7z is not installed")
def test_seven_zip_reads_udf_201_without_a_word(plain: Path, tmp_path: Path):
    """No mirror behind the data: not even those two warnings. (It refuses a metadata file
    of several extents, see docs/disc-format.md.)"""
    command = ["7z", "x", f"-o{tmp_path / 'out'}", str(plain)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "arning" not in done.stdout + done.stderr
    for source in FILES:
        assert (tmp_path / "out").joinpath(source.path.decode()).read_bytes() == content(source)


@needs_grub
def test_grub_reads_udf_201(plain: Path):
    for source in FILES[::50]:
        assert grub(plain, source.path.decode()) == content(source)


def test_udf_201_has_nothing_twice_but_anchors_and_descriptors(plain: Path):
    data = bytearray(plain.read_bytes())
    data[32 * SECTOR_BYTES : 48 * SECTOR_BYTES] = bytes(16 * SECTOR_BYTES)
    data[256 * SECTOR_BYTES : 257 * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    reader = VolumeReader(reading(data), sectors(plain))
    assert reader.read_file(FILES[7].path) == content(FILES[7])
    root = METADATA_SECTOR + 2
    data[root * SECTOR_BYTES : (root + 1) * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    with pytest.raises(MediumError, match=f"sector {root}: file entry"):
        reader = VolumeReader(reading(data), sectors(plain))
        reader.read_file(FILES[7].path)


@pytest.mark.parametrize("size_is_known", [True, False])
def test_udf_201_without_any_descriptor_is_found_by_its_places(plain: Path, size_is_known: bool):
    data, count = bytearray(plain.read_bytes()), sectors(plain)
    data[: PARTITION_SECTOR * SECTOR_BYTES] = bytes(PARTITION_SECTOR * SECTOR_BYTES)
    data[-512 * SECTOR_BYTES :] = bytes(512 * SECTOR_BYTES)
    reader = VolumeReader(reading(data), count if size_is_known else None)
    assert reader.label == "HSM 卷 7"
    assert all(reader.read_file(source.path) == content(source) for source in FILES)


def test_an_unknown_revision_is_refused():
    header = VolumeHeader(label="L", site="s", pool="p", created_ns=1, udf="2.60")
    with pytest.raises(CallerError, match=r"found UDF '2\.60'"):
        plan_volume(header, [], 10_000)


# -- extents of the metadata file ---------------------------------------------------------


def test_extents_are_whole_units_that_follow_one_another():
    half = geometry.METADATA_EXTENT_BLOCKS
    assert Geometry(half, 1).metadata_extents == [half]
    assert Geometry(half - 1, 1).metadata_extents == [half]
    assert Geometry(half + 1, 1).metadata_extents == [half, 32]
    assert Geometry(3 * half, 1).metadata_extents == [half] * 3
    ads = fileentry.metadata_file_entry(Geometry(half + 1, 1), 0, mirror=False)[216:]
    first, second = struct.unpack_from("<II", ads), struct.unpack_from("<II", ads, 8)
    assert first == (2**30 - 65536, 32)
    assert second == (65536, 32 + half)
    most = Geometry(geometry.METADATA_BLOCKS_MAX, 1)
    assert len(fileentry.metadata_file_entry(most, 0, mirror=True)) == SECTOR_BYTES


def test_the_mirror_of_several_extents_stands_in(several: Path):
    data = bytearray(several.read_bytes())
    bad = METADATA_SECTOR + SMALL_EXTENT_BLOCKS * 3 + 5
    data[bad * SECTOR_BYTES : (bad + 1) * SECTOR_BYTES] = bytes(SECTOR_BYTES)
    reader = VolumeReader(reading(data), sectors(several))
    assert all(reader.read_file(source.path) == content(source) for source in FILES)
    problems = list(verify_image(reading(data), sectors(several)))
    assert [text for text in problems if f"sector {bad}: metadata differs" in text] == problems


def changed(several: Path, extents: list[tuple[int, int]]) -> bytearray:
    """Other extents in the metadata file's entry and its mirror's."""
    data = bytearray(several.read_bytes())
    ads = b"".join(struct.pack("<II", *extent) for extent in extents)
    size = struct.pack("<Q", sum(length for length, _ in extents))
    for block in Mount(reading(several), sectors(several)).metadata_entry_blocks():
        start = (PARTITION_SECTOR + block) * SECTOR_BYTES
        kept = bytes(data[start + 16 : start + 56]), bytes(data[start + 64 : start + 212])
        body = kept[0] + size + kept[1] + struct.pack("<I", len(ads)) + ads
        entry = sealed(TagId.EXTENDED_FILE_ENTRY, block, body)
        data[start : start + SECTOR_BYTES] = entry.ljust(SECTOR_BYTES, b"\0")
    return data


@pytest.mark.parametrize(
    ("extents", "why"),
    [
        ([(65536, 32), (2**29, 999)], "expected whole blocks at 64"),
        ([(65536, 32), (65537, 64)], "expected whole blocks at 64"),
        ([(2**30 - 65536, 32 + n * (2**19 - 32)) for n in range(200)], "outside the partition"),
        ([(2**30 - 65536, 0xFFFFFFFF)], "outside the partition"),
    ],
    ids=["elsewhere", "no whole blocks", "more than the disc", "far away"],
)
def test_malformed_extents_are_told(several: Path, extents: list[tuple[int, int]], why: str):
    data = changed(several, extents)
    with pytest.raises(MediumError, match=why):
        Mount(reading(data), sectors(several))
    # What stands in the manifest is still found.
    reader = VolumeReader(reading(data), sectors(several))
    assert len(list(reader.manifest())) == len(FILES) + len(OWN)
