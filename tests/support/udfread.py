"""libudfread (behind VLC, Kodi, libbluray) as a reader of images.

As a program (``python udfread.py IMAGE``): SHA-256 of each file by its path in hex, as JSON.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

LIBRARY = ctypes.util.find_library("udfread")
DIRECTORY = 1
PIECE_BYTES = 1 << 20


class Dirent(ctypes.Structure):
    """``struct udfread_dirent``."""

    _fields_ = (("type", ctypes.c_uint), ("name", ctypes.c_char_p))


class Disc:
    """An image as libudfread shows it."""

    def __init__(self, path: Path) -> None:
        assert LIBRARY is not None
        self._lib = ctypes.CDLL(LIBRARY)
        for name in ("init", "opendir_at", "opendir", "file_openat", "readdir", "get_volume_id"):
            getattr(self._lib, f"udfread_{name}").restype = ctypes.c_void_p
        self._lib.udfread_get_volume_id.restype = ctypes.c_char_p
        self._lib.udfread_file_read.restype = ctypes.c_ssize_t
        self._udf = ctypes.c_void_p(self._lib.udfread_init())
        if self._lib.udfread_open(self._udf, str(path).encode()) < 0:
            raise OSError(5, "libudfread cannot open the volume")

    def close(self) -> None:
        self._lib.udfread_close(self._udf)

    @property
    def label(self) -> bytes:
        return bytes(self._lib.udfread_get_volume_id(self._udf))

    def files(self) -> dict[bytes, bytes]:
        """What each holds, by path."""
        return {path: b"".join(pieces) for path, pieces in self._all()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each, by path in hex."""
        found = {}
        for path, pieces in self._all():
            hashed = hashlib.sha256()
            for piece in pieces:
                hashed.update(piece)
            found[path.hex()] = hashed.hexdigest()
        return found

    def _all(self) -> Iterator[tuple[bytes, Iterator[bytes]]]:
        root = ctypes.c_void_p(self._lib.udfread_opendir(self._udf, b"/"))
        return self._below(root, b"")

    def _below(
        self, directory: ctypes.c_void_p, prefix: bytes
    ) -> Iterator[tuple[bytes, Iterator[bytes]]]:
        entry = Dirent()
        names = []
        while self._lib.udfread_readdir(directory, ctypes.byref(entry)):
            names.append((bytes(entry.name), entry.type))
        for name, kind in names:
            if name in (b".", b".."):
                continue
            if kind != DIRECTORY:
                yield prefix + name, self._content(directory, name)
                continue
            below = ctypes.c_void_p(self._lib.udfread_opendir_at(directory, name))
            yield from self._below(below, prefix + name + b"/")
        self._lib.udfread_closedir(directory)

    def _content(self, directory: ctypes.c_void_p, name: bytes) -> Iterator[bytes]:
        file = ctypes.c_void_p(self._lib.udfread_file_openat(directory, name))
        buffer = ctypes.create_string_buffer(PIECE_BYTES)
        while (got := self._lib.udfread_file_read(file, buffer, len(buffer))) > 0:
            yield buffer.raw[:got]
        self._lib.udfread_file_close(file)


if __name__ == "__main__":
    json.dump(Disc(Path(sys.argv[1])).digests(), sys.stdout)
