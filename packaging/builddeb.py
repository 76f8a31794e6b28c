"""Builds the Debian package ``hsmfs_VERSION_ARCH.deb`` (``make deb``).

The programs and the Python packages that they need lie in /usr/lib/hsmfs, with the layout of
a virtual environment whose Python is Debian's own: Debian's versions of these packages are not
those that were tested. What is compiled fits one minor version of Python, which the package
depends on.

Needs dpkg-deb and, for the packages, an index of pip's. Uses the standard library only.
"""

from __future__ import annotations

import argparse
import configparser
import gzip
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = "usr/lib/hsmfs"
SYSTEM_PYTHON = Path("/usr/bin/python3")
MAINTAINER = "The hsmfs developers <hsmfs@localhost>"
UNITS = {
    "hsmfs@.service": "lib/systemd/system/hsmfs@.service",
    "hsmd.service": "lib/systemd/system/hsmd.service",
    "hsmfs.sysusers": "usr/lib/sysusers.d/hsmfs.conf",
    "hsmfs.tmpfiles": "usr/lib/tmpfiles.d/hsmfs.conf",
}
SCRIPT = """\
#!/{home}/bin/python3 -I
import sys

from {module} import {function}

sys.exit({function}())
"""
CONTROL = """\
Package: hsmfs
Version: {version}
Architecture: {arch}
Maintainer: {maintainer}
Section: admin
Priority: optional
Installed-Size: {kib}
Depends: python3 (>= {major}.{minor}), python3 (<< {major}.{next}), fuse3, libfuse3-3, libc6
Recommends: libiscsi7
Suggests: nfs-ganesha-vfs, samba, prometheus, growisofs, cdrskin
Description: {short}
 One namespace spans fast disk, RAID, discs in a robot library, and magazines of
 discs on a shelf. Files that are not used go to archival Blu-ray discs in two
 or more verified copies; reading one loads its disc. A disc is plain UDF that any
 drive reads without this program.
"""
POSTINST = """\
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if command -v systemd-sysusers >/dev/null; then systemd-sysusers hsmfs.conf || true; fi
    if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create hsmfs.conf || true; fi
    if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
    # Nothing is started: there is no configuration yet. After an upgrade the services go on
    # with the old programs until they are restarted, so that no burn is cut.
    if [ ! -e /etc/hsmfs/hsmfs.toml ]; then
        echo "hsmfs: see /usr/share/doc/hsmfs/install.md; a sample of the configuration is in" \\
            "/usr/share/doc/hsmfs/examples"
    fi
fi
"""
PRERM = """\
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl stop hsmd.service 'hsmfs@*.service' || true
fi
"""
POSTRM = """\
#!/bin/sh
set -e
# Data and configuration stay, also when the package is purged: /var/lib/hsmfs, /etc/hsmfs.
if [ "$1" = purge ]; then rm -rf /run/hsmfs; fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
"""


def main() -> None:
    """Build into a directory."""
    parser = argparse.ArgumentParser(description="Build hsmfs's Debian package.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: %(default)s")
    out: Path = parser.parse_args().out
    for program in ("dpkg-deb", "dpkg"):
        if shutil.which(program) is None:
            sys.exit(f"make deb: found no {program}; this needs a Debian system")
    version = _version_of(SYSTEM_PYTHON)
    if version != sys.version_info[:2]:
        sys.exit(
            f"make deb: {SYSTEM_PYTHON} is Python {version[0]}.{version[1]}, the packages in .venv "
            f"are for {sys.version_info[0]}.{sys.version_info[1]}; run: make clean deb "
            f"PYTHON={SYSTEM_PYTHON}"
        )
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        tree = Path(place) / "tree"
        tree.mkdir(mode=0o755)
        metadata = _setup_cfg()
        _programs(tree, metadata)
        _system_files(tree)
        _control(tree, metadata, version)
        arch = _said("dpkg", "--print-architecture")
        deb = out / f"hsmfs_{metadata['metadata']['version']}_{arch}.deb"
        _run("dpkg-deb", "--root-owner-group", "-Zxz", "-z3", "--build", str(tree), str(deb))
    print(deb)


