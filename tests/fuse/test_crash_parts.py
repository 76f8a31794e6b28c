"""hsmd killed while a file is burned in parts: one test a row of docs/crash-safety.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.crashing import Crashing, running, state_of
from support.sandboxes import Sandbox

pytestmark = pytest.mark.fuse
SIZE = 50_000_001
"""Three parts on discs of 20 MB, one with room for other files."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crashing]:
    with running(tmp_path_factory.mktemp("parts") / "sb", "--slots", "60") as box:
        yield box
        box.stop()
        assert Sandbox.hsm(box, "fsck", check=False)["findings"] == []


@pytest.fixture
def box(shared: Crashing) -> Crashing:
    shared.crash.path.unlink(missing_ok=True)
    shared.start()
    return shared


def large(box: Crashing) -> dict[str, bytes]:
    """A file that is larger than a disc, in a directory of its own."""
    (path,) = box.fresh(1, 1)
    data = os.urandom(SIZE)
    Path(path).write_bytes(data)
    return {path: data}


def until_counted(box: Crashing, made: dict[str, bytes], volumes: int = 3) -> None:
    (path, data), *_ = made.items()
    box.until(lambda: state_of(path) == "premigrated")
    assert len(os.getxattr(path, "user.hsm.volumes").decode().split()) == volumes
    box.until(lambda: box.catalog_splits() == 0)
    box.release(made)
    assert Path(path).read_bytes() == data


def test_file_in_parts_decided_no_part_planned(box: Crashing) -> None:
    made = large(box)
    known = set(box.volumes())
    box.killed(box.migrating(made), "catalog", "after", table="S")
    (split,) = box.catalog().splits.values()
    assert split.labels == ["", "", ""] and set(box.catalog().volumes) == known
    box.start()
    until_counted(box, made)


@pytest.mark.parametrize("part", [1, 2, 3])
def test_file_in_parts_some_volumes_burned(box: Crashing, part: int) -> None:
    made = large(box)
    box.killed(box.migrating(made), "catalog", "after", nth=part, table="V", state="complete")
    (split,) = box.catalog().splits.values()
    states = [box.catalog().volumes[label].state for label in split.labels if label]
    assert states.count("complete") == part
    assert state_of(next(iter(made))) == "resident"
    box.start()
    until_counted(box, made)


def test_file_in_parts_all_volumes_complete_before_copied(box: Crashing) -> None:
    made = large(box)
    # Each volume tells of its whole files first: the first call with one is the file's.
    box.killed(box.migrating(made), "hsmfs.daemon.splitter:Splitter._count", "before")
    (split,) = box.catalog().splits.values()
    assert {box.catalog().volumes[label].state for label in split.labels} == {"complete"}
    assert state_of(next(iter(made))) == "resident"
    box.start()
    until_counted(box, made)


def test_file_in_parts_the_file_changed_meanwhile(box: Crashing) -> None:
    made = large(box)
    path = next(iter(made))
    box.killed(box.migrating(made), "catalog", "after", table="V", state="complete")
    with open(path, "r+b") as file:
        file.write(b"changed")
    made[path] = b"changed" + made[path][7:]
    box.start()
    until_counted(box, made)
