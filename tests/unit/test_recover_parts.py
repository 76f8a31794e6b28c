"""Files in parts, joined by ``recover.py``: proved as a whole, found where a line is damaged."""

from __future__ import annotations

import hashlib
import io
import os
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES
from hsmfs.volume import names, recover
from hsmfs.volume.directfile import write_stream
from hsmfs.volume.layout import FileSource, VolumeHeader, plan_volume
from hsmfs.volume.names import disc_path
from hsmfs.volume.source import PARTS, Part
from hsmfs.volume.writer import VolumeWriter

PART, TAIL = CHUNK_BYTES, 12_345
TOTAL = 2 * PART + TAIL
WHOLE = random.Random(5).randbytes(TOTAL)
SHA256 = hashlib.sha256(WHOLE).hexdigest()
LABELS = ["V1", "V2", "V3"]
NAME = "影像/big.dcm".encode()
AGAIN = b"again"
NEIGHBOUR = NAME + b".part0002"
HASHED = pytest.mark.parametrize("sha256", [SHA256, ""], ids=["hashed", "not hashed"])


def part(number: int, sha256: str = SHA256, name: bytes = NAME) -> list[FileSource]:
    """A part, under both names of the file."""
    start = (number - 1) * PART
    found = Part(number, 3, start, TOTAL, LABELS, sha256)
    size = min(PART, TOTAL - start)
    first = FileSource(path=name, ino=9, data_version=4, size=size, part=found, mtime_ns=7)
    return [first, replace(first, path=AGAIN, link_of=name, size=0)]