def _setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def _version_of(python: Path) -> tuple[int, int]:
    if not python.exists():
        sys.exit(f"make deb: found no {python}; apt-get install python3")
    found = _said(str(python), "-c", "import sys; print(*sys.version_info[:2])").split()
    return int(found[0]), int(found[1])


def _programs(tree: Path, metadata: configparser.ConfigParser) -> None:
    home = tree / HOME
    packages = home / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    packages.mkdir(parents=True)
    pip = (sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check")
    _run(*pip, "--no-compile", "--target", str(packages), str(_source(tree.parent)))
    shutil.rmtree(packages / "bin", ignore_errors=True)
    _run(
        sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/",
        "--invalidation-mode", "unchecked-hash", str(packages),
    )  # fmt: skip
    (home / "bin").mkdir()
    (home / "bin/python3").symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    for line in metadata["options.entry_points"]["console_scripts"].strip().splitlines():
        found = re.fullmatch(r"(\S+) = ([\w.]+):(\w+)", line)
        assert found, f"setup.cfg: console_scripts: found {line!r}"
        _script(tree, *found.groups())


def _source(place: Path) -> Path:
    """A clean copy of what is packed: pip builds in the directory that it is given."""
    copy = place / "source"
    copy.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    ignored = shutil.ignore_patterns("__pycache__", "daemon", "changer", "tools")
    shutil.copytree(ROOT / "hsmfs", copy / "hsmfs", ignore=ignored)
    for name in ("daemon", "changer", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def _script(tree: Path, name: str, module: str, function: str) -> None:
    script = tree / HOME / "bin" / name
    script.write_text(SCRIPT.format(home=HOME, module=module, function=function))
    script.chmod(0o755)
    folder = tree / ("usr/bin" if "." not in name else "usr/sbin")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(f"/{HOME}/bin/{name}")


def _system_files(tree: Path) -> None:
    for name, place in UNITS.items():
        _copy(ROOT / "systemd" / name, tree / place)
    documents = tree / "usr/share/doc/hsmfs"
    for path in sorted((ROOT / "docs").glob("*.md")):
        _copy(path, documents / path.name)
    _copy(ROOT / "LICENSE", documents / "copyright")
    for path in (*(ROOT / "export").glob("*.conf"), ROOT / "systemd/archive.mount"):
        _copy(path, documents / "examples" / path.name)
    for path in (*(ROOT / "packaging/examples").iterdir(), *(ROOT / "monitoring").iterdir()):
        _copy(path, documents / "examples" / path.name)
    with tempfile.TemporaryDirectory() as pages:
        _run(sys.executable, "-m", "hsmfs.tools.manpages", pages)
        for page in Path(pages).iterdir():
            target = tree / f"usr/share/man/man{page.suffix[1:]}/{page.name}.gz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(gzip.compress(page.read_bytes(), mtime=0))
    for shell, place in (
        ("bash", "usr/share/bash-completion/completions/hsm"),
        ("zsh", "usr/share/zsh/vendor-completions/_hsm"),
        ("fish", "usr/share/fish/vendor_completions.d/hsm.fish"),
    ):
        target = tree / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_completion(shell))


def _completion(shell: str) -> str:
    environment = dict(os.environ, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    command = [sys.executable, "-m", "hsmfs.tools.hsm", "--show-completion", shell]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.replace("python -m hsmfs.tools.hsm", "hsm")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    target.chmod(0o644)


def _control(tree: Path, metadata: configparser.ConfigParser, python: tuple[int, int]) -> None:
    size = sum(path.lstat().st_size for path in tree.rglob("*") if not path.is_dir())
    folder = tree / "DEBIAN"
    folder.mkdir(mode=0o755)
    text = CONTROL.format(
        version=metadata["metadata"]["version"],
        arch=_said("dpkg", "--print-architecture"),
        maintainer=MAINTAINER,
        kib=-(-size // 1024),
        major=python[0],
        minor=python[1],
        next=python[1] + 1,
        short=metadata["metadata"]["description"][:70].rstrip(", "),
    )
    (folder / "control").write_text(text)
    for name, script in (("postinst", POSTINST), ("prerm", PRERM), ("postrm", POSTRM)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def _said(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
