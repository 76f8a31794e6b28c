"""What a directory tree looks like to those who use it: comparable values."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple


class Node(NamedTuple):
    """One name. Links of one file are told by the first path that has it."""

    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    rdev: int
    first_path: bytes
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]


Tree = dict[bytes, Node]


def facts(info: os.stat_result) -> tuple[int, int, int, int, int, int]:
    """What stat(2) must say on any file system; the size of a directory is its own affair."""
    size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    rdev = info.st_rdev if stat.S_IFMT(info.st_mode) in DEVICES else 0
    return info.st_mode, info.st_uid, info.st_gid, info.st_nlink, size, rdev


DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


def tree_of(root: bytes) -> Tree:
    """All names below ``root`` and itself (as ``.``); to be read by somebody who may."""
    found: Tree = {}
    first: dict[int, bytes] = {}
    _walk(root, b".", found, first)
    return found


def _walk(root: bytes, path: bytes, found: Tree, first: dict[int, bytes]) -> None:
    whole = root + b"/" + path
    info = os.lstat(whole)
    first.setdefault(info.st_ino, path)
    xattrs = tuple((name, xattr(whole, name)) for name in sorted(xattr_names(whole)))
    content = _content(whole, info.st_mode)
    found[path] = Node(*facts(info), first[info.st_ino], content, xattrs)
    if not stat.S_ISDIR(info.st_mode):
        return
    with os.scandir(whole) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        assert entry.inode() == os.lstat(entry.path).st_ino, entry.path
        assert entry.is_dir(follow_symlinks=False) == stat.S_ISDIR(os.lstat(entry.path).st_mode)
        _walk(root, path + b"/" + entry.name, found, first)


def _content(path: bytes, mode: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.readlink(path)
    if stat.S_ISREG(mode):
        with open(path, "rb") as file:
            return file.read()
    return b""


def xattr_names(path: bytes) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def xattr(path: bytes, name: str) -> bytes:
    return os.getxattr(path, name, follow_symlinks=False)


def differences(left: Tree, right: Tree) -> list[str]:
    """One line for each name that differs, for a person."""
    lines = []
    for path in sorted(left.keys() | right.keys()):
        if left.get(path) != right.get(path):
            lines.append(f"{path!r}: {_short(left.get(path))} / {_short(right.get(path))}")
    return lines


def _short(node: Node | None) -> str:
    if node is None:
        return "missing"
    words = node._replace(content=node.content[:40])
    return f"mode {node.mode:o} {words._asdict()}"
