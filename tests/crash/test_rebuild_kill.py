"""A rebuild that is killed is simply run again."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from support.volumes import burn, changes, stopped_system

from hsmfs.daemon.namespaceset import SetLine
from hsmfs.fsck.findings import Summary
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.fsckcommand import findings
from hsmfs.volume.source import FileSource

KILLER = """
import os, sys
left = int(sys.argv.pop(1))

def counted(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*args, **kwargs)
    return call

for name in ("rename", "unlink", "open", "utime", "mkdir", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
from hsmfs.tools.hsm import main
main()
"""
"""Ends the process, as SIGKILL does, at one of its changes of the disk."""


@pytest.fixture
def system(tmp_path: Path) -> Path:
    stopped_system(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    files = [FileSource(path=b"f%d" % ino, ino=ino, data_version=1, size=ino) for ino in (20, 21)]
    root = SetLine(ino=1, mode=0o40755)
    lines = [
        SetLine(ino=f.ino, names=[[1, f.path.decode()]], mode=0o100644, size=f.size, data_version=1)
        for f in files
    ]
    burn(images / "D1.img", "sandbox-000001", files, changes(0, 5, root, *lines))
    return tmp_path


def run(system: Path, left: int) -> int:
    command = ["--config", str(system / "hsmfs.toml"), "rebuild", "--from", str(system / "images")]
    return subprocess.run(
        [sys.executable, "-c", KILLER, str(left), *command],
        capture_output=True,
        timeout=120,
        check=False,
    ).returncode


def test_killed_at_each_step_and_run_again(system: Path) -> None:
    config = stopped_system(system)
    steps = 0
    while (code := run(system, steps)) == 9:
        assert run(system, 1_000_000) in (0, 1), steps
        store = LmdbStore(Path(config.namespace.path), read_only=True)
        with closing(store), store.snapshot() as reader:
            view = NamespaceView(reader)
            assert sorted(path for path, _ in view.walk(1, b"")) == [b"f20", b"f21"], steps
        assert not list(findings(config, False, None, Summary())), steps
        assert not (Path(config.catalog.path) / "rebuild.unfinished").exists()
        for path in (system / "state").iterdir():
            path.rename(system / f"done-{steps}-{path.name}")
        steps += 1
    assert code == 0
    assert steps > 8
    assert os.path.exists(config.namespace.path)
