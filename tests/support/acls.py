"""POSIX ACLs as extended attributes, written in the short form of setfacl(1)."""

from __future__ import annotations

import os
import struct
from typing import Final

ACCESS: Final = "system.posix_acl_access"
DEFAULT: Final = "system.posix_acl_default"
_TAGS: Final = {"u": (1, 2), "g": (4, 8), "m": (16, 16), "o": (32, 32)}
"""Tag of an entry without and with a name."""
_NOBODY: Final = 0xFFFFFFFF
_ENTRY: Final = struct.Struct("<HHI")


def acl(text: str) -> bytes:
    """``u::rwx,u:1001:r--,g::r-x,m::rwx,o::---`` as the kernel takes it."""
    entries = []
    for word in text.split(","):
        letter, name, perms = word.split(":")
        tag = _TAGS[letter][bool(name)]
        perm = sum(bit for bit, char in ((4, "r"), (2, "w"), (1, "x")) if char in perms)
        entries.append((tag, perm, int(name) if name else _NOBODY))
    return struct.pack("<I", 2) + b"".join(_ENTRY.pack(*entry) for entry in sorted(entries))


def text(value: bytes) -> str:
    """The other way."""
    words = []
    for tag, perm, ident in _ENTRY.iter_unpack(value[4:]):
        letter = {1: "u", 2: "u", 4: "g", 8: "g", 16: "m", 32: "o"}[tag]
        name = str(ident) if tag in (2, 8) else ""
        perms = "".join(char if perm & bit else "-" for bit, char in ((4, "r"), (2, "w"), (1, "x")))
        words.append(f"{letter}:{name}:{perms}")
    return ",".join(words)


def set_acl(path: str, short: str, name: str = ACCESS) -> None:
    os.setxattr(path, name, acl(short))


def get_acl(path: str, name: str = ACCESS) -> str:
    """The text; empty if there is none."""
    try:
        return text(os.getxattr(path, name))
    except OSError as error:
        if error.errno != 61:
            raise
        return ""
