"""The access log: who opened which file when, for ``hsm policy whatif``.

Segments ``access-NNNNNNNN.log`` in one directory, the oldest removed beyond a
bound. Integers are little-endian. A segment begins with 16 bytes: the magic
``hsmfs-accs`` (10), the version (u16: 1), the size of a record (u32: 32). Each
record:

======  ====  =========  ==================================================
offset  type  field      meaning
======  ====  =========  ==================================================
0       i64   time_ns
8       u64   ino
16      u64   size       of the file at its open
24      u32   uid        of who opened it
28      u8    kind       1 opened for reading, 2 opened for writing
29      u8    state      ``types.Residency`` before the open
30      u16   (zero)
======  ====  =========  ==================================================

What a crash leaves of the last record is cut off when it is read; records of
the last seconds before it may be missing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from hsmfs.clock import Clock
from hsmfs.config import Config
from hsmfs.deferred import Executor
from hsmfs.errors import CallerError
from hsmfs.records import InodeRecord

log = structlog.get_logger(__name__)
MAGIC: Final = b"hsmfs-accs"
VERSION: Final = 1
HEADER: Final = struct.Struct("<10sHI")
RECORD: Final = struct.Struct("<qQQIBBH")
DTYPE: Final = np.dtype(
    [
        ("time_ns", "<i8"),
        ("ino", "<u8"),
        ("size", "<u8"),
        ("uid", "<u4"),
        ("kind", "u1"),
        ("state", "u1"),
        ("zero", "<u2"),
    ]
)
assert DTYPE.itemsize == RECORD.size == 32
READ: Final = 1
WRITE: Final = 2
SEGMENT_BYTES: Final = 1 << 24
FLUSH_S: Final = 10.0
FLUSH_BYTES: Final = 1 << 17
HELD_MAX: Final = 1 << 22
"""Bytes that wait for a disk that does not take them; beyond, records are lost."""


class AccessLog:
    """Written by hsmfs: gathers on the engine's thread, writes in a worker."""

    def __init__(self, directory: Path, bytes_max: int, clock: Clock, executor: Executor) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._clock = clock
        self._executor = executor
        self._held = bytearray()
        self._writing = False
        self._timer = False
        self._lost = False

    def note(self, record: InodeRecord, flags: int, uid: int) -> None:
        """An open of a regular file."""
        held = self._held
        if len(held) >= HELD_MAX:
            return
        kind = WRITE if flags & os.O_ACCMODE else READ
        held += RECORD.pack(
            self._clock.now_ns(), record.ino, record.size, uid, kind, record.state, 0
        )
        if len(held) >= FLUSH_BYTES and not self._writing:
            self._flush()
        elif not self._timer:
            self._timer = True
            self._executor.call_later(FLUSH_S, self._late)

    def _late(self) -> None:
        self._timer = False
        if self._held and not self._writing:
            self._flush()

    def _flush(self) -> None:
        data, self._held, self._writing = bytes(self._held), bytearray(), True
        self._executor.submit(lambda: self.write(data), self._written)

    def _written(self, _: None, error: BaseException | None) -> None:
        self._writing = False
        if error is not None and not self._lost:
            self._lost = True
            log.error("the access log cannot be written; accesses go unrecorded", why=str(error))

    def close(self) -> None:
        """Write what is held; blocks."""
        if self._held:
            data, self._held = bytes(self._held), bytearray()
            try:
                self.write(data)
            except OSError as error:
                log.info("the end of the access log was not written", why=str(error))

    def write(self, data: bytes) -> None:
        """Append to the last segment, or begin another; blocks."""
        self._directory.mkdir(parents=True, exist_ok=True)
        found = segments(self._directory)
        last = found[-1] if found else None
        if last is None or last.stat().st_size >= SEGMENT_BYTES or not _is_ours(last):
            number = int(last.stem.partition("-")[2]) + 1 if last is not None else 1
            last = self._directory / f"access-{number:08d}.log"
            last.write_bytes(HEADER.pack(MAGIC, VERSION, RECORD.size))
            found.append(last)
        with last.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(end - (end - HEADER.size) % RECORD.size)
            file.write(data)
        for old in found[: max(0, len(found) - max(1, self._bytes_max // SEGMENT_BYTES))]:
            old.unlink()


def access_path(config: Config) -> Path:
    """The directory of a system's access log."""
    return Path(config.access.path or Path(config.namespace.path).parent / "access")


def segments(directory: Path) -> list[Path]:
    """The oldest first."""
    return sorted(directory.glob("access-*.log"))


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(HEADER.size) == HEADER.pack(MAGIC, VERSION, RECORD.size)


def read_log(directory: Path) -> Iterator[NDArray[Any]]:
    """The records of each segment; CallerError where one is of another version."""
    found = segments(directory)
    if not found:
        raise CallerError(
            f"{directory}: found no access log, expected access-NNNNNNNN.log; it is written while "
            "hsmfs runs with access.bytes_max greater than 0"
        )
    for path in found:
        data = path.read_bytes()
        if len(data) < HEADER.size:
            continue
        magic, version, size = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise CallerError(f"{path}: found {magic!r} at its beginning, expected {MAGIC!r}")
        if (version, size) != (VERSION, RECORD.size):
            raise CallerError(
                f"{path}: found version {version} with records of {size} bytes, expected version "
                f"{VERSION} with {RECORD.size}; use the hsmfs that wrote it"
            )
        whole = (len(data) - HEADER.size) // RECORD.size
        yield np.frombuffer(data, dtype=DTYPE, count=whole, offset=HEADER.size)
