"""``recover.py``, taken from a disc and run alone, restores what discs hold."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from support.volumes import burn
from support.volumes import content as volume_content

from hsmfs.daemon.ownfiles import OwnFiles
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import recover
from hsmfs.volume.layout import FileSource, VolumeHeader, plan_volume
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.writer import VolumeWriter

CAPACITY_BYTES = 64 << 20
T0 = 1_600_000_000_111_222_333


def entry(path: str | bytes, ino: int, **facts: object) -> FileSource:
    raw = path.encode() if isinstance(path, str) else path
    base: dict[str, object] = {"mtime_ns": T0 + ino, "atime_ns": T0, "uid": 12, "gid": 34}
    return FileSource(path=raw, ino=ino, **{**base, **facts})  # type: ignore[arg-type]


FIRST = [
    entry("病历", 10, kind="dir", mode=0o40750),
    entry("病历/影像 1.dcm", 11, size=70_000, mode=0o100640, xattrs={b"user.\xe6a": b"\0v"}),
    entry("病历/again", 11, size=70_000, mode=0o100640, link_of="病历/影像 1.dcm".encode()),
    entry(b"not-utf8-\xff", 12, size=1),
    entry("link", 13, kind="symlink", target=b"/somewhere/\xfe", mode=0o120777),
    entry("empty", 14),
    entry("n" * 255, 15, size=SECTOR_BYTES),
]
SECOND = [entry("lost/one", 21, size=5000), entry("lost/two", 22, size=3)]
THIRD = [
    entry("old", 31, size=9, data_version=1),
    entry("病历/影像 2.dcm", 32, size=100_000, mtime_ns=-5_000_000_001),
]


def content(source: FileSource) -> bytes:
    return random.Random(source.ino * 1000 + source.data_version).randbytes(source.size)


class Library:
    """Images of volumes, each with what the discs before it say."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.own = OwnFiles(root / "manifests", 16, root / "namespace")
        self.labels: list[str] = []

    def burn(self, label: str, entries: Sequence[FileSource], site: str = "here") -> Path:
        header = VolumeHeader(
            label=label, site=site, pool="p", created_ns=T0 + len(self.labels), copies=2
        )
        into = self.root / f"{label}.own"
        newest_first = self.labels[::-1]
        own, _ = trio.run(self.own.gather, into, newest_first, header, CAPACITY_BYTES, 0)

        def opened(source: FileSource) -> io.BytesIO:
            if source.kind == "own":
                return io.BytesIO((into / os.fsdecode(source.path)).read_bytes())
            return io.BytesIO(content(source))

        layout = plan_volume(header, [*own, *entries], CAPACITY_BYTES // SECTOR_BYTES)
        writer = VolumeWriter(layout)
        image = self.root / f"{label}.img"
        image.write_bytes(b"".join(writer.stream(opened)))
        self.own.keep_manifest(label, writer.manifest())
        self.labels.append(label)
        return image

    def script(self, image: Path) -> Path:
        """``recover.py`` as it lies on a disc."""
        out = self.root / "recover.py"
        out.write_bytes(reader_of(image).read_file(".hsm/recover.py"))
        return out


def reader_of(image: Path) -> VolumeReader:
    data = image.read_bytes()
    return VolumeReader(
        lambda sector, count: data[sector * SECTOR_BYTES : (sector + count) * SECTOR_BYTES],
        len(data) // SECTOR_BYTES,
    )


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


@pytest.fixture
def images(library: Library) -> list[Path]:
    return [
        library.burn(label, entries)
        for label, entries in (("HSM1", FIRST), ("HSM2", SECOND), ("HSM3", THIRD))
    ]


def run(library: Library, images: Sequence[Path], *more: str) -> tuple[int, str]:
    script = library.script(library.root / f"{library.labels[-1]}.img")
    into = ("--into", str(library.root / "out")) if "--list" not in more else ()
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(script), *more, *into, *map(str, images)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def assert_restored(library: Library, entries: Sequence[FileSource]) -> None:
    for source in entries:
        path = os.path.join(os.fsencode(library.root / "out"), source.path)
        found = os.lstat(path)
        if source.kind == "symlink":
            assert os.readlink(path) == source.target
        else:
            assert found.st_mode == source.mode or source.link_of
        assert found.st_mtime_ns == source.mtime_ns
        if os.geteuid() == 0:
            assert (found.st_uid, found.st_gid) == (source.uid, source.gid)
        if source.has_data:
            with open(path, "rb") as file:
                assert file.read() == content(source)
        for name, value in source.xattrs.items():
            assert os.getxattr(path, name) == value
        if source.link_of:
            first = os.path.join(os.fsencode(library.root / "out"), source.link_of)
            assert os.path.samefile(path, first)


def test_three_discs_give_the_tree(library: Library, images: list[Path]) -> None:
    code, said = run(library, images[::-1])
    assert code == 0, said
    assert_restored(library, [*FIRST, *SECOND, *THIRD])
    assert len(list((library.root / "out").rglob("*"))) == len([*FIRST, *SECOND, *THIRD]) + 1


def test_a_missing_disc_is_named_with_its_files(library: Library, images: list[Path]) -> None:
    code, said = run(library, [images[2], images[0]])
    assert code == 3
    assert "missing: lost/one: is on volume HSM2, which was not given" in said
    assert "missing: lost/two: is on volume HSM2" in said
    assert_restored(library, [*FIRST, *THIRD])


def test_the_file_system_is_not_needed(library: Library, images: list[Path]) -> None:
    script = library.script(images[2])
    kept = script.read_bytes()
    for image in images:
        with image.open("r+b") as file:
            start = reader_of(image).read_file(".hsm/README.txt")
            place = file.read().index(start)
            file.seek(0)
            file.write(bytes(place))
    script.write_bytes(kept)
    done = subprocess.run(
        [sys.executable, "-I", str(script), "--into", str(library.root / "out"), *images],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_restored(library, [*FIRST, *SECOND, *THIRD])


def test_damage_is_taken_from_the_other_copy(library: Library, images: list[Path]) -> None:
    bad = FIRST[1]
    copy = library.root / "copy.img"
    data = images[0].read_bytes()
    copy.write_bytes(data.replace(content(bad)[:500], bytes(500)))
    code, said = run(library, [copy])
    assert code == 3
    assert "病历/影像 1.dcm: volume HSM1: SHA-256 is " in said
    assert not (library.root / "out/病历/影像 1.dcm").exists()
    code, said = run(library, [copy, images[0]], "--only", "病历")
    assert code == 0, said
    assert_restored(library, FIRST[:3])


def test_a_file_of_a_damaged_line_is_found_by_the_tree(
    library: Library, images: list[Path]
) -> None:
    data = images[0].read_bytes()
    at = data.rindex('"kind":"file","path":"病历/影像 1.dcm"'.encode())
    hurt = library.root / "HSM1-hurt.img"
    hurt.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    code, said = run(library, [hurt])
    assert code == 3
    assert "is damaged and left out" in said
    assert "unproved: 病历/影像 1.dcm: only the disc's tree tells of it" in said
    lost = {"xattrs": {}, "mtime_ns": (T0 + 11) // 1000 * 1000}
    plain = [msgspec.structs.replace(one, **lost) if one.ino == 11 else one for one in FIRST]
    assert_restored(library, plain)


@pytest.mark.parametrize("udf", ["2.50", "2.01"])
def test_the_tree_of_each_revision_is_read(tmp_path: Path, udf: str) -> None:
    image, out = tmp_path / "v.img", tmp_path / "out"
    files = [entry(f"d/{name}", ino, size=3000 * ino) for name, ino in (("a", 1), ("b", 2))]
    burn(image, "V", files, udf=udf)
    data = image.read_bytes()
    start = data.rindex(b'{"kind":"hsm-manifest"')
    stop = data.index(b"}\n", data.index(b'{"kind":"end"', start)) + 2
    image.write_bytes(data[:start] + bytes(stop - start) + data[stop:])
    assert recover.main([str(image), "--into", str(out)]) == 3
    for source in files:
        assert (out / os.fsdecode(source.path)).read_bytes() == volume_content(source)


def test_a_damaged_line_is_made_up_for(library: Library, images: list[Path]) -> None:
    """By another copy, or by the repetition on a later disc: proved, with all attributes."""
    data = images[0].read_bytes()
    at = data.rindex('"kind":"file","path":"病历/影像 1.dcm"'.encode())
    hurt = library.root / "HSM1-hurt.img"
    hurt.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    for other in (images[0], images[2]):
        code, said = run(library, [hurt, other])
        assert code == 3
        assert "unproved" not in said
        assert_restored(library, FIRST)
        shutil.rmtree(library.root / "out")


def test_a_mounted_disc_with_a_damaged_line(library: Library, images: list[Path]) -> None:
    extract(library, images[1], "--into", library.root / "disc")
    own = library.root / "disc" / ".hsm"
    own.mkdir()
    manifest = reader_of(images[1]).read_file(".hsm/manifest.jsonl")
    (own / "manifest.jsonl").write_bytes(manifest.replace(b'"lost/one"', b'"lost\xff/one"'))
    code, said = run(library, [library.root / "disc"])
    assert code == 3, said
    assert "unproved: lost/one: " in said
    assert_restored(library, SECOND)


def test_a_damaged_first_line_costs_label_and_site_alone(
    library: Library, images: list[Path]
) -> None:
    data = images[0].read_bytes()
    at = data.rindex(b'{"kind":"hsm-manifest"') + 30
    images[0].write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    code, said = run(library, images)
    assert code == 3
    assert "first line is damaged" in said
    assert_restored(library, [*FIRST, *SECOND, *THIRD])


def test_nothing_is_written_over(library: Library, images: list[Path]) -> None:
    out = library.root / "out"
    out.mkdir()
    (out / "empty").write_text("mine")
    code, said = run(library, images[:1])
    assert code == 3
    assert "missing: empty: exists already" in said
    assert (out / "empty").read_text() == "mine"


def test_the_newest_version_wins(library: Library, images: list[Path]) -> None:
    newer = entry("old", 31, size=12, data_version=2)
    images.append(library.burn("HSM4", [newer]))
    code, said = run(library, images)
    assert code == 0, said
    assert_restored(library, [newer, *FIRST])


def test_no_link_leads_out_of_the_tree(library: Library) -> None:
    outside = library.root / "outside"
    outside.mkdir()
    entries = [
        entry("a", 1, kind="symlink", target=os.fsencode(outside), mode=0o120777),
        entry("b", 2, size=4),
    ]
    image = library.burn("HSM1", entries)
    data = image.read_bytes()
    image.write_bytes(data.replace(b'"path":"b"', b'"path":"a/b"'))
    code, said = run(library, [image])
    assert code == 3, said
    assert list(outside.iterdir()) == []


def test_bad_sources(library: Library, images: list[Path]) -> None:
    (library.root / "noise").write_bytes(os.urandom(1 << 20))
    other = Library(library.root / "other")
    other.root.mkdir()
    foreign = other.burn("X1", SECOND, site="elsewhere")
    for sources, expected in (
        ([library.root / "absent"], "absent"),
        ([library.root / "noise"], "found no manifest"),
        ([foreign, images[0]], "discs of different sites were given: elsewhere, here"),
    ):
        code, said = run(library, sources)
        assert code == 1, said
        assert expected in said
    assert not (library.root / "out").exists()


def test_list_shows_and_writes_nothing(library: Library, images: list[Path]) -> None:
    code, said = run(library, images, "--list")
    assert code == 0
    assert "HSM1         file             70000  病历/影像 1.dcm" in said
    assert not (library.root / "out").exists()


def extract(library: Library, *words: object) -> tuple[int, dict[str, Any], str]:
    """``hsm volume extract``, which does the same."""
    done = subprocess.run(
        [sys.executable, "-m", "hsmfs.tools.hsm", "volume", "extract", *map(str, words), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_hsm_volume_extract(library: Library, images: list[Path]) -> None:
    out = library.root / "out"
    code, facts, _ = extract(library, images[0], "--into", out, "--only", "病历")
    assert (code, facts["restored"], facts["missing"]) == (0, 3, {})
    assert_restored(library, FIRST[:3])
    code, facts, _ = extract(library, *images, "--into", out)
    assert code == 3
    assert set(facts["missing"]) == {"病历/影像 1.dcm", "病历/again"}  # were there already
    assert_restored(library, [*FIRST, *SECOND, *THIRD])
    code, facts, _ = extract(library, images[1], "--into", out, "--only", "nowhere")
    assert (code, facts["missing"]) == (1, {"nowhere": "is on none of these volumes"})
    code, _, said = extract(library, library.root / "absent", "--into", out)
    assert code == 1
    assert "expected a disc image" in said


def test_without_a_manifest_the_tree_is_used(library: Library, images: list[Path]) -> None:
    data = images[1].read_bytes()
    at = data.rindex(b'{"kind":"hsm-manifest"')
    images[1].write_bytes(data[:at] + bytes(3000) + data[at + 3000 :])
    code, facts, _ = extract(library, images[1], "--into", library.root / "out")
    assert code == 3
    assert facts["unproved"] >= 2
    for source in SECOND:
        path = library.root / "out" / os.fsdecode(source.path)
        assert path.read_bytes() == content(source)