def burn(
    image: Path, label: str, entries: Sequence[FileSource], created_ns: int = 1, site: str = "s"
) -> Path:
    features = [PARTS] if any(entry.part for entry in entries) else []
    header = VolumeHeader(
        label=label, site=site, pool="p", created_ns=created_ns, features=features
    )
    writer = VolumeWriter(plan_volume(header, entries, (32 << 20) // SECTOR_BYTES))

    def opened(source: FileSource) -> io.BytesIO:
        if source.part is None:
            return io.BytesIO(random.Random(source.ino).randbytes(source.size))
        return io.BytesIO(WHOLE[source.part.start :][: source.size])

    with image.open("wb") as out:
        write_stream(out.fileno(), writer.stream(opened))
    return image


def burned(root: Path, sha256: str = SHA256, site: str = "s") -> list[Path]:
    """The three volumes."""
    return [
        burn(root / f"{label}.img", label, part(number, sha256), number, site)
        for number, label in enumerate(LABELS, 1)
    ]


def damaged(image: Path, mark: bytes) -> Path:
    """The manifest's line that begins with this cannot be understood."""
    data = bytearray(image.read_bytes())
    data[data.rindex(mark)] ^= 0x20
    image.write_bytes(data)
    return image


def line_of(name: bytes) -> bytes:
    return b'{"kind":"file","path":"%b"' % name


def recovered(root: Path, images: Sequence[Path | str]) -> tuple[recover.Recovery, Path]:
    sources = recover.opened([str(image) for image in images])
    try:
        recovery = recover.Recovery(sources)
        recovery.restore(os.fsencode(root / "out"), [])
    finally:
        for source in sources:
            source.close()
    return recovery, root / "out"


def is_whole(out: Path) -> None:
    assert (out / os.fsdecode(NAME)).read_bytes() == WHOLE
    assert os.path.samefile(out / os.fsdecode(NAME), out / os.fsdecode(AGAIN))
    assert sorted(path.name for path in out.rglob("*") if path.is_file()) == ["again", "big.dcm"]


@HASHED
def test_parts_are_joined_in_any_order_of_discs(tmp_path: Path, sha256: str) -> None:
    images = burned(tmp_path, sha256)
    recovery, out = recovered(tmp_path, images[::-1])
    is_whole(out)
    assert (recovery.missing, recovery.unproved) == ({}, set())


def test_what_is_not_the_whole_is_not_restored(tmp_path: Path) -> None:
    """Each part is as it was burned, but together they are not what was hashed."""
    recovery, out = recovered(tmp_path, burned(tmp_path, "0" * 63 + "1"))
    (why,) = {recovery.missing[NAME]}
    assert why.startswith(f"SHA-256 of the whole is {SHA256}, expected 0000")
    assert not (out / os.fsdecode(NAME)).exists()


def test_parts_of_another_file_with_the_same_number_are_not_taken(tmp_path: Path) -> None:
    """As after an inode number was used twice: hashes tell them apart."""
    images = burned(tmp_path)
    images[1] = burn(tmp_path / "other.img", "V2", part(2, "f" * 64), created_ns=2)
    recovery, _ = recovered(tmp_path, images)
    assert "part 2 of 3 is on volume V2" in recovery.missing[NAME]


@HASHED
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("is_mounted", [False, True], ids=["image", "mounted"])
def test_a_part_of_a_damaged_line_is_found_by_the_tree(
    tmp_path: Path, number: int, sha256: str, is_mounted: bool
) -> None:
    images: list[Path] = burned(tmp_path, sha256)
    damaged(images[number - 1], line_of(NAME))
    if is_mounted:
        mounted = tmp_path / "mounted"
        words = ["7z", "x", "-y", f"-o{mounted}", str(images[number - 1])]
        subprocess.run(words, check=True, capture_output=True)
        images[number - 1] = mounted
    recovery, out = recovered(tmp_path, images)
    is_whole(out)
    assert recovery.missing == {}
    assert recovery.unproved == (set() if sha256 else {NAME}), "the whole's hash proves it"


def test_a_part_that_the_tree_gives_and_that_is_damaged_is_told(tmp_path: Path) -> None:
    images = burned(tmp_path)
    data = bytearray(damaged(images[1], line_of(NAME)).read_bytes())
    data[data.index(WHOLE[PART : PART + 64]) + 99] ^= 1
    images[1].write_bytes(data)
    recovery, _ = recovered(tmp_path, images)
    assert recovery.missing[NAME].startswith("SHA-256 of the whole is")
    # a second copy of the disc has it
    good = burn(tmp_path / "again.img", "V2", part(2), created_ns=2)
    recovery, _ = recovered(tmp_path / "both", [*images, good])
    assert recovery.missing == {}


def test_with_all_lines_damaged_each_part_is_a_file(tmp_path: Path) -> None:
    images = [damaged(image, line_of(NAME)) for image in burned(tmp_path)]
    recovery, out = recovered(tmp_path, images)
    parts = [out / f"{os.fsdecode(NAME)}.part{number:04d}" for number in (1, 2, 3)]
    assert b"".join(path.read_bytes() for path in parts) == WHOLE
    assert len(recovery.unproved) >= 3


# -- a file that is called like a part --------------------------------------------------------


def neighbour(image: Path, label: str, created_ns: int) -> Path:
    """A disc with a real file of that name, as large as a part."""
    source = FileSource(path=NEIGHBOUR, ino=77, data_version=1, size=PART)
    return burn(image, label, [source], created_ns)


@pytest.mark.parametrize("created_ns", [0, 9], ids=["older", "newer"])
@pytest.mark.parametrize("harm", ["none", "its line", "the part's line"])
def test_a_neighbour_called_like_a_part(tmp_path: Path, created_ns: int, harm: str) -> None:
    images = burned(tmp_path)
    other = neighbour(tmp_path / "N.img", "N", created_ns)
    if harm == "its line":
        damaged(other, line_of(NEIGHBOUR))
    elif harm == "the part's line":
        damaged(images[1], line_of(NAME))
    recovery, out = recovered(tmp_path, [*images, other])
    assert recovery.missing == {}
    assert (out / os.fsdecode(NAME)).read_bytes() == WHOLE
    path = disc_path(NEIGHBOUR) if harm == "its line" else os.fsdecode(NEIGHBOUR)
    assert (out / path).read_bytes() == random.Random(77).randbytes(PART)
    assert path == os.fsdecode(NEIGHBOUR) or "~" in path


def test_a_neighbour_of_a_disc_before_the_rule(tmp_path: Path) -> None:
    """It has the part's very name on its disc, and only the tree tells of it."""
    images = burned(tmp_path)
    with patch.object(names, "_PART_HINT", b"\0"):
        other = neighbour(tmp_path / "N.img", "N", 9)
    damaged(other, line_of(NEIGHBOUR))
    recovery, out = recovered(tmp_path, [*images[:1], *images[2:], other])
    assert "part 2 of 3 is on volume V2" in recovery.missing[NAME]
    recovery, out = recovered(tmp_path / "all", [*images, other])
    assert (out / os.fsdecode(NAME)).read_bytes() == WHOLE
    assert (out / os.fsdecode(NEIGHBOUR)).read_bytes() == random.Random(77).randbytes(PART)


def test_no_name_of_a_file_ends_like_that_of_a_part() -> None:
    """Nor do names that are changed for another reason, of files or of parts."""
    long = b"x" * 246
    awkward: list[Any] = [
        NEIGHBOUR, b"a.part0001", b"a.part00001", b".part0001", long + b".part0001",
        b"\xff.part0001", b"a~0123456789abcdef.part0001", b"~.part0001", b"d.part0001/in",
    ]  # fmt: skip
    for path in awkward:
        assert not any(names.is_part_name(one.encode()) for one in disc_path(path).split("/"))
    for path in [*awkward, b"a", long, b"a~0123456789abcdef", b"x.part12345"]:
        entry = replace(part(3, name=path)[0])
        assert names.is_part_name(names.entry_path(entry).encode()), path
