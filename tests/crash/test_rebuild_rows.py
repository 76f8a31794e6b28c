"""``hsm rebuild`` killed at each step of docs/crash-safety.md: one test a row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.crashpoints import CrashFile
from support.discplaces import FILES, Place, names_of

HSM = Path(sys.executable).parent / "hsm"
SYNC = "hsmfs.tools.rebuild.run:_sync_directory"


class Rebuilding(Place):
    """A system to be made anew, by a program that can be killed at a step."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.volume(0, 4)
        self.volume(1, 5)
        self.crash = CrashFile(root / "crash")
        self.state = root / "state"

    def hsm(self, *sources: str) -> subprocess.CompletedProcess[str]:
        words = [word for source in sources for word in ("--from", source)]
        return subprocess.run(
            [str(HSM), "--config", str(self.root / "hsmfs.toml"), "rebuild", *words, "--json"],
            env={**os.environ, **self.crash.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def killed(self, source: str, point: str, when: str, nth: int = 1) -> None:
        """The program is gone, at this step."""
        self.crash.arm(point, when, nth)
        assert self.hsm(source).returncode == -signal.SIGKILL
        self.crash.disarm()

    def again(self, source: str) -> Any:
        """Run to its end; all is there."""
        done = self.hsm(source)
        assert done.returncode == 0, done.stderr
        self.is_whole()
        return json.loads(done.stdout)

    def is_whole(self) -> None:
        """Both stores are there, and nothing else."""
        assert self.names() == names_of(1, 2)
        assert self.left() == {"namespace", "catalog"}
        assert {path.name for path in (self.state / "catalog").iterdir()} <= {
            "data.mdb",
            "lock.mdb",
        }

    def left(self) -> set[str]:
        return {path.name for path in self.state.iterdir()}


@pytest.fixture
def system(tmp_path: Path) -> Rebuilding:
    return Rebuilding(tmp_path)


def test_while_the_robot_loads_discs(system: Rebuilding) -> None:
    system.killed("library", "hsmfs.tools.rebuild.ledger:Ledger.keep", "before", nth=8)
    read = len(list((system.state / "namespace.rebuild-discs").glob("*.json")))
    assert read in (6, 7)  # the other drive's may be under way
    assert system.left() == {"namespace.rebuild-discs"}
    assert system.in_drives()
    done = system.again("library")
    assert (done["read_before"], done["read"]) == (read, 12)
    assert done["loads"] + read <= 12
    assert done["files"] == 2 * FILES
    assert system.in_drives() == []


@pytest.mark.parametrize("source", ["library", "images"])
def test_while_it_reads_images(system: Rebuilding, source: str) -> None:
    where = str(system.images) if source == "images" else source
    system.killed(where, "hsmfs.tools.rebuild.tree:TreeBuilder.run", "before")
    left = {"catalog.rebuild", "namespace.rebuild", "namespace.rebuild-scratch"}
    assert system.left() - {"namespace.rebuild-discs"} == left
    done = system.again(where)
    assert done["loads"] == 0


def test_catalog_in_place_namespace_not_yet(system: Rebuilding) -> None:
    system.killed("library", SYNC, "after")
    assert (system.state / "catalog" / "rebuild.unfinished").exists()
    assert not (system.state / "namespace").exists()
    done = system.hsm("library")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loads"] == 0
    assert system.names() == names_of(1, 2)
    assert not (system.state / "catalog" / "rebuild.unfinished").exists()


def test_both_in_place(system: Rebuilding) -> None:
    system.killed("library", SYNC, "after", nth=2)
    assert (system.state / "catalog" / "rebuild.unfinished").exists()
    assert (system.state / "namespace.rebuild-discs").exists()
    assert system.names() == names_of(1, 2)
    done = system.hsm("library")
    assert done.returncode == 1
    assert "found a store in use" in done.stderr
    system.is_whole()
