"""Images that were made once: every byte is explained, and every release reads them."""

from __future__ import annotations

import itertools
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support import ecma, goldens

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.layout import plan_volume
from hsmfs.volume.names import disc_path
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.verify import verify_image
from hsmfs.volume.writer import VolumeWriter

HEADING = re.compile(r"^## Sector (?P<sector>\d+)(?: \+ (?P<at>\d+))?: (?P<kind>[^(\n]+?)(?: \(|$)")
ROW = re.compile(
    r"^\| (?P<at>\d+) \| (?P<size>\d+) \| (?P<field>[^|]+) \| (?P<value>.*) \| [EU].*\|$"
)
NAMES = ("udf250", "udf201", "format1")


@dataclass
class Claim:
    """What a table says of some bytes."""

    start: int
    """Of the descriptor in the image."""
    kind: str
    at: int
    size: int
    field: str
    value: str


def claims(name: str) -> Iterator[Claim]:
    start, kind = 0, ""
    for line in (goldens.FOLDER / f"{name}.md").read_text().splitlines():
        heading, row = HEADING.match(line), ROW.match(line)
        if heading:
            start = int(heading["sector"]) * SECTOR_BYTES + int(heading["at"] or 0)
            kind = heading["kind"]
        elif row:
            yield Claim(start, kind, int(row["at"]), int(row["size"]), row["field"], row["value"])


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reader_of(image: bytes) -> VolumeReader:
    def read(sector: int, sectors: int) -> bytes:
        return image[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]

    return VolumeReader(read, len(image) // SECTOR_BYTES)


def test_every_field_is_what_the_table_says(name: str):
    image, end = goldens.image(name), (0, 0)
    for claim in claims(name):
        descriptor = image[claim.start : claim.start + SECTOR_BYTES]
        found = descriptor[claim.at : claim.at + claim.size]
        expected = ecma.encoded(claim.value, claim.size, descriptor)
        assert (found, len(expected)) == (expected, claim.size), claim
        assert (claim.start, claim.at) in (end, (claim.start, 0)), f"a gap before {claim}"
        end = (claim.start, claim.at + claim.size)


def test_the_tables_and_the_files_are_all_that_is_in_the_image(name: str):
    """Made anew from tables and files, it is the image: nothing is unexplained."""
    image = goldens.image(name)
    made = bytearray(len(image))
    content_blocks, mirror_block = 0, 0
    for claim in claims(name):
        data = ecma.encoded(claim.value, claim.size, image[claim.start :][:SECTOR_BYTES])
        at = claim.start + claim.at
        made[at : at + claim.size] = data
        if claim.field == "allocation descriptors":
            length, place, reference, *_ = (*map(int, re.findall(r"\d+", claim.value)), 0)
            data_at = (288 + place) * SECTOR_BYTES
            is_metadata = claim.start // SECTOR_BYTES not in range(320, 320 + 32)
            if is_metadata:
                content_blocks, mirror_block = length // SECTOR_BYTES, place
            elif reference == 0 and (name != "udf201" or image[claim.start + 27] == 5):
                made[data_at : data_at + length] = image[data_at : data_at + length]
    if mirror_block:
        at = (288 + mirror_block) * SECTOR_BYTES
        size = content_blocks * SECTOR_BYTES
        made[at : at + size] = made[320 * SECTOR_BYTES : 320 * SECTOR_BYTES + size]
    different = [n // SECTOR_BYTES for n in range(len(image)) if image[n] != made[n]]
    assert sorted(set(different)) == []


def test_the_tables_have_all_fields_of_the_documentation(name: str):
    documented = ecma.tables()
    by_start: dict[tuple[int, str], list[str]] = {}
    for claim in claims(name):
        by_start.setdefault((claim.start, claim.kind), []).append(claim.field)
    assert {kind for _, kind in by_start} <= set(documented)
    for (_, kind), fields in by_start.items():
        fixed = [field.name for field in documented[kind] if field.size is not None]
        if kind == "Logical volume descriptor" and name == "udf201":
            fixed = fixed[: fixed.index("type")]
        assert [field for field in fields if field in fixed] == fixed


def test_tables_in_the_documentation_have_no_gaps():
    for heading, fields in ecma.tables().items():
        for field, after in itertools.pairwise(fields):
            assert field.size is None or field.at + field.size == after.at, (heading, after)


@pytest.mark.parametrize(("name", "udf"), [("udf250", "2.50"), ("udf201", "2.01")])
def test_the_writer_makes_the_same_bytes(name: str, udf: str):
    label = f"GOLD0{udf.replace('.', '')}"
    layout = plan_volume(goldens.header(label, udf), [goldens.OWN, *goldens.ENTRIES], 1 << 16)
    image = b"".join(VolumeWriter(layout).stream(goldens.opened))
    assert image == goldens.image(name)


def test_the_reader_reads_all_of_it(name: str):
    image = goldens.image(name)
    reader = reader_of(image)
    own = [] if name == "format1" else [goldens.OWN]
    entries = [*own, *goldens.ENTRIES]
    found = {entry.source.path: entry for entry in reader.manifest()}
    for entry in entries:
        source = found[entry.path].source
        if entry.link_of is None:
            assert source == entry
        if entry.kind in ("file", "own"):
            target = next(e for e in entries if e.path == (entry.link_of or entry.path))
            path = f".hsm/{entry.path.decode()}" if entry.kind == "own" else disc_path(entry.path)
            assert reader.read_file(path) == goldens.opened(target).read()
    walked = {entry.path: entry for entry in reader.walk()}
    assert walked["study"].mode == 0o2750 and walked["study"].is_directory
    assert walked["影像.txt"].mode == 0o4755 and walked["影像.txt"].mtime_ns == -1_000
    assert walked["again"].block == walked["study/scan.dcm"].block
    assert walked["study/scan.dcm"].links == 2
    problems = list(verify_image(lambda s, n: image[s * 2048 : (s + n) * 2048], len(image) // 2048))
    assert problems == []


def test_formats_are_what_they_are_called(name: str):
    lines = reader_of(goldens.image(name)).read_file("/.hsm/manifest.jsonl").splitlines()
    first = json.loads(lines[0])
    assert first["format"] == (1 if name == "format1" else 2)
    assert first.get("udf", "2.50") == ("2.01" if name == "udf201" else "2.50")
    assert stat.S_ISDIR(json.loads(lines[1 if name == "format1" else 2])["mode"])
