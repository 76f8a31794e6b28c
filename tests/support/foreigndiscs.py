"""Discs that other programs write, and what was put on them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.foreign.detect import open_foreign
from hsmfs.volume.foreign.entry import HOLE, ForeignEntry, ForeignVolume, Problem

WHEN_NS = 981_173_106_000_000_000
"""3 February 2001; whole seconds, for ISO 9660 has no more."""


def tree(root: Path) -> Path:
    """A folder as people burn it: Chinese, emoji, deep, empty, links, modes, owners."""
    files = {
        "病人 张三/série 😀/图像1.dcm": b"DICM" * 1000,
        "a/b/c/d/e/f/g/h/i/j/deep.txt": b"deep\n",
        "big.bin": bytes(range(256)) * 20_000,
        "empty": b"",
        "two sectors": b"x" * 4096,
        "n" * 100 + ".txt": b"a long name",
        "UPPER.TXT": b"upper",
    }
    files |= {f"wide/file with a long name {n:03d}.txt": b"%d" % n for n in range(200)}
    for path, data in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    (root / "a/link").symlink_to("../big.bin")
    (root / "absolute link").symlink_to("/an/absolute/path")
    (root / "up").symlink_to("../..")
    (root / "nothing in it").mkdir()
    (root / "big.bin").chmod(0o640)
    (root / "nothing in it").chmod(0o711)
    if os.geteuid() == 0:
        os.chown(root / "empty", 1234, 567)
    for folder, names, files_in in os.walk(root, topdown=False):
        for name in names + files_in:
            os.utime(Path(folder, name), ns=(WHEN_NS, WHEN_NS), follow_symlinks=False)
    return root


def program(name: str) -> str:
    """Where it is; skips where it is not."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def iso(out: Path, source: Path, *options: str, by: str = "genisoimage") -> Path:
    """An image by genisoimage, or by xorriso's emulation of it."""
    command = [program(by), "-quiet", *options, "-o", str(out), str(source)]
    if by == "xorriso":
        command[1:1] = ["-as", "mkisofs"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return out


def sparse_iso(out: Path, source: Path, *options: str, by: str) -> Path:
    """The same without room for zeros, for files that are large."""
    command = [program(by), *(["-as", "mkisofs"] if by == "xorriso" else [])]
    copy = ["dd", f"of={out}", "bs=1M", "iflag=fullblock", "conv=sparse", "status=none"]
    with subprocess.Popen(
        [*command, "-quiet", *options, str(source)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as made:
        subprocess.run(copy, stdin=made.stdout, check=True)
    assert made.returncode == 0
    size = out.stat().st_size
    os.truncate(out, size + -size % SECTOR_BYTES)
    return out


class Image:
    """An image file as a disc in a drive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        self.sectors = os.fstat(self._fd).st_size // SECTOR_BYTES

    def __del__(self) -> None:
        os.close(self._fd)

    def read(self, sector: int, sectors: int) -> bytes:
        return os.pread(self._fd, sectors * SECTOR_BYTES, sector * SECTOR_BYTES)

    def volume(self) -> ForeignVolume:
        return open_foreign(self.read, self.sectors)

    def entries(self) -> dict[bytes, ForeignEntry]:
        """By path; there must be no problems."""
        found = list(self.volume().walk())
        assert not [one for one in found if isinstance(one, Problem)], found
        entries = [one for one in found if isinstance(one, ForeignEntry)]
        by_path = {entry.path: entry for entry in entries}
        assert len(by_path) == len(entries)
        seen = {b""}
        for entry in entries:  # a directory comes before what is in it
            assert entry.path.rpartition(b"/")[0] in seen
            if entry.kind == "dir":
                seen.add(entry.path)
        return by_path

    def part(self, entry: ForeignEntry, offset: int, size: int) -> bytes:
        """Bytes that are in one run."""
        for at, length in entry.runs:
            if offset < length:
                return os.pread(self._fd, size, at + offset)
            offset -= length
        return b""

    def content(self, entry: ForeignEntry) -> bytes:
        parts = [
            bytes(length) if at == HOLE else os.pread(self._fd, length, at)
            for at, length in entry.runs
        ]
        assert sum(length for _, length in entry.runs) == entry.size
        return b"".join(parts)


def differences(
    image: Image,
    source: Path,
    *,
    modes: bool = True,
    links: bool = True,
    times: bool = True,
    lost: tuple[str, ...] = (),
) -> list[str]:
    """What the image has otherwise than the folder; ``lost`` starts of paths are left out."""
    entries, found = image.entries(), []
    for folder, names, files in os.walk(source):
        for name in sorted(names + files):
            real = Path(folder, name)
            path = str(real.relative_to(source))
            entry = entries.pop(os.fsencode(path), None)
            facts = real.lstat()
            if path.startswith(lost) or (stat.S_ISLNK(facts.st_mode) and not links):
                continue
            if entry is None:
                found.append(f"{path}: is missing")
                continue
            found += [f"{path}: {what}" for what in _differ(image, entry, real, modes, times)]
    return found + [f"{os.fsdecode(path)}: is too much" for path in entries]


def _differ(image: Image, entry: ForeignEntry, real: Path, modes: bool, times: bool) -> list[str]:
    facts, found = real.lstat(), []
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
    if entry.kind != kinds[stat.S_IFMT(facts.st_mode)]:
        return [f"kind {entry.kind}"]
    if entry.kind == "file" and image.content(entry) != real.read_bytes():
        found.append("content")
    if entry.kind == "symlink":
        if entry.target != os.fsencode(os.readlink(real)):
            found.append(f"target {entry.target!r}")
        return found
    mine = (entry.facts.mode, entry.facts.uid, entry.facts.gid)
    theirs = (stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid)
    if modes and mine != theirs:
        found.append(f"mode and owner {mine}, expected {theirs}")
    if times and entry.facts.mtime_ns != facts.st_mtime_ns:
        found.append(f"mtime {entry.facts.mtime_ns}, expected {facts.st_mtime_ns}")
    return found
