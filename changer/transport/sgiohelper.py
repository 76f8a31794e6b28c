"""The helper process of ``sgio``: one device, commands by pipe."""

from __future__ import annotations

import errno
import os
import sys
from typing import BinaryIO

from hsmfs.changer.transport.interface import CHECK_CONDITION, GOOD
from hsmfs.changer.transport.sgio import GONE, REFUSED, REPLIED, REPLY, REQUEST

_GONE = (errno.ENODEV, errno.ENXIO, errno.EIO, errno.ENOENT, errno.EBUSY)


def main() -> None:
    """Serve until the pipe is closed."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write into the frames
    answers.write(b"\0")
    answers.flush()
    device: BinaryIO | None = None
    while head := sys.stdin.buffer.read(REQUEST.size):
        size, out, wanted = REQUEST.unpack(head)
        cdb, data = sys.stdin.buffer.read(size), sys.stdin.buffer.read(out)
        try:
            if device is None:
                fd = os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                device = os.fdopen(fd, "r+b", buffering=0)
            reply = _execute(device, cdb, data, wanted)
        except OSError as error:
            kind = GONE if error.errno in _GONE else REFUSED
            text = (os.strerror(error.errno or 0)).encode()
            reply = REPLY.pack(kind, 0, 0, 0, len(text)) + text
        answers.write(reply)
        answers.flush()


def _execute(device: BinaryIO, cdb: bytes, data: bytes, wanted: int) -> bytes:
    """One command as a reply frame; the binding tells bytes not transferred."""
    import sgio

    inward = bytearray(wanted)
    try:
        resid = sgio.execute(device, cdb, data or None, inward)
    except sgio.CheckConditionError as error:
        sense = bytes(error.sense)[:255]
        return REPLY.pack(REPLIED, CHECK_CONDITION, len(sense), 0, 0) + sense
    except sgio.UnspecifiedError:
        text = b"no status and no sense (time-out, or the way to the device)"
        return REPLY.pack(GONE, 0, 0, 0, len(text)) + text
    got = inward[: max(0, wanted - max(0, resid))] if wanted else b""
    return REPLY.pack(REPLIED, GOOD, 0, len(got), 0) + bytes(got)


if __name__ == "__main__":
    main()
