"""A process of its own that commits batches, so that the engine's thread is not held up.

Python's interpreter lock lets one thread of a process run at a time; putting a
batch into LMDB beside the engine's thread made renames three times slower
(docs/decisions.md). The engine's process only reads the environment.

On its socket: length (u32, little endian) and a batch as a MessagePack map of
keys to values, nil for a deletion; the answer is a length and an error text,
empty when the batch is durable. Batches are committed in order, each as a
whole. The process ends when its socket is closed, after the batch that it has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from hsmfs.errors import HsmError, StoreFullError
from hsmfs.store.lmdbstore import LmdbStore

LENGTH: Final = struct.Struct("<I")
LOCK_NAME: Final = "committer.lock"
LOCK_WAIT_S: Final = 60.0
"""How long the committer of a run that was killed may take for its last batch."""
LOCK_POLL_S: Final = 0.01
READY: Final = b"ready"
FULL: Final = b"full: "
"""Begins the answer where the disk is full."""
_decode: Final = msgspec.msgpack.Decoder(dict[bytes, bytes | None]).decode


def main() -> int:
    """``committer SOCKET_FD DIRECTORY MAP_BYTES``; started by ``RemoteStore``."""
    descriptor, path, map_bytes = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    channel = socket.socket(fileno=descriptor)
    try:
        lock = _lock(path)
        store = LmdbStore(path, map_bytes)
        store.prove()
    except (HsmError, OSError) as error:
        send(channel, str(error).encode())
        return 1
    send(channel, READY)
    with contextlib.suppress(lmdb.PanicError):  # only a new process helps; it is started again
        while (batch := receive(channel)) is not None:
            send(channel, _commit(store, _decode(batch)))
    store.close()
    os.close(lock)
    return 0


def _lock(path: Path) -> int:
    """Held for life: no batch of an earlier run may come after this."""
    fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end_s = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise HsmError(
                    f"{path}/{LOCK_NAME}: an earlier hsmfs still writes to this namespace; "
                    "see 'ps' for hsmfs.store.committer"
                ) from None
            time.sleep(LOCK_POLL_S)


def _commit(store: LmdbStore, batch: dict[bytes, bytes | None]) -> bytes:
    try:
        store.apply(batch)
    except StoreFullError as error:
        return FULL + str(error).encode()
    except lmdb.PanicError:
        raise
    except Exception as error:  # told to hsmfs, which keeps the batch and tries again
        return f"{type(error).__name__}: {error}".encode()
    return b""


def send(channel: socket.socket, data: bytes) -> None:
    """One message."""
    channel.sendall(LENGTH.pack(len(data)) + data)


def receive(channel: socket.socket) -> bytes | None:
    """One message; None when the other side has closed."""
    head = _exactly(channel, LENGTH.size)
    return None if head is None else _exactly(channel, LENGTH.unpack(head)[0])


def _exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = channel.recv(min(size - len(data), 1 << 20))
        if not piece:
            return None
        data += piece
    return bytes(data)


if __name__ == "__main__":
    sys.exit(main())
