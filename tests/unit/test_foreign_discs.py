"""Discs that other programs wrote are read as they were meant."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import pytest
from support.foreigndiscs import WHEN_NS, Image, differences, iso, sparse_iso, tree
from support.udfwriter import fill, mkudffs
from support.vatdisc import VatDisc
from support.volumes import burn

from hsmfs.errors import MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.foreign.detect import open_foreign
from hsmfs.volume.foreign.entry import HOLE, ForeignEntry, Problem, namer
from hsmfs.volume.source import FileSource

EMOJI = "病人 张三/série 😀"
"""Not what all writers can write: Joliet and genisoimage's UDF have 16 bits a character."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree(tmp_path_factory.mktemp("foreign") / "source")


@pytest.mark.parametrize("by", ["genisoimage", "xorriso"])
@pytest.mark.parametrize("options", [("-R",), ("-R", "-J"), ("-R", "-J", "-joliet-long")])
def test_rock_ridge(by: str, options: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    image = Image(iso(tmp_path / "x.iso", source, *options, "-V", "VOL_1", by=by))
    volume = image.volume()
    assert (volume.format, volume.label) == ("ISO 9660 with Rock Ridge", "VOL_1")
    assert volume.created_ns > WHEN_NS
    assert differences(image, source) == []


def test_joliet(source: Path, tmp_path: Path) -> None:
    image = Image(iso(tmp_path / "x.iso", source, "-J", "-joliet-long", "-D"))
    assert image.volume().format == "ISO 9660 with Joliet"
    lost = (EMOJI, "病人 张三/", "n" * 100)
    found = differences(image, source, modes=False, links=False, lost=lost)
    # An emoji is left out of the name; over 103 characters do not fit.
    assert sorted(found) == sorted(
        [
            "病人 张三/série : is too much",
            "病人 张三/série /图像1.dcm: is too much",
            f"{'n' * 100}.tx: is too much",
        ]
    )
    entries = image.entries()
    dicom = entries["病人 张三/série /图像1.dcm".encode()]
    assert image.content(dicom) == b"DICM" * 1000
    assert (dicom.facts.mode, dicom.facts.uid, dicom.facts.gid) == (0o444, 0, 0)
    assert entries[b"wide"].facts.mode == 0o555


def test_plain_iso_9660(source: Path, tmp_path: Path) -> None:
    image = Image(iso(tmp_path / "x.iso", source, "-D"))
    assert image.volume().format == "ISO 9660"
    entries = image.entries()
    assert image.content(entries[b"upper.txt"]) == b"upper"
    assert image.content(entries[b"big.bin"]) == (source / "big.bin").read_bytes()
    assert sum(path.startswith(b"wide/") for path in entries) == 200


def test_levels_4_and_enhanced_names(source: Path, tmp_path: Path) -> None:
    image = Image(iso(tmp_path / "x.iso", source, "-iso-level", "4", "-D"))
    assert image.volume().format == "ISO 9660, enhanced"
    assert differences(image, source, modes=False, links=False) == []


@pytest.mark.parametrize(
    ("by", "options"),
    [
        ("xorriso", ("-R", "-iso-level", "3")),
        ("genisoimage", ("-udf", "-allow-limited-size", "-R")),
    ],
)
def test_a_file_over_4_gib(by: str, options: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    size = (4 << 30) + 5_000_001
    marks = (0, 1 << 32, size - 9)
    with (source / "large.bin").open("wb") as file:
        for at in marks:
            file.seek(at)
            file.write(b"%09d" % (at % 10**9))
    (source / "zz").write_bytes(b"after")
    (source / "link").symlink_to("zz")
    if by == "genisoimage":  # which writes the bytes of both names once
        os.link(source / "large.bin", source / "one more name.bin")
    image = Image(sparse_iso(tmp_path / "x.iso", source, *options, by=by))
    entries = image.entries()
    entry = entries[b"large.bin"]
    assert entry.size == size == sum(length for _, length in entry.runs)
    assert [image.part(entry, at, 9) for at in marks] == [b"%09d" % (at % 10**9) for at in marks]
    assert entries.get(b"one more name.bin", entry).runs == entry.runs
    assert image.content(entries[b"zz"]) == b"after"
    assert (b"link" in entries) == ("-R" in options)


@pytest.mark.parametrize("options", [("-udf",), ("-udf", "-J", "-joliet-long")])
def test_bridge_disc(options: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    image = Image(iso(tmp_path / "x.iso", source, *options, "-D", "-V", "VOL_2"))
    volume = image.volume()
    assert (volume.format, volume.label) == ("UDF 1.02", "VOL_2")
    lost = ("病人 张三/", "n" * 100)
    found = set(differences(image, source, modes=False, links=False, lost=lost))
    found.discard(f"{'n' * 100}.tx: is too much")  # its UDF takes the names of its Joliet
    assert found == {"病人 张三/série : is too much", "病人 张三/série /图像1.dcm: is too much"}
    assert image.entries()[b"big.bin"].facts.mtime_ns == WHEN_NS


def test_bridge_disc_with_rock_ridge(source: Path, tmp_path: Path) -> None:
    image = Image(iso(tmp_path / "x.iso", source, "-udf", "-R"))
    assert image.volume().format == "ISO 9660 with Rock Ridge, UDF 1.02"
    assert differences(image, source) == []


def test_pycdlib(tmp_path: Path) -> None:
    pycdlib = pytest.importorskip("pycdlib")
    for options, prefix in (
        ({"rock_ridge": "1.12"}, "rr"),
        ({"joliet": 3}, "j"),
        ({"udf": "2.60"}, "u"),
    ):
        disc = pycdlib.PyCdlib()
        disc.new(interchange_level=3, vol_ident="PYCD", **options)
        words = {
            "rr": {"rr_name": "long name 1.txt"},
            "j": {"joliet_path": "/中文.txt"},
            "u": {"udf_path": "/中文.txt"},
        }[prefix]
        disc.add_fp(io.BytesIO(b"hello"), 5, "/HELLO.TXT;1", **words)
        path = tmp_path / f"{prefix}.iso"
        disc.write(str(path))
        disc.close()
        image = Image(path)
        (entry,) = image.entries().values()
        assert entry.path == (b"long name 1.txt" if prefix == "rr" else "中文.txt".encode())
        assert image.content(entry) == b"hello"


def test_udfkit_metadata_partition(tmp_path: Path) -> None:
    udfkit = pytest.importorskip("udfkit.bluray")
    folder = tmp_path / "bd" / "BDMV" / "STREAM"
    folder.mkdir(parents=True)
    (folder / "00000.m2ts").write_bytes(os.urandom(300_000))
    udfkit.write_image(str(tmp_path / "bd"), str(tmp_path / "x.img"), "KIT")
    image = Image(tmp_path / "x.img")
    assert image.volume().format == "UDF 2.50, metadata partition"
    assert differences(image, tmp_path / "bd", modes=False, times=False) == []


# -- written by Linux ----------------------------------------------------------------------

HOLES = r"""
import os
with open(f"{disc}/holes", "wb") as file:
    file.write(b"start")
    file.truncate(1 << 20)
    file.seek((1 << 20) + 100)
    file.write(b"end")
with open(f"{disc}/pieces", "wb") as one, open(f"{disc}/others", "wb") as other:
    for n in range(600):
        one.write(b"%08d" % n * 512)
        one.flush(); os.fsync(one.fileno())
        other.write(b"#" * 2048)
        other.flush(); os.fsync(other.fileno())
os.link(f"{disc}/holes", f"{disc}/again")
os.mkfifo(f"{disc}/fifo")
"""


@pytest.mark.parametrize(
    ("media", "revision"),
    [("hd", "1.02"), ("hd", "1.50"), ("hd", "2.00"), ("hd", "2.01"), ("cdrw", "2.01")],
)
def test_udf_by_linux(media: str, revision: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    mkudffs(path, 40_000_000, f"--media-type={media}", f"--udfrev={revision}", "--label=Größe")
    fill(path, source, tmp_path / "work")
    image = Image(path)
    volume = image.volume()
    sparable = ", sparable partition" if media == "cdrw" else ""
    assert (volume.format, volume.label) == (f"UDF {revision}{sparable}", "Größe")
    assert differences(image, source) == []


def test_udf_with_holes_and_many_pieces(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    mkudffs(path, 40_000_000, "--media-type=hd", "--udfrev=2.01")
    fill(path, source, tmp_path / "work", HOLES)
    image = Image(path)
    found = list(image.volume().walk())
    (problem,) = [one for one in found if isinstance(one, Problem)]
    assert problem.path == b"fifo"
    entries = {one.path: one for one in found if isinstance(one, ForeignEntry)}
    assert image.content(entries[b"holes"]) == (b"start" + bytes((1 << 20) + 95) + b"end")
    assert any(at == HOLE for at, _ in entries[b"holes"].runs)
    assert entries[b"again"].runs == entries[b"holes"].runs
    assert image.content(entries[b"pieces"]) == b"".join(b"%08d" % n * 512 for n in range(600))


@pytest.mark.parametrize(
    ("media", "revision"), [("cdr", "1.50"), ("dvdr", "2.01"), ("bdr", "2.50"), ("bdr", "2.60")]
)
def test_an_empty_disc_with_a_virtual_partition(media: str, revision: str, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    mkudffs(path, 4_000_000, f"--media-type={media}", f"--udfrev={revision}")
    os.truncate(path, last_entry(path) + SECTOR_BYTES)  # what was recorded ends with the table
    image = Image(path)
    assert image.volume().format == f"UDF {revision}, virtual partition"
    assert not [path for path in image.entries() if path != b"lost+found"]


def last_entry(path: Path) -> int:
    """Byte of the last file entry of an image."""
    data = path.read_bytes()
    tags = {at: struct.unpack_from("<H", data, at)[0] for at in range(0, len(data), SECTOR_BYTES)}
    return max(at for at, tag in tags.items() if tag in (261, 266))


# -- our own, read as if it were foreign ------------------------------------------------------


def test_our_own_volume_is_udf_too(tmp_path: Path) -> None:
    entries = [
        FileSource(path=b"a/%d" % n, ino=20 + n, size=3000 * n, mtime_ns=WHEN_NS) for n in range(40)
    ]
    burn(tmp_path / "x.img", "OWN", entries, own={})
    image = Image(tmp_path / "x.img")
    assert image.volume().format == "UDF 2.50, metadata partition"
    found = image.entries()
    assert {path for path in found if path.startswith(b"a/")} == {one.path for one in entries}


# -- what is not read -------------------------------------------------------------------------


def test_a_disc_without_a_file_system(tmp_path: Path) -> None:
    (tmp_path / "x.img").write_bytes(os.urandom(1_000_000 // SECTOR_BYTES * SECTOR_BYTES))
    with pytest.raises(MediumError, match="sector 16: no primary volume descriptor"):
        Image(tmp_path / "x.img").volume()


def test_a_cut_image_names_what_is_lost(source: Path, tmp_path: Path) -> None:
    path = iso(tmp_path / "x.iso", source, "-R")
    os.truncate(path, path.stat().st_size // 2 // SECTOR_BYTES * SECTOR_BYTES)
    found = list(Image(path).volume().walk())
    problems = [one for one in found if isinstance(one, Problem)]
    assert problems
    assert all("the disc has" in one.why for one in problems)
    assert b"big.bin" in {one.path for one in problems}


def test_a_directory_that_holds_itself(source: Path, tmp_path: Path) -> None:
    path = iso(tmp_path / "x.iso", source, "-D")
    data = bytearray(path.read_bytes())
    root = struct.unpack_from("<I", data, 16 * SECTOR_BYTES + 158)[0]
    at = root * SECTOR_BYTES
    while data[at]:
        if data[at + 33 : at + 33 + data[at + 32]] == b"A":
            struct.pack_into("<I", data, at + 2, root)
        at += data[at]
    path.write_bytes(data)
    found = list(Image(path).volume().walk())
    (problem,) = [one for one in found if isinstance(one, Problem)]
    assert (problem.path, "is there twice: a loop" in problem.why) == (b"a", True)
    assert len(found) > 200  # the others are there


def test_names_that_a_file_system_cannot_have() -> None:
    name_of = namer()
    assert [name_of(name) for name in ("a", "a", b"a", "..", "", "x/y", "x\0y")] == [
        b"a", b"a~2", b"a~3", b"__", b"_", b"x_y", b"x_y~2",
    ]  # fmt: skip
    long = name_of("中" * 120 + ".txt")
    assert len(long) <= 255
    assert long.endswith(b".txt")
    assert long.decode().startswith("中" * 70)
    assert name_of("中" * 120 + ".txt") != long


@pytest.mark.parametrize("revision", [0x0150, 0x0200, 0x0260])
def test_a_disc_of_packets(revision: int, tmp_path: Path) -> None:
    files = {f"病人/{n} 😀": os.urandom(n * 977) for n in range(30)} | {"at the top": b"x"}
    (tmp_path / "x.img").write_bytes(VatDisc(revision).image(files))
    image = Image(tmp_path / "x.img")
    words = f"UDF {revision >> 8}.{revision & 255:02x}, virtual partition"
    assert (image.volume().format, image.volume().label) == (words, "packets")
    entries = image.entries()
    assert {entry.path.decode() for entry in entries.values()} == {*files, "病人"}
    for path, data in files.items():
        assert image.content(entries[path.encode()]) == data


def test_the_last_of_several_sessions(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_bytes(name.encode())
    start = 4096
    disc = iso(tmp_path / "disc.iso", tmp_path / "first", "-R")
    os.truncate(disc, start * SECTOR_BYTES)
    words = ("-R", "-C", f"0,{start}", "-M", str(disc))
    more = iso(tmp_path / "more.iso", tmp_path / "second", *words)
    with disc.open("ab") as out:
        out.write(more.read_bytes())
    image = Image(disc)
    assert set(image.entries()) == {b"first.txt"}
    volume = open_foreign(image.read, image.sectors, start)
    entries = {one.path: one for one in volume.walk() if isinstance(one, ForeignEntry)}
    assert {path: image.content(one) for path, one in entries.items()} == {
        b"first.txt": b"first",
        b"second.txt": b"second",
    }
