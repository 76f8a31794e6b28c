"""All data of a foreign disc read at once: hashes, proofs, damage; readers come first."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support.importsystem import DISC, FILES, System

from hsmfs.daemon import hashjob, runs
from hsmfs.daemon.jobs import Job


@pytest.fixture
def system(tmp_path: Path) -> System:
    made = System(tmp_path)
    assert made.run(made.bring_in, -1, False)
    return made


def verify(system: System) -> Job:
    job = system.importer.core.jobs.new("verify")

    async def work() -> None:
        await system.importer.verify(job, system.label)

    assert system.run(work, -1, False)
    return job


def test_hashed_then_proved(system: System) -> None:
    count = len(FILES)
    assert verify(system).note.endswith(f"{count} files hashed, 0 proved")
    job = verify(system)
    assert job.note.endswith(f"0 files hashed, {count} proved")
    assert job.state == "done"
    extents = system.catalog.volume_extents(system.label)
    assert all(len(extent.sha256) == 64 and len(extent.xxh3_128) == 32 for extent in extents)


def test_damage_is_named(system: System) -> None:
    verify(system)
    victim = max(system.catalog.volume_extents(system.label), key=lambda one: one.size)
    image = system.library.image(DISC)
    data = bytearray(image.read_bytes())
    data[(victim.runs[0][0] if victim.runs else victim.offset) + 1] ^= 1
    image.write_bytes(data)
    job = verify(system)
    assert job.state == "partial"
    (why,) = job.errors
    assert why.startswith(f"{victim.path}: bytes 0 to ")
    assert system.catalog.discs[DISC].read_errors == 1


def test_readers_come_first(system: System) -> None:
    """It gives way after each file as long as somebody waits, and goes on where it was."""
    asked: list[str] = []

    def has_readers(label: str) -> bool:
        asked.append(label)
        return len(asked) < 50

    system.importer.has_readers = has_readers
    assert verify(system).note.endswith(f"{len(FILES)} files hashed, 0 proved")
    assert system.started == 1 + 50  # the tree, then each time anew


def test_a_file_read_in_part_goes_on_where_it_was(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to leave the drive between chunks, again and again: hashes are those of whole files."""
    for module in (runs, hashjob):
        monkeypatch.setattr(module, "CHUNK_BYTES", 1024)
    told = iter([False, True, True] * 12)
    system.importer.has_readers = lambda _label: next(told, False)
    assert verify(system).note.endswith(f"{len(FILES)} files hashed, 0 proved")
    assert system.started > 20
    for extent in system.catalog.volume_extents(system.label):
        assert extent.sha256 == hashlib.sha256(FILES[extent.path]).hexdigest()
        assert len(extent.chunks) == -(-extent.size // 1024)
