"""What is installed: all packages, manual pages, units that systemd takes."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from hsmfs.tools import hsm, manpages

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "systemd").glob("*.service"))


def test_every_package_is_installed() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    listed = set(parser["options"]["packages"].split())
    found = {"hsmfs"}
    for name in ("hsmfs", "daemon", "changer", "tools"):
        top = ROOT / name
        folders = {path.parent for path in top.rglob("*.py") if not path.is_symlink()}
        found |= {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    found = {one if one.split(".")[0] == "hsmfs" else f"hsmfs.{one}" for one in found}
    assert listed == found


def test_manual_pages_have_every_command(tmp_path: Path) -> None:
    manpages.write(tmp_path)
    text = (tmp_path / "hsm.1").read_text()
    for names in hsm.MODULES.values():
        for name in names:
            assert f".SS hsm {name}" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "hsm.1", "hsmd.8", "hsmfs.8", "mount.hsmfs.8",
    ]  # fmt: skip
    if shutil.which("man"):
        for page in tmp_path.iterdir():
            command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            assert done.stderr == ""


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_units_are_taken_by_systemd(unit: Path, tmp_path: Path) -> None:
    """With programs that exist: what is installed is tried where the package is."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, of Debian's systemd")
    for one in UNITS:
        text = one.read_text().replace("/usr/bin/hsm", f"{tmp_path}/hsm")
        name = one.name.replace("@.", "@hsmfs.")
        (tmp_path / name).write_text(text.replace("file:///usr", f"file://{tmp_path}"))
    for program in ("hsmfs", "hsmd"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    name = unit.name.replace("@.", "@hsmfs.")
    done = subprocess.run(
        ["systemd-analyze", "--man=no", "verify", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
