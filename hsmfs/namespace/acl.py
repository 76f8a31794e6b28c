"""POSIX ACLs in the form of Linux's extended attributes: plain values.

A value is a header, version 2 (u32), and entries of tag (u16), permissions
(u16) and id (u32), little endian, see the kernel's
``include/uapi/linux/posix_acl_xattr.h``. What modes and ACLs do to each other
is POSIX.1e draft 17, section 23.1, as in the kernel's ``fs/posix_acl.c``.
"""

from __future__ import annotations

import errno
import struct
from typing import Final, NamedTuple

from hsmfs.errors import FsError

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
NAMES: Final = (ACCESS, DEFAULT)
VERSION: Final = 2
ENTRIES_MAX: Final = 8191
"""What fits into an extended attribute of 64 KiB."""
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32
NAMED: Final = USER | GROUP | MASK
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")


class Entry(NamedTuple):
    """Permissions of one class, user or group."""

    tag: int
    perm: int
    ident: int


def parse(value: bytes) -> list[Entry]:
    """The entries; EINVAL for what is none, EOPNOTSUPP for another version."""
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise FsError(errno.EINVAL)
    if _HEADER.unpack_from(value)[0] != VERSION:
        raise FsError(errno.EOPNOTSUPP)
    entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(value[_HEADER.size :])]
    tags = [entry.tag for entry in entries]
    needed = [USER_OBJ, GROUP_OBJ, OTHER]
    if any(tags.count(tag) != 1 for tag in needed) or any(e.perm & ~7 for e in entries):
        raise FsError(errno.EINVAL)
    return entries


def build(entries: list[Entry]) -> bytes:
    """The value of an extended attribute."""
    return _HEADER.pack(VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def is_trivial(entries: list[Entry]) -> bool:
    """Whether a mode says the same."""
    return not any(entry.tag & NAMED for entry in entries)


def mode_of(entries: list[Entry], mode: int) -> int:
    """The mode with the permission bits that an access ACL gives."""
    perms = {entry.tag: entry.perm for entry in entries}
    group = perms.get(MASK, perms[GROUP_OBJ])
    return mode & ~0o777 | perms[USER_OBJ] << 6 | group << 3 | perms[OTHER]


def with_mode(entries: list[Entry], mode: int) -> list[Entry]:
    """chmod(2): the classes follow the mode; the group's is the mask."""
    group_tag = MASK if any(entry.tag == MASK for entry in entries) else GROUP_OBJ
    perms = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    return [entry._replace(perm=perms.get(entry.tag, entry.perm)) for entry in entries]


def inherit(default: list[Entry], mode: int) -> tuple[list[Entry], int]:
    """Access ACL and mode of what is made in a directory with a default ACL.

    The umask has no say; the wanted mode only takes away.
    """
    group_tag = MASK if any(entry.tag == MASK for entry in default) else GROUP_OBJ
    wanted = {USER_OBJ: mode >> 6 & 7, group_tag: mode >> 3 & 7, OTHER: mode & 7}
    access = [e._replace(perm=e.perm & wanted.get(e.tag, 7)) for e in default]
    return access, mode_of(access, mode)
