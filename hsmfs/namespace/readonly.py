"""Trees that nobody changes: what a disc of others holds."""

from __future__ import annotations

import errno

from hsmfs.errors import FsError
from hsmfs.records import FLAG_FOREIGN, InodeRecord


def check_writable(record: InodeRecord) -> None:
    """EROFS for what came with an import, before it or a name in it is changed."""
    if record.flags & FLAG_FOREIGN:
        raise FsError(errno.EROFS, "imported from a disc of others, which is read-only")
