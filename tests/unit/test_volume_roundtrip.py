"""A volume written and read back, by our reader and by 7-Zip."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
from pathlib import Path

import pytest
import xxhash
from support.sevenzip import needs_7z, seven_zip

from hsmfs.errors import CallerError
from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES
from hsmfs.volume.layout import FileSource, Layout, VolumeHeader, plan_volume
from hsmfs.volume.names import disc_path
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.writer import VolumeWriter

HEADER = VolumeHeader(
    label="HSM000001", site="site-1", pool="archive", created_ns=1_700_000_000_123_456_789, copies=2
)
SIZES = (0, 1, 2047, 2048, 2049, 65536, 5 << 20)
AWKWARD = (
    b"plain.txt",
    "目录/子目录/文件.dcm".encode(),
    "mixed/é à ü — emoji 😀.txt".encode(),
    b"spaces and 'quotes'/\"double\" $HOME `x`; rm *.txt",
    b"n" * 255,
    b"a" * 200 + "中".encode(),
    b"not-utf8/\xff\xfe\x80.bin",
    b".hsm",
    b".hidden",
    b"trailing dot.",
    b"back\\slash",
    b"looks/like~0123456789abcdef.txt",
    b"/".join([b"deep"] * 30),
    b"newline\nname",
    "e\u0301 decomposed".encode(),
)


def content(entry: FileSource) -> bytes:
    return random.Random(entry.ino).randbytes(entry.size)


def awkward() -> list[FileSource]:
    entries = [
        FileSource(
            path=path,
            ino=100 + i,
            data_version=i,
            size=SIZES[i % len(SIZES)],
            mtime_ns=1_600_000_000_111_222_333 + i,
            atime_ns=-1_000_000_001,
            ctime_ns=2**62,
            mode=0o100000 | (0o4755 if i % 2 else 0o640),
            uid=1000 + i,
            gid=2000,
            xattrs={b"user.n\xff": b"\0\1", b"user.dicom.uid": b"1.2.3"} if i % 3 == 0 else {},
        )
        for i, path in enumerate(AWKWARD)
    ]
    entries.append(FileSource(path=b"sizes", ino=2, kind="dir", mode=0o41770, uid=7, gid=8))
    entries += [FileSource(path=b"sizes/%d" % n, ino=300 + n, size=n) for n in SIZES]
    entries += [
        FileSource(path=b"links/again", ino=100, link_of=AWKWARD[0]),
        FileSource(path=b"links/more", ino=100, link_of=AWKWARD[0]),
        FileSource(path=b"symlink", ino=900, kind="symlink", target=b"../\xff", mode=0o120777),
        FileSource(path=b"empty", ino=901, kind="dir", mode=0o40700),
    ]
    return entries


def write(layout: Layout) -> tuple[bytes, VolumeWriter]:
    writer = VolumeWriter(layout)
    chunks = list(writer.stream(lambda entry: io.BytesIO(content(entry))))
    assert all(len(chunk) % SECTOR_BYTES == 0 and type(chunk) is bytes for chunk in chunks)
    assert max(map(len, chunks)) <= 1 << 20
    image = b"".join(chunks)
    assert len(image) == layout.total_sectors * SECTOR_BYTES
    return image, writer


def reader_of(image: bytes) -> VolumeReader:
    def read(sector: int, sectors: int) -> bytes:
        return image[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]

    return VolumeReader(read, len(image) // SECTOR_BYTES)


@pytest.fixture(scope="module")
def volume() -> tuple[list[FileSource], bytes, VolumeWriter]:
    entries = awkward()
    image, writer = write(plan_volume(HEADER, entries, 1 << 20))
    return entries, image, writer


Volume = tuple[list[FileSource], bytes, VolumeWriter]


def test_header_and_label_come_back(volume: Volume):
    reader = reader_of(volume[1])
    assert reader.label == "HSM000001"
    assert reader.header == HEADER


def test_manifest_tells_every_entry_as_it_was_planned(volume: Volume):
    entries, image, writer = volume
    found = list(reader_of(image).manifest())
    links = [entry for entry in found if entry.source.link_of is not None]
    assert [entry.source for entry in found if entry.source.link_of is None] == [
        entry for entry in entries if entry.link_of is None
    ]
    assert [(e.source.path, e.source.link_of, e.source.ino) for e in links] == [
        (e.path, e.link_of, e.ino) for e in entries if e.link_of is not None
    ]
    assert [entry.result for entry in found if entry.result is not None] == writer.results


def test_every_file_is_read_by_its_original_path(volume: Volume):
    entries, image, _ = volume
    reader = reader_of(image)
    by_path = {entry.path: entry for entry in entries}
    for entry in entries:
        if entry.kind == "file":
            assert reader.read_file(entry.path) == content(by_path[entry.link_of or entry.path])


def test_results_hold_for_the_bytes_at_their_offsets(volume: Volume):
    entries, image, writer = volume
    files = [entry for entry in entries if entry.has_data]
    for entry, result in zip(files, writer.results, strict=True):
        data = image[result.offset_bytes : result.offset_bytes + result.size]
        pieces = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
        assert data == content(entry)
        assert result.offset_bytes % SECTOR_BYTES == 0
        assert (result.ino, result.data_version) == (entry.ino, entry.data_version)
        assert result.xxh3_128 == xxhash.xxh3_128_hexdigest(data)
        assert result.sha256 == hashlib.sha256(data).hexdigest()
        assert result.chunk_xxh3 == [xxhash.xxh3_64_intdigest(piece) for piece in pieces]
    assert writer.image_xxh3 == xxhash.xxh3_128_hexdigest(image)


def test_extents_are_known_from_the_plan(volume: Volume):
    entries, _, writer = volume
    extents = plan_volume(HEADER, entries, 1 << 20).extents
    assert extents == {result.ino: result.offset_bytes for result in writer.results}


def test_same_plan_gives_the_same_bytes(volume: Volume):
    entries, image, _ = volume
    assert write(plan_volume(HEADER, entries, 1 << 21))[0] == image


def test_walk_tells_attributes_in_microseconds(volume: Volume):
    entries, image, _ = volume
    walked = {entry.path: entry for entry in reader_of(image).walk()}
    for entry in entries:
        if entry.has_data or entry.kind == "dir":
            found = walked[disc_path(entry.path)]
            assert found.mode == entry.mode & 0o7777
            assert (found.uid, found.gid, found.size) == (entry.uid, entry.gid, entry.size)
            assert found.mtime_ns == entry.mtime_ns // 1000 * 1000
            assert found.atime_ns == entry.atime_ns // 1000 * 1000
    assert walked["deep"].is_directory and walked["deep"].mode == 0o755
    assert "symlink" not in walked


def test_hard_links_share_one_file_entry(volume: Volume):
    walked = {entry.path: entry for entry in reader_of(volume[1]).walk()}
    names = [walked[name] for name in ("plain.txt", "links/again", "links/more")]
    assert {entry.block for entry in names} == {names[0].block}
    assert names[0].links == 3


def test_manifest_is_plain_json_lines_and_readme_is_in_two_languages(volume: Volume):
    reader = reader_of(volume[1])
    lines = reader.read_file("/.hsm/manifest.jsonl").splitlines()
    first, *_, last = map(json.loads, lines)
    assert (first["format"], first["features"], first["site"]) == (2, [], "site-1")
    assert last["kind"] == "end" and last["entries"] == len(lines) - 2
    text = reader.read_file("/.hsm/README.txt").decode()
    assert "HSM000001" in text and "No other software is needed" in text and "光盘" in text


@needs_7z
def test_seven_zip_reads_all_of_it(volume: Volume, tmp_path: Path):
    entries, image, _ = volume
    path = tmp_path / "volume.img"
    path.write_bytes(image)
    seven_zip("t", path)
    seven_zip("x", f"-o{tmp_path / 'out'}", path)
    by_path = {entry.path: entry for entry in entries}
    for entry in entries:
        out = tmp_path / "out" / disc_path(entry.path)
        if entry.kind == "file":
            assert out.read_bytes() == content(by_path[entry.link_of or entry.path]), out
        assert out.exists() == (entry.kind != "symlink")


@needs_7z
def test_own_files_lie_in_front_and_have_manifest_lines(tmp_path: Path):
    own = [
        FileSource(path=b"changes.jsonl.gz", ino=0, kind="own", size=3000, mode=0o100444),
        FileSource(path=b"manifests/HSM000000.jsonl.gz", ino=0, kind="own", size=5),
    ]
    files = [
        FileSource(path=b".hsm/changes.jsonl.gz", ino=7, size=10),
        FileSource(path=b"manifests/HSM000000.jsonl.gz", ino=8, size=10),
    ]
    layout = plan_volume(HEADER, [*own, *files], 100_000)
    reader = reader_of(write(layout)[0])
    found = list(reader.manifest())
    assert [entry.source for entry in found] == [*own, *files]
    assert [entry.disc_path for entry in found[:2]] == [
        ".hsm/changes.jsonl.gz",
        ".hsm/manifests/HSM000000.jsonl.gz",
    ]
    offsets = [entry.result.offset_bytes for entry in found if entry.result]
    assert offsets == sorted(offsets)
    assert len(reader.read_file(".hsm/changes.jsonl.gz")) == 3000
    assert len(reader.read_file(b".hsm/changes.jsonl.gz")) == 10
    assert {e.path for e in reader.walk()} >= {".hsm/manifests/HSM000000.jsonl.gz", "manifests"}
    assert set(layout.extents) == {7, 8}


@pytest.mark.parametrize("name", [b"README.txt", b"manifest.jsonl", b"../x", b""])
def test_an_own_file_may_not_stand_in_for_another(name: bytes):
    with pytest.raises(CallerError):
        plan_volume(HEADER, [FileSource(path=name, ino=0, kind="own", size=1)], 100_000)


def test_three_thousand_files_in_many_directories(tmp_path: Path):
    entries = [
        FileSource(path=b"study%02d/image%04d.dcm" % (i // 100, i), ino=i + 2, size=i % 4100)
        for i in range(3000)
    ]
    image, _ = write(plan_volume(HEADER, entries, 1 << 20))
    reader = reader_of(image)
    assert sum(not entry.is_directory for entry in reader.walk()) == 3002
    assert reader.read_file(entries[2999].path) == content(entries[2999])
    path = tmp_path / "volume.img"
    path.write_bytes(image)
    assert "Files: 3002" in seven_zip("t", path)
    assert os.path.getsize(path) % (32 * SECTOR_BYTES) == 0
