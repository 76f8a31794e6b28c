"""What a plan keeps packed or on disk, against plain dicts and lists."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.daemon.activevolume import PlannedFiles, PlanStore, StoredPlan
from hsmfs.errors import CallerError, TransientError
from hsmfs.types import FileVersion
from hsmfs.volume import manifest, metadata, pathtable, scratch
from hsmfs.volume.entries import StoredEntries, write_entries
from hsmfs.volume.layout import plan_volume
from hsmfs.volume.pathtable import PathTable
from hsmfs.volume.scratch import Scratch
from hsmfs.volume.source import FileSource, VolumeHeader
from hsmfs.volume.writer import VolumeWriter

HEADER = VolumeHeader(label="P", site="s", pool="p", created_ns=0)
PATHS = st.integers(0, 60).map(lambda number: b"p%d" % number)
VALUES = st.one_of(st.none(), st.integers(0, pathtable.VALUE_MAX))


@given(st.lists(st.tuples(PATHS, VALUES), max_size=200))
def test_a_path_table_is_a_dict(steps: list[tuple[bytes, int | None]]):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathtable, "_SLOTS_FIRST", 4)
        table, model = PathTable(), dict[bytes, int]()
        for path, value in steps:
            table.restore(path, value)
            if value is None:
                model.pop(path, None)
            else:
                model[path] = value
            assert len(table) == len(model)
        assert {path: table.get(path) for path in model} == model
        assert all(table.get(b"p%d" % n) == model.get(b"p%d" % n) for n in range(61))


ENTRIES = st.lists(
    st.builds(
        FileSource,
        path=st.binary(min_size=1, max_size=30),
        ino=st.integers(2, 20),
        data_version=st.integers(0, 3),
        size=st.integers(0, 2**40),
        kind=st.sampled_from(["file", "dir", "symlink", "own"]),
        link_of=st.one_of(st.none(), st.just(b"x")),
        xattrs=st.sampled_from([{}, {b"user.x": b"y" * 50_000}]),
    ),
    max_size=20,
)


@given(ENTRIES)
def test_stored_entries_are_the_list(entries: list[FileSource]):
    with ScratchPath() as path:
        store(path, entries)
        stored = StoredEntries(path)
        assert stored == entries and list(stored) == entries == list(stored)
        assert len(stored) == len(entries) and stored.head == b"head"
        order = random.Random(1).sample(range(len(entries)), len(entries))
        assert [stored[n] for n in order] == [entries[n] for n in order]
        assert stored[1:5] == entries[1:5]
        stored.close()


def store(path: Path, entries: Sequence[FileSource]) -> None:
    with path.open("wb") as out:
        write_entries(out, b"head", entries)


class ScratchPath:
    """A file for one example of hypothesis, whose function-scoped fixtures are shared."""

    def __enter__(self) -> Path:
        self._directory = tempfile.TemporaryDirectory()
        return Path(self._directory.name) / "plan"

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()


def test_a_plan_that_was_cut_is_told(tmp_path: Path):
    path = tmp_path / "L.plan"
    store(path, [FileSource(path=b"a", ino=2), FileSource(path=b"b", ino=3)])
    whole = path.read_bytes()
    why = r"L\.plan: (is cut or damaged at byte|found no plan)"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CallerError, match=why):
            StoredEntries(path)


@given(ENTRIES)
def test_planned_files_are_a_dict(entries: list[FileSource]):
    kept: dict[FileVersion, FileSource] = {}
    unique = []
    for entry in entries:
        file = FileVersion(entry.ino, entry.data_version)
        is_file = entry.kind == "file" and entry.link_of is None
        if not is_file or file not in kept:
            unique.append(entry)
        if is_file:
            kept.setdefault(file, entry)
    files = PlannedFiles(unique)
    assert dict(files) == kept and len(files) == len(kept)
    assert list(files.values()) == list(kept.values())
    assert files.bytes == sum(entry.size for entry in kept.values())
    for ino in range(22):
        for version in range(5):
            file = FileVersion(ino, version)
            assert (file in files) == (file in kept)
            assert files.get(file) == kept.get(file)


def tree(count: int) -> list[FileSource]:
    """Files, links and directories that are visited in turns."""
    entries = [FileSource(path=b"top%d" % n, ino=10_000 + n, kind="dir") for n in range(3)]
    for number in range(count):
        path = b"top%d/below%d/%05d" % (number % 4, number % 7, number)
        entries.append(FileSource(path=path, ino=2 + number, size=number * 91 % 5000))
        if number % 9 == 0:
            link = b"links/%05d" % number
            entries.append(FileSource(path=link, ino=2 + number, link_of=path))
    return entries


def written(entries: Sequence[FileSource], into: Path | None) -> tuple[bytes, bytes, Any]:
    def source(entry: FileSource) -> io.BytesIO:
        if entry.ino % 50 == 0:
            raise PermissionError
        return io.BytesIO(random.Random(entry.ino).randbytes(entry.size))

    writer = VolumeWriter(plan_volume(HEADER, entries, 1 << 20), into)
    image = b"".join(writer.stream(source))
    return image, b"".join(writer.manifest()), list(writer.results)


def test_small_buffers_and_entries_on_disk_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entries = tree(600)
    expected = written(entries, None)
    monkeypatch.setattr(scratch, "BUFFER_BYTES", 1000)
    monkeypatch.setattr(metadata, "KEPT_ENTRIES_MAX", 5)
    monkeypatch.setattr(metadata, "PIECE_BYTES", 3000)
    store(tmp_path / "plan", entries)
    stored = StoredEntries(tmp_path / "plan")
    assert written(stored, tmp_path) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_a_scratch_that_finds_no_room_says_where(tmp_path: Path):
    kept = Scratch("volume L: hashes", tmp_path / "missing")
    with pytest.raises(TransientError, match=r"volume L: hashes cannot be kept in .*missing: No"):
        kept.append(bytes(scratch.BUFFER_BYTES))


def test_plans_are_loaded_as_they_were_saved_also_those_of_earlier_releases(tmp_path: Path):
    plans, entries = PlanStore(tmp_path), tree(20)
    assert plans.load("L1") is None
    plan = StoredPlan(header=HEADER, capacity_sectors=5000, entries=entries)
    trio.run(plans.save, "L1", plan)
    old = {"version": 1, "header": HEADER, "capacity_sectors": 5000, "entries": entries}
    (tmp_path / "L2.plan").write_bytes(msgspec.msgpack.encode(old))
    for label in ("L1", "L2"):
        found = plans.load(label)
        assert found is not None
        assert (found.header, found.capacity_sectors) == (HEADER, 5000)
        assert list(found.entries) == entries


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_plan_with_a_changed_byte_is_used_or_told(place: int, change: int):
    with ScratchPath() as path:
        plans = PlanStore(path.parent)
        plan = StoredPlan(header=HEADER, capacity_sectors=5000, entries=tree(20))
        trio.run(plans.save, "plan", plan)
        path = path.with_suffix(".plan")
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= change
        path.write_bytes(data)
        try:
            found = plans.load("plan")
            assert found is not None
            entries = list(found.entries)
            assert entries == [found.entries[n] for n in range(len(entries))]
        except CallerError as error:
            assert "plan" in str(error)


@given(ENTRIES)
def test_short_ways_to_a_manifest_line_give_the_same_line(entries: list[FileSource]):
    paths = (b"", b"a~b/c", b".hsm/x", b"plain/name.dcm", b"n" * 255)
    more = [msgspec.structs.replace(e, path=p) for e, p in zip(entries, paths, strict=False)]
    for entry in [*entries, *more]:
        fields = msgspec.json.encode(manifest._fields(entry))
        assert manifest._coded(entry) == fields
