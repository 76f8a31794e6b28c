"""A tree of all that is awkward: names, depths, widths, sizes, dates, modes, links, attributes.

``make`` writes it below a directory, ``facts_of`` tells every attribute of what is there.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hsmfs.tools.adopt.disk import facts_of as statx
from support.acls import ACCESS, DEFAULT, acl

AT_FDCWD = -100
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PIECE = 1 << 20
NAMES = (
    b"plain.txt",
    "中文/病历 报告.pdf".encode(),
    "日本語/カルテ ファイル.dcm".encode(),
    "emoji 😀🧬/🩻 👩🏽\u200d⚕️.png".encode(),
    "combining/e\u0301".encode(),
    "combining/\u00e9".encode(),
    "combining/가 \u1100\u1161".encode(),
    b"long/" + b"n" * 255,
    b"long/" + b"m" * 254,
    b"long/" + "中".encode() * 85,
    b"long/" + "é".encode() * 127,
    b"long/" + b"a" * 200 + "中".encode(),
    b"long/" + "😀".encode() * 63,
    b"dots and spaces/trailing dot.",
    b"dots and spaces/trailing dots...",
    b"dots and spaces/trailing space ",
    b"dots and spaces/ leading space",
    b"dots and spaces/...",
    b"dots and spaces/ ",
    b"dots. /inside",
    b"CON",
    b"con.txt",
    b"NUL/COM1",
    b"a:b",
    b"a:b:c/d:e",
    b"marks/back\\slash",
    b'marks/*?<>|"',
    b"marks/new\nline",
    b"marks/\x01\x1f\x7f",
    b"marks/-rf",
    b"marks/$HOME `x` ;'",
    b"not-utf8/\xff\xfe\x80.bin",
    b"not-utf8/caf\xe9",
    b"not-utf8/\xc3",
    b"not-utf8-\xff/inside",
    b".hsm/of the user",
    b".hidden",
    b"case/README",
    b"case/readme",
    b"like ours/x~0123456789abcdef.txt",
    "bom/\ufeffstart".encode(),
    "bom/\u202ertl".encode(),
    b"/".join([b"%03d" % n for n in range(100)]) + b"/deepest",
)
SIZES = [n + d for n in (0, 2 * KIB, 64 * KIB, MIB) for d in (-1, 0, 1) if n + d >= 0]
GREAT_SIZES = [GIB - 1, GIB, GIB + 1]
DATES_NS = (
    -1,
    -1_000_000_001,
    -2_208_988_800_000_000_000,
    0,
    1_700_000_000_123_456_789,
    2_147_483_648_000_000_001,
    4_294_967_296_123_456_789,
    9_000_000_000_999_999_999,
)
"""1969, 1900, 1970, before and after what 32 bits hold, 2255."""
WIDE = 20_000


@dataclass(frozen=True, slots=True)
class Item:
    """One name."""

    path: bytes
    kind: str = "file"
    size: int = 0
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 1_600_000_000_987_654_321
    atime_ns: int = 1_610_000_000_123_456_789
    xattrs: dict[str, bytes] = field(default_factory=dict)
    target: bytes = b""
    rdev: int = 0
    is_sparse: bool = False


def pieces(item: Item) -> Iterator[bytes]:
    """What it holds; of a sparse one only the first and last piece are not zeros."""
    chance, left = random.Random(item.path), item.size
    if item.is_sparse:
        first = chance.randbytes(PIECE)
        yield first
        left -= len(first) + 1
        while left:
            zeros = bytes(min(PIECE, left))
            yield zeros
            left -= len(zeros)
        yield b"\xff"
        return
    while left:
        piece = chance.randbytes(min(PIECE, left))
        yield piece
        left -= len(piece)


def digest(item: Item) -> str:
    """SHA-256 of what it holds."""
    hashed = hashlib.sha256()
    for piece in pieces(item):
        hashed.update(piece)
    return hashed.hexdigest()


def corpus(wide: int = WIDE, modes: int = 0o10000) -> list[Item]:
    """All but the great files; ``wide`` and ``modes`` bound what takes time."""
    items = [
        Item(
            path,
            size=100 * n,
            uid=n,
            gid=2000 + n,
            mtime_ns=DATES_NS[n % len(DATES_NS)],
            atime_ns=DATES_NS[n // 2 % len(DATES_NS)],
        )
        for n, path in enumerate(NAMES)
    ]
    items += [Item(b"sizes/%d" % size, size=size) for size in SIZES]
    items += [
        Item(b"dates/%d" % n, size=9, mtime_ns=when, atime_ns=-when)
        for n, when in enumerate(DATES_NS)
    ]
    items += [Item(b"modes/%02o/%04o" % (n >> 6, n), size=n % 3, mode=n) for n in range(modes)]
    items += [Item(b"wide/%05d" % n, size=n % 3) for n in range(wide)]
    items += _links() + _attributes() + _specials()
    items += [
        Item(b"empty directory", "dir", mode=0o2711, uid=7, gid=8),
        Item(b"sticky", "dir", mode=0o1777, mtime_ns=DATES_NS[1], atime_ns=DATES_NS[2]),
        Item(b"no rights", "dir", mode=0),
        Item("空目录/空".encode(), "dir"),
    ]
    return items


def _links() -> list[Item]:
    return [
        Item(b"links/again", "link", target=NAMES[0]),
        Item(b"links/\xff and again", "link", target=NAMES[0]),
        Item("links/链接".encode(), "link", target=NAMES[1]),
        Item(b"links/of not-utf8", "link", target=b"not-utf8/\xff\xfe\x80.bin"),
        Item(b"links/symbolic", "symlink", target=b"../plain.txt", uid=5, gid=6),
        Item(b"links/dangling", "symlink", target=b"/nowhere/\xff\xfe"),
        Item(b"links/" + b"s" * 255, "symlink", target=b"t" * 4000, mtime_ns=DATES_NS[1]),
        Item(b"links/loop", "symlink", target=b"loop", atime_ns=DATES_NS[2]),
    ]


def _attributes() -> list[Item]:
    rights = acl("u::rw-,u:1000:r--,g::r-x,g:2000:rwx,m::rwx,o::---")
    return [
        Item(b"xattrs/few", size=5, xattrs={"user.a": b"", "user.\xe6\x96\x87": b"\0\xff"}),
        Item(b"xattrs/large", size=5, xattrs={"user.large": bytes(range(256)) * 128}),
        Item(b"xattrs/many", size=5, xattrs={f"user.n{n}": b"%d" % n for n in range(60)}),
        Item(b"xattrs/dir", "dir", mode=0o755, xattrs={"user.dir": b"d"}),
        Item(b"xattrs/acl", size=5, mode=0o670, xattrs={ACCESS: rights}),
        Item(b"xattrs/acl dir", "dir", mode=0o770, xattrs={DEFAULT: rights}),
    ]


def _specials() -> list[Item]:
    return [
        Item(b"special/fifo", "special", mode=stat.S_IFIFO | 0o620, uid=3),
        Item(b"special/socket", "special", mode=stat.S_IFSOCK | 0o777),
        Item(b"special/char", "special", mode=stat.S_IFCHR | 0o600, rdev=os.makedev(4095, 7)),
        Item(b"special/block", "special", mode=stat.S_IFBLK | 0o660, rdev=os.makedev(8, 65537)),
    ]


def great() -> list[Item]:
    """Around 1 GiB, mostly holes."""
    return [Item(b"great/%d" % size, size=size, is_sparse=True) for size in GREAT_SIZES]


def make(items: list[Item], top: bytes) -> None:
    """All of it below ``top``; needs root for owners."""
    for item in items:
        path = os.path.join(top, item.path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if item.kind == "dir":
            os.makedirs(path, exist_ok=True)
        elif item.kind == "link":
            os.link(os.path.join(top, item.target), path)
        elif item.kind == "symlink":
            os.symlink(item.target, path)
        elif item.kind == "special":
            os.mknod(path, item.mode, item.rdev)
        else:
            _write(item, path)
        if item.kind != "link":
            _dress(item, path)
    for item in items:
        if item.kind == "dir":  # what was put in it moved its time
            os.utime(os.path.join(top, item.path), ns=(item.atime_ns, item.mtime_ns))


def _write(item: Item, path: bytes) -> None:
    with open(path, "xb", buffering=0) as file:
        for piece in pieces(item):
            if item.is_sparse and not any(piece[:64]):
                file.seek(len(piece), os.SEEK_CUR)
            else:
                file.write(piece)


def _dress(item: Item, path: bytes) -> None:
    os.chown(path, item.uid, item.gid, follow_symlinks=False)
    if item.kind != "symlink":
        os.chmod(path, stat.S_IMODE(item.mode))
    for name, value in item.xattrs.items():
        os.setxattr(path, name, value)
    os.utime(path, ns=(item.atime_ns, item.mtime_ns), follow_symlinks=False)


def facts_of(top: bytes) -> dict[bytes, Any]:
    """Every attribute of every name, and of files what they hold; links of one file are told by
    the least path."""
    found: dict[bytes, Any] = {}
    first: dict[int, bytes] = {}
    for folder, directories, files in os.walk(top):
        for name in sorted([*directories, *files]):
            path = os.path.join(folder, name)
            here = os.path.relpath(path, top)
            facts = os.lstat(path)
            if facts.st_nlink > 1 and stat.S_ISREG(facts.st_mode):
                first[facts.st_ino] = min(here, first.get(facts.st_ino, here))
            born_ns = statx(AT_FDCWD, path).btime_ns
            found[here] = facts, born_ns, xattrs_of(path), content_of(path, facts)
    return {
        path: {
            "mode": facts.st_mode,
            "uid": facts.st_uid,
            "gid": facts.st_gid,
            "nlink": facts.st_nlink,
            "size": facts.st_size if not stat.S_ISDIR(facts.st_mode) else 0,
            "atime_ns": facts.st_atime_ns,
            "mtime_ns": facts.st_mtime_ns,
            "ctime_ns": facts.st_ctime_ns,
            "btime_ns": born_ns,
            "rdev": facts.st_rdev,
            "ino": facts.st_ino,
            "same_as": first.get(facts.st_ino, path),
            "xattrs": xattrs,
            "content": content,
        }
        for path, (facts, born_ns, xattrs, content) in found.items()
    }


def xattrs_of(path: bytes) -> dict[str, bytes]:
    """But those by which hsmfs tells what it does."""
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if not name.startswith("user.hsm.")
    }


def content_of(path: bytes, facts: os.stat_result) -> object:
    """SHA-256 of a file, target of a link; its access time stays."""
    if stat.S_ISLNK(facts.st_mode):
        return os.readlink(path)
    if not stat.S_ISREG(facts.st_mode):
        return None
    hashed = hashlib.sha256()
    with open(os.open(path, os.O_RDONLY | os.O_NOATIME), "rb") as file:
        while piece := file.read(PIECE):
            hashed.update(piece)
    return hashed.hexdigest()


def differences(before: dict[bytes, Any], after: dict[bytes, Any]) -> list[str]:
    """A line for each name and attribute that is not the same."""
    lines = [f"{path!r}: missing" for path in before.keys() - after.keys()]
    lines += [f"{path!r}: is new" for path in after.keys() - before.keys()]
    for path in before.keys() & after.keys():
        mine, theirs = before[path], after[path]
        lines += [
            f"{path!r}: {key} {str(mine[key])[:80]} became {str(theirs[key])[:80]}"
            for key in mine
            if mine[key] != theirs[key]
        ]
    return sorted(lines)
