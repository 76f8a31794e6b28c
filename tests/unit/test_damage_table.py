"""Each single damaged region of a volume, and what our programs and others still read.

The table in docs/disc-format.md is what this finds; ``HSMFS_WRITE_TABLE=1`` writes it anew.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from support import damage
from support.damage import FAULTS, REST, Digests, Region, Volume, bad_sectors, verdict

from hsmfs.errors import HsmError, MediumError
from hsmfs.tools.voldump import dump
from hsmfs.tools.volextract import extract
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import recover
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.verify import verify_image

DOCS = Path(__file__).parents[2] / "docs" / "disc-format.md"
UNNOTICED = {("README", "zeroed"), ("README", "flipped")}
"""Nothing on the disc proves the README's text."""


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return damage.made(tmp_path_factory.mktemp("damage"))


def is_as_it_should_be(volume: Volume, region: Region, found: Digests) -> bool:
    return verdict(volume, region, found) in (damage.ALL, REST)


def reader_of(data: bytes, bad: range) -> VolumeReader:
    """A disc that cannot be read there, as a drive says it."""

    def read(sector: int, sectors: int) -> bytes:
        if sector < bad.stop and sector + sectors > bad.start:
            raise MediumError(f"sector {sector}: unrecovered read error")
        return data[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]

    return VolumeReader(read, len(data) // SECTOR_BYTES)


def all_that_is_read(reader: VolumeReader) -> Digests:
    """By the tree, and by the manifest."""
    found: Digests = {}
    for one in reader.walk_around_damage():
        if not isinstance(one, MediumError) and not one.is_directory:
            try:
                data = reader.read_file(one.path)
            except HsmError:
                continue
            found[one.path] = hashlib.sha256(data).hexdigest()
    for entry in reader.manifest_or_rest():
        if isinstance(entry, MediumError) or entry.result is None:
            continue
        try:
            result = entry.result
            data = b"".join(reader.extent(result.offset_bytes // SECTOR_BYTES, result.size))
        except HsmError:
            continue
        if hashlib.sha256(data).hexdigest() == result.sha256:
            found[entry.disc_path] = result.sha256
    return found


@pytest.mark.parametrize("fault", FAULTS)
def test_the_reader_reads_all_but_what_is_damaged(volume: Volume, fault: str) -> None:
    for region in volume.regions:
        bad = region.sectors if fault == "unreadable" else range(0)
        data = volume.damaged(region, fault)
        reader = reader_of(data, bad)
        assert reader.label == damage.LABEL
        assert reader.total_sectors == len(data) // SECTOR_BYTES
        assert is_as_it_should_be(volume, region, all_that_is_read(reader)), region


@pytest.mark.parametrize("fault", FAULTS)
def test_verify_finds_each_damage(volume: Volume, fault: str) -> None:
    total = len(volume.image) // SECTOR_BYTES
    for region in volume.regions:
        bad = region.sectors if fault == "unreadable" else range(0)
        data = volume.damaged(region, fault)

        def read(sector: int, sectors: int, bad: range = bad, data: bytes = data) -> bytes:
            if sector < bad.stop and sector + sectors > bad.start:
                raise MediumError(f"sector {sector}: unrecovered read error")
            return data[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]

        problems = list(verify_image(read, total))
        assert bool(problems) != ((region.name, fault) in UNNOTICED), region


@pytest.mark.parametrize("fault", FAULTS)
def test_extract_and_recover_restore_all_but_what_is_damaged(
    volume: Volume, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "damaged.img"
    for number, region in enumerate(volume.regions):
        image.write_bytes(volume.damaged(region, fault))
        out, other = tmp_path / f"{number}", tmp_path / f"{number}r"
        with bad_sectors(image, region.sectors) if fault == "unreadable" else nullcontext():
            facts = extract([image], out, [])
            code = recover.main([str(image), "--into", str(other)])
            dumped = dump(image)
        assert is_as_it_should_be(volume, region, damage.files_below(out)), region
        assert damage.files_below(other) == damage.files_below(out), region
        assert set(facts["missing"]) <= region.hit, (region, facts)
        lost = region.name.startswith(("manifest", "last"))
        assert bool(facts["unproved"]) == lost or "line" in region.name, region
        assert code == (3 if facts["missing"] or facts["notes"] else 0)
        assert {f["path"] for f in dumped["files"]} >= volume.expected.keys(), region
    capsys.readouterr()


# -- others ------------------------------------------------------------------------------------


def rows() -> list[list[str]]:
    """Of the table in the docs, without its head."""
    text = DOCS.read_text()
    lines = text[text.index("| damaged |") :].split("\n\n")[0].splitlines()
    return [[one.strip() for one in line.strip("|").split("|")] for line in lines[2:]]


COLUMNS = ("hsmfs", "Linux", "libudfread", "7-Zip", "udfclient")


def check(volume: Volume, program: str, cells: list[str]) -> None:
    """Against the docs, or into them."""
    names = [region.name for region in volume.regions]
    table = {row[0]: row for row in rows()}
    number = 1 + COLUMNS.index(program)
    if os.environ.get("HSMFS_WRITE_TABLE"):
        for name, one in zip(names, cells, strict=True):
            table.setdefault(name, [name, *[""] * len(COLUMNS)])[number] = one
        lines = ["| " + " | ".join(table[name]) + " |" for name in names]
        text = DOCS.read_text()
        start = text.index("| damaged |")
        head = text[start:].splitlines()[:2]
        rest = text[start:].partition("\n\n")[2]
        DOCS.write_text(text[:start] + "\n".join([*head, *lines]) + "\n\n" + rest)
        return
    assert [row[0] for row in rows()] == names
    assert {name: table[name][number] for name in names} == dict(zip(names, cells, strict=True))


def test_the_table_of_the_docs_is_true_of_our_programs(volume: Volume, tmp_path: Path) -> None:
    image, cells = tmp_path / "damaged.img", []
    for place, region in enumerate(volume.regions):
        verdicts = {}
        for fault in FAULTS:
            image.write_bytes(volume.damaged(region, fault))
            out = tmp_path / f"{place}{fault}"
            with bad_sectors(image, region.sectors) if fault == "unreadable" else nullcontext():
                facts = extract([image], out, [])
            unproved = f", {facts['unproved']} unproved" if facts["unproved"] else ""
            verdicts[fault] = verdict(volume, region, damage.files_below(out)) + unproved
        cells.append(damage.cell(verdicts))
    check(volume, "hsmfs", cells)


PROGRAMS = [
    pytest.param(name, marks=pytest.mark.long if name == "udfclient" else ())
    for name in damage.PROGRAMS
]
"""udfclient takes minutes: it does not end where the root's names are lost."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_table_of_the_docs_is_true_of(program: str, volume: Volume, tmp_path: Path) -> None:
    if not damage.is_there(program):
        pytest.skip(f"{program} is not installed")
    check(volume, program, damage.column(volume, damage.PROGRAMS[program], tmp_path))


def test_the_table_of_the_docs_is_true_of_linux(volume: Volume, tmp_path: Path) -> None:
    check(volume, "Linux", damage.kernel_column(volume, tmp_path))


def test_what_must_hold_of_others_holds() -> None:
    """A lost main sequence or metadata file's entry still mounts."""
    table = {row[0]: row for row in rows()}
    for name in ("main sequence, whole", "metadata file's entry", "anchor at 256"):
        linux, libudfread = (table[name][1 + COLUMNS.index(p)] for p in ("Linux", "libudfread"))
        assert linux == "all"
        # It looks at no CRC: of flipped descriptors it believes what they say.
        assert libudfread in ("all", "zeroed, unreadable: all; flipped: nothing")
