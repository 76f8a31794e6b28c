"""An NFSv4 client in user space: libnfs, by ctypes.

One client is one mount with a connection and a client id of its own; it is
used by one thread at a time. Errors are OSError with the server's errno.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_uint32, c_uint64, c_void_p
from typing import Any

LIBRARY = "libnfs.so.13"
SET_LOCK = 0  # NFS4_F_SETLK of enum nfs4_fcntl_op
VERIFIER_BYTES = 8
READ_BYTES, WRITE_BYTES = 1 << 18, 3072  # libnfs 4.0 encodes no longer NFSv4 WRITE
_numbers = itertools.count(1)


class Stat(ctypes.Structure):
    """struct nfs_stat_64."""

    _fields_ = [
        *((name, c_uint64) for name in ("dev", "ino", "mode", "nlink", "uid", "gid", "rdev")),
        *((name, c_uint64) for name in ("size", "blksize", "blocks", "atime", "mtime", "ctime")),
        *((name, c_uint64) for name in ("atime_ns", "mtime_ns", "ctime_ns", "used")),
    ]


class DirEntry(ctypes.Structure):
    """The head of struct nfsdirent."""

    _fields_ = [("next", c_void_p), ("name", c_char_p), ("ino", c_uint64)]


class Flock(ctypes.Structure):
    """struct nfs4_flock."""

    _fields_ = [
        ("type", c_int),
        ("whence", c_int),
        ("pid", c_uint32),
        ("start", c_uint64),
        ("length", c_uint64),
    ]


class FileHandle(ctypes.Structure):
    """struct nfs_fh."""

    _fields_ = [("length", c_int), ("value", c_void_p)]


def _load() -> Any:
    library = ctypes.CDLL(LIBRARY)
    for name in ("nfs_init_context", "nfs_parse_url_dir"):
        getattr(library, name).restype = c_void_p
    library.nfs_get_error.restype = c_char_p
    library.nfs_readdir.restype = POINTER(DirEntry)
    library.nfs_get_fh.restype = POINTER(FileHandle)
    return library


class NfsClient:
    """A mounted export."""

    def __init__(self, url: str) -> None:
        self._lib = _load()
        self._nfs = c_void_p(self._lib.nfs_init_context())
        number = next(_numbers)
        # By default one process is one client: its locks would never conflict.
        self._name = ctypes.create_string_buffer(b"test %d %d" % (os.getpid(), number))
        self._lib.nfs4_set_client_name(self._nfs, self._name)
        verifier = os.getpid().to_bytes(4, "big") + number.to_bytes(4, "big")
        self._verifier = ctypes.create_string_buffer(verifier, VERIFIER_BYTES)
        self._lib.nfs4_set_verifier(self._nfs, self._verifier)
        parsed = c_void_p(self._lib.nfs_parse_url_dir(self._nfs, url.encode()))
        if not parsed:
            raise OSError(f"{url}: {self._error()}")
        server, path = ctypes.cast(parsed, POINTER(c_char_p))[0:2]
        self._check(self._lib.nfs_mount(self._nfs, server, path))
        self._lib.nfs_destroy_url(parsed)

    def close(self) -> None:
        self._lib.nfs_umount(self._nfs)
        self._lib.nfs_destroy_context(self._nfs)

    def _error(self) -> str:
        text = self._lib.nfs_get_error(self._nfs)
        return text.decode(errors="replace") if text else "?"

    def _check(self, result: int) -> int:
        if result < 0:
            raise OSError(-result, self._error())
        return result

    def _path(self, function: str, *arguments: Any) -> None:
        words = [os.fsencode(item) if isinstance(item, str) else item for item in arguments]
        self._check(getattr(self._lib, function)(self._nfs, *words))

    def mkdir(self, path: str) -> None:
        self._path("nfs_mkdir", path)

    def rmdir(self, path: str) -> None:
        self._path("nfs_rmdir", path)

    def unlink(self, path: str) -> None:
        self._path("nfs_unlink", path)

    def rename(self, old: str, new: str) -> None:
        self._path("nfs_rename", old, new)

    def truncate(self, path: str, size: int) -> None:
        self._path("nfs_truncate", path, c_uint64(size))

    def stat(self, path: str) -> Stat:
        found = Stat()
        self._path("nfs_stat64", path, byref(found))
        return found

    def names(self, path: str) -> list[str]:
        """All entries of a directory, in the server's order."""
        directory = c_void_p()
        self._path("nfs_opendir", path, byref(directory))
        found = []
        while entry := self._lib.nfs_readdir(self._nfs, directory):
            found.append(os.fsdecode(entry.contents.name))
        self._lib.nfs_closedir(self._nfs, directory)
        return found

    @contextmanager
    def open(self, path: str, flags: int = os.O_RDONLY) -> Iterator[NfsFile]:
        handle = c_void_p()
        if flags & os.O_CREAT:
            self._path("nfs_open2", path, flags, 0o644, byref(handle))
        else:
            self._path("nfs_open", path, flags, byref(handle))
        file = NfsFile(self, handle)
        try:
            yield file
        finally:
            self._lib.nfs_close(self._nfs, handle)

    def write(self, path: str, data: bytes) -> None:
        """A new file: libnfs 4.0 creates exclusively whether told to or not."""
        with self.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY) as file:
            file.write(0, data)
            file.sync()

    def read(self, path: str) -> bytes:
        with self.open(path) as file:
            return file.read(0, self.stat(path).size)


class NfsFile:
    """An open file."""

    def __init__(self, client: NfsClient, handle: c_void_p) -> None:
        self._client = client
        self._handle = handle

    def _call(self, function: str, *arguments: Any) -> int:
        call = getattr(self._client._lib, function)
        return self._client._check(call(self._client._nfs, self._handle, *arguments))

    def read(self, offset: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        done = 0
        while done < size:
            rest = byref(buffer, done)
            want = min(READ_BYTES, size - done)
            read = self._call("nfs_pread", c_uint64(offset + done), c_uint64(want), rest)
            if read == 0:
                break
            done += read
        return buffer.raw[:done]

    def write(self, offset: int, data: bytes) -> None:
        buffer = ctypes.create_string_buffer(data, len(data))
        done = 0
        while done < len(data):
            rest = byref(buffer, done)
            size = min(WRITE_BYTES, len(data) - done)
            done += self._call("nfs_pwrite", c_uint64(offset + done), c_uint64(size), rest)

    def handle(self) -> bytes:
        """The file handle as the server gave it out."""
        found = self._client._lib.nfs_get_fh(self._handle).contents
        return ctypes.string_at(found.value, found.length)

    def sync(self) -> None:
        self._call("nfs_fsync")

    def _lock(self, kind: int, start: int, size: int) -> None:
        wanted = Flock(kind, os.SEEK_SET, 0, start, size)
        self._call("nfs_fcntl", c_int(SET_LOCK), byref(wanted))

    def lock(self, start: int, size: int) -> None:
        """An exclusive lock, or an error at once."""
        self._lock(fcntl.F_WRLCK, start, size)

    def unlock(self, start: int, size: int) -> None:
        self._lock(fcntl.F_UNLCK, start, size)
