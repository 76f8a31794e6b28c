"""Attributes in the kernel's form."""

from __future__ import annotations

from typing import Final

from hsmfs.namespace.model import Attr
from hsmfs.session.native import protocol as p

BLOCK_BYTES: Final = 64 * 1024
"""``st_blksize``: what stdio and Python read first; no more than the head that
stubs keep, so that reading a header loads no disc."""
SECOND_NS: Final = 1_000_000_000
STATX_BASIC: Final = 0x7FF
STATX_BTIME: Final = 0x800


class Codec:
    """Packs attributes, with the mount's time-outs."""

    def __init__(self, attr_timeout_s: float, entry_timeout_s: float) -> None:
        self.attr_s, self.attr_ns = divmod(int(attr_timeout_s * SECOND_NS), SECOND_NS)
        self.entry_s, self.entry_ns = divmod(int(entry_timeout_s * SECOND_NS), SECOND_NS)
        self.absent = p.ENTRY_OUT.pack(
            0, 0, self.entry_s, 0, self.entry_ns, 0, *(0 for _ in range(16))
        )
        """A name that does not exist; the kernel may remember that, as nobody
        but this mount's own requests makes names."""

    def entry(self, attr: Attr, pack: object = p.ENTRY_OUT.pack) -> bytes:
        """struct fuse_entry_out."""
        ino, generation, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime, _ = attr
        return pack(  # type: ignore[operator,no-any-return]
            ino,
            generation,
            self.entry_s,
            self.attr_s,
            self.entry_ns,
            self.attr_ns,
            ino,
            size,
            blocks,
            atime // SECOND_NS,
            mtime // SECOND_NS,
            ctime // SECOND_NS,
            atime % SECOND_NS,
            mtime % SECOND_NS,
            ctime % SECOND_NS,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            BLOCK_BYTES,
            0,
        )

    def attributes(self, attr: Attr) -> bytes:
        """struct fuse_attr_out."""
        ino, _, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime, _ = attr
        return p.ATTR_OUT.pack(
            self.attr_s,
            self.attr_ns,
            0,
            ino,
            size,
            blocks,
            atime // SECOND_NS,
            mtime // SECOND_NS,
            ctime // SECOND_NS,
            atime % SECOND_NS,
            mtime % SECOND_NS,
            ctime % SECOND_NS,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            BLOCK_BYTES,
            0,
        )

    def statx(self, attr: Attr) -> bytes:
        """struct fuse_statx_out, with the time of birth."""
        times = []
        for ns in (attr.atime_ns, attr.btime_ns, attr.ctime_ns, attr.mtime_ns):
            times += [ns // SECOND_NS, ns % SECOND_NS, 0]
        return p.STATX_OUT.pack(
            self.attr_s,
            self.attr_ns,
            0,
            STATX_BASIC | STATX_BTIME,
            BLOCK_BYTES,
            0,
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.mode,
            0,
            attr.ino,
            attr.size,
            attr.blocks,
            0,
            *times,
            attr.rdev >> 8 & 0xFFF,
            attr.rdev & 0xFF | attr.rdev >> 12 & 0xFFF00,
            0,
            0,
        )
