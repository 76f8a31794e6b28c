"""Extended attributes: those that users set, and those that tell residency."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING, Final

from hsmfs.errors import FsError
from hsmfs.namespace import acl, keeping, schema
from hsmfs.namespace.dosattrib import with_offline, without_offline
from hsmfs.namespace.model import NAME_BYTES_MAX, XATTR_BYTES_MAX
from hsmfs.namespace.readonly import check_writable
from hsmfs.namespace.stubs import Stubs
from hsmfs.namespace.tables import Tables
from hsmfs.records import FLAG_HELD, FLAG_PINNED, FLAG_WORM, FLAG_XATTRS, FROZEN, InodeRecord
from hsmfs.residency import STUB_STATES
from hsmfs.types import Residency

if TYPE_CHECKING:
    from hsmfs.namespace.holds import Holds

XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
NAMESPACES: Final = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")
TRUSTED: Final = b"trusted."
HSM: Final = b"user.hsm."
STATE, COPIES, VOLUMES, PIN, RECALL = (
    HSM + name for name in (b"state", b"copies", b"volumes", b"pin", b"recall")
)
DOSATTRIB: Final = b"user.DOSATTRIB"
LIST_BYTES_MAX: Final = 65_536


class Xattrs:
    """Stored and virtual extended attributes."""

    def __init__(self, tables: Tables, stubs: Stubs) -> None:
        self.tables = tables
        self.stubs = stubs
        self.holds: Holds | None = None
        """Set by the engine."""

    def get(self, ino: int, name: bytes) -> bytes:
        """The value; ENODATA; EOPNOTSUPP outside the name spaces of xattr(7)."""
        record = self.tables.inode(ino)
        _check_namespace(name)
        value = self._virtual(record, name)
        if value is None:
            value = self.tables.xattr(record, name)
        if value is None or name == schema.VOLUMES_XATTR:
            raise FsError(errno.ENODATA)
        return value

    def _virtual(self, record: InodeRecord, name: bytes) -> bytes | None:
        if not stat.S_ISREG(record.mode):
            return None
        if name == DOSATTRIB and record.state in STUB_STATES:
            return with_offline(self.tables.xattr(record, name))
        if not name.startswith(HSM):
            return None
        match name:
            case b"user.hsm.state":
                return Residency(record.state).word.encode()
            case b"user.hsm.copies":
                return b"%d" % record.copies
            case b"user.hsm.volumes":
                return self.tables.xattr(record, schema.VOLUMES_XATTR) or b""
            case b"user.hsm.pin":
                return b"1" if record.flags & FLAG_PINNED else b"0"
            case b"user.hsm.recall":
                recall = self.stubs.recalls.get(record.ino)
                return recall.note.encode() if recall else None
            case b"user.hsm.retention" if record.flags & FLAG_WORM and self.holds is not None:
                return self._retention(record)
            case b"user.hsm.hold" if record.flags & FLAG_HELD and self.holds is not None:
                return "\n".join(one.reason for one in self.holds.holds(record.ino)).encode()
        return None

    def _retention(self, record: InodeRecord) -> bytes | None:
        """``settled until DATE`` or ``settles after DATE`` (trusted time)."""
        assert self.holds is not None
        kept = self.holds.settling.kept(record.ino)
        if kept is None:
            return None
        if kept.until_ns:
            return f"settled until {keeping.shown(kept.until_ns)}".encode()
        return f"settles after {keeping.shown(kept.due_ns)}".encode()

    def list(self, ino: int, uid: int = 0) -> list[bytes]:
        """Names; those under user.hsm. are for who asks for them by name, so
        that copies of a tree do not try to set them. Those under trusted. are
        told to root only, xattr(7): the kernel leaves that to the server."""
        if not self.tables.inode(ino).flags & FLAG_XATTRS:
            return []
        names = [key[9:] for key, _ in self.tables.kv.scan(*schema.xattr_range(ino))]
        hidden = () if uid == 0 else (TRUSTED,)
        return [n for n in names if n != schema.VOLUMES_XATTR and not n.startswith(hidden)]

    def set(
        self, ino: int, name: bytes, value: bytes, flags: int = 0, kill_sgid: bool = False
    ) -> None:
        """XATTR_CREATE: EEXIST; XATTR_REPLACE: ENODATA; E2BIG, ERANGE.

        ``kill_sgid``: the one who sets an ACL is not in the file's group.
        """
        record = self.tables.inode(ino)
        if not name or len(name) > NAME_BYTES_MAX:
            raise FsError(errno.ERANGE)
        _check_namespace(name)
        if len(value) > XATTR_BYTES_MAX:
            raise FsError(errno.E2BIG)
        if name.startswith(HSM):
            self._set_virtual(record, name, value)
            return
        check_writable(self.tables.guard, record, "setxattr")
        exists = self.tables.xattr(record, name) is not None
        if flags & XATTR_CREATE and exists:
            raise FsError(errno.EEXIST)
        if flags & XATTR_REPLACE and not exists:
            raise FsError(errno.ENODATA)
        if name == DOSATTRIB:
            value = without_offline(value)
        if name == acl.ACCESS:
            self._set_access(record, value, kill_sgid)
        else:
            self.tables.put_xattr(record, name, value)
        self._changed(record)
        self.tables.journal("setxattr", ino, name, value)

    def _set_access(self, record: InodeRecord, value: bytes, kill_sgid: bool) -> None:
        """The mode follows; an ACL that says no more than it is not kept."""
        entries = acl.parse(value)
        record.mode = acl.mode_of(entries, record.mode)
        if kill_sgid:
            record.mode &= ~stat.S_ISGID
        if acl.is_trivial(entries):
            self.tables.drop_xattr(record, acl.ACCESS)
        else:
            self.tables.put_xattr(record, acl.ACCESS, value)

    def mode_changed(self, record: InodeRecord) -> None:
        """chmod(2): the access ACL follows."""
        value = self.tables.xattr(record, acl.ACCESS)
        if value is not None:
            entries = acl.with_mode(acl.parse(value), record.mode)
            self.tables.put_xattr(record, acl.ACCESS, acl.build(entries))

    def _set_virtual(self, record: InodeRecord, name: bytes, value: bytes) -> None:
        if name != PIN or not stat.S_ISREG(record.mode):
            raise FsError(errno.EPERM)
        wanted = value.rstrip(b"\0\n")
        if wanted not in (b"0", b"1"):
            raise FsError(errno.EINVAL)
        record.flags &= ~FLAG_PINNED
        if wanted == b"1":
            record.flags |= FLAG_PINNED
        if record.flags & FROZEN:
            self.tables.save(record)  # where its data is may change, its times may not
        else:
            self._changed(record)

    def remove(self, ino: int, name: bytes) -> None:
        """ENODATA if there is none."""
        record = self.tables.inode(ino)
        _check_namespace(name)
        if name == PIN:
            self._set_virtual(record, name, b"0")
            return
        check_writable(self.tables.guard, record, "removexattr")
        if name == schema.VOLUMES_XATTR or not self.tables.drop_xattr(record, name):
            raise FsError(errno.ENODATA)
        self._changed(record)
        self.tables.journal("removexattr", ino, name)

    def _changed(self, record: InodeRecord) -> None:
        if record.flags & FLAG_WORM:
            self.tables.guard.touched(record)
        record.ctime_ns = self.tables.clock.now_ns()
        self.tables.save(record)


def _check_namespace(name: bytes) -> None:
    if not name.startswith(NAMESPACES):
        raise FsError(errno.EOPNOTSUPP)
    if name in NAMESPACES:
        raise FsError(errno.EINVAL)
