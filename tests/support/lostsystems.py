"""Systems that lose everything but their discs, and what they were before."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

from support.sandboxes import Sandbox, write_files


def facts_of(top: Path) -> dict[str, Any]:
    """Every attribute of every name, and of files what they hold."""
    found: dict[str, Any] = {}
    links: dict[int, list[str]] = {}
    for folder, directories, files in os.walk(os.fsencode(top)):
        for name in [*directories, *files]:
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            kind = stat.S_IFMT(facts.st_mode)
            content: object = None
            if kind == stat.S_IFREG:
                content = Path(os.fsdecode(path)).read_bytes()
                links.setdefault(facts.st_ino, []).append(repr(path))
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            xattrs = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
                if not key.startswith("user.hsm.")
            }
            found[repr(os.path.relpath(path, os.fsencode(top)))] = (
                facts.st_ino,
                facts.st_mode,
                facts.st_uid,
                facts.st_gid,
                facts.st_nlink,
                facts.st_size if kind != stat.S_IFDIR else 0,
                facts.st_mtime_ns,
                facts.st_rdev,
                content,
                xattrs,
            )
    return found | {"links": sorted(map(sorted, links.values()))}


def lose_everything(box: Sandbox) -> None:
    """But the discs and the configuration."""
    box.stop()
    for name in ("state/namespace", "state/catalog", "cache"):
        shutil.rmtree(box.root / name)
    (box.root / "cache").mkdir()


def make_awkward(box: Sandbox) -> None:
    mnt = box.mnt
    write_files(mnt / "病历" / "影像", 10, 300_000)
    (mnt / "病历" / "empty").touch()
    os.link(mnt / "病历" / "影像" / "f0001", mnt / "hard")
    os.symlink(b"\xff nowhere", mnt / "sym")
    os.mkdir(mnt / "empty dir", 0o2711)
    os.mkfifo(mnt / "pipe")
    with open(os.fsencode(mnt) + b"/not-utf8-\xff\xfe", "wb") as file:
        file.write(b"x" * 5000)
    os.setxattr(mnt / "hard", "user.note", b"\0\1")
    os.setxattr(mnt / "病历", "user.dir", b"d")
    os.chown(mnt / "病历" / "影像", 12, 34)
    os.chmod(mnt / "hard", 0o4711)
    os.utime(mnt / "hard", ns=(-1_000_000_000, 5_000_000_000_123_456_789))
