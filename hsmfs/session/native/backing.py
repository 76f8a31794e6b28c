"""Cache files that the kernel reads and writes by itself (passthrough)."""

from __future__ import annotations

import errno
import fcntl
import struct

from hsmfs import logs
from hsmfs.session.native import protocol as p

log = logs.get(__name__)
_MAP = struct.Struct("<iIQ")
"""struct fuse_backing_map: descriptor, flags, padding."""


class Backings:
    """See ``hsmfs.namespace.through.Backings``. Needs CAP_SYS_ADMIN."""

    def __init__(self, device: int) -> None:
        self._device = device
        self.refused = False
        """The kernel will never do it here: said once, and not tried again."""
        self.count = 0
        self.ended = False
        """The device was given back, and all files with it."""

    def open(self, fd: int) -> int:
        """The number of a cache file, or 0."""
        if self.refused:
            return 0
        try:
            number: int = fcntl.ioctl(self._device, p.BACKING_OPEN, bytearray(_MAP.pack(fd, 0, 0)))
        except OSError as error:
            self._failed(error)
            return 0
        self.count += 1
        return number

    def _failed(self, error: OSError) -> None:
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTTY, errno.ELOOP):
            self.refused = True
            why = "CAP_SYS_ADMIN is missing" if error.errno == errno.EPERM else str(error)
            log.warning("passthrough is off, reads and writes are slower", why=why)

    def close(self, number: int) -> None:
        """Let it go."""
        self.count -= 1
        if not self.ended:
            fcntl.ioctl(self._device, p.BACKING_CLOSE, p.U32.pack(number))
