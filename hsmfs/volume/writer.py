"""Write a planned volume in one ascending pass, hashing on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.frame import Frame, Parts
from hsmfs.volume.geometry import sectors_of
from hsmfs.volume.hashes import OF_NOTHING, FileHashes
from hsmfs.volume.layout import FileSource, Layout
from hsmfs.volume.results import Results
from hsmfs.volume.stage import Stage

HASHED_STEP: Final = 64
"""Files after which results that are complete are moved out of memory."""

_Hashed = tuple[int, FileHashes | None]
_EMPTY: Final[_Hashed] = (0, FileHashes())
"""Shared, since a million empty files may wait behind one of some bytes."""


class Source(Protocol):
    """An open file of the cache."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill from the current position; 0 at the end."""

    def read(self, size: int, /) -> bytes:
        """Bytes from the current position."""

    def __enter__(self) -> Any: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> object: ...


class VolumeWriter:
    """Streams one volume; may be used once.

    ``scratch`` is a directory for a file without a name (some 300 bytes a file of the volume);
    the system's own for temporary files where it is None.
    """

    def __init__(self, layout: Layout, scratch: Path | None = None) -> None:
        self.layout = layout
        self._frame = Frame(layout, scratch)
        self._stage: Stage
        self._hashed: deque[_Hashed] = deque()
        """Size and hashes of files that may not have ended; None where one is void."""
        self._keep_at = HASHED_STEP
        self.results: Results = Results(layout, scratch)
        """One of each file with data, in data order; complete when the manifest begins."""
        self.image_xxh3 = ""
        """xxh3_128 of the whole stream, when it has ended."""

    def stream(self, open_source: Callable[[FileSource], Source]) -> Iterator[bytes]:
        """The volume's bytes in chunks of about 1 MiB of whole sectors.

        A file that cannot be read or has another size is void: its place is
        filled with zeros, and manifest and results say so.
        """
        self._stage = Stage()
        try:
            yield from self._stream(open_source)
        finally:
            self._stage.hashes.end()
        self.image_xxh3 = self._stage.hashes.image.hexdigest()

    def _stream(self, open_source: Callable[[FileSource], Source]) -> Iterator[bytes]:
        layout, stage = self.layout, self._stage
        yield from self._at(self._frame.front())
        yield from stage.zeros_to(layout.readme.sector + layout.readme.sectors)
        for entry, sector in layout.placed():
            if sector is not None:
                yield from self._file(entry, sector, open_source)
        if stage.position > stage.taken_bytes:
            yield stage.take()  # so that the last file's bytes are hashed
        stage.hashes.drain()
        self._keep_ended()
        assert not self._hashed
        for line in self.manifest():
            yield from stage.put(line)
        assert stage.position == layout.manifest.sector * SECTOR_BYTES + layout.manifest.size
        yield from self._at(self._frame.back())
        assert stage.position == layout.geometry.total_sectors * SECTOR_BYTES
        if stage.position > stage.taken_bytes:
            yield stage.take()

    def _at(self, parts: Parts) -> Iterator[bytes]:
        for sector, data in parts:
            yield from self._stage.zeros_to(sector)
            yield from self._stage.put(data)

    def manifest(self) -> Iterator[bytes]:
        """The manifest's lines; once more, when the stream has ended."""
        return self.results.manifest()

    def _file(
        self, entry: FileSource, sector: int, open_source: Callable[[FileSource], Source]
    ) -> Iterator[bytes]:
        size, stage = entry.size, self._stage
        assert stage.position == sector * SECTOR_BYTES
        hashes = FileHashes()
        good = False
        try:
            source = open_source(entry)
        except OSError as error:
            # An empty file needs no bytes, and some caches keep none of it.
            good = size == 0 and isinstance(error, FileNotFoundError)
        else:
            with source:
                if size < stage.room_bytes:
                    good = self._take_in(source, size, hashes)
                else:
                    good = yield from self._pull(source, size, hashes)
        if size:
            stage.end(hashes)
        if not good:
            self._hashed.append((size, None))
        else:
            self._hashed.append((size, hashes) if size else _EMPTY)
        if len(self._hashed) >= self._keep_at:
            self._keep_ended()
            self._keep_at = len(self._hashed) + HASHED_STEP
        yield from stage.zeros_to(sector + sectors_of(size))

    def _keep_ended(self) -> None:
        """Move results that are complete out of memory."""
        hashed = self._hashed
        while hashed:
            size, hashes = hashed[0]
            if size and hashes is not None and not hashes.ended:
                return
            proof = None if hashes is None else hashes.proof() if size else OF_NOTHING
            self.results.add(size, proof)
            hashed.popleft()

    def _take_in(self, source: Source, size: int, hashes: FileHashes) -> bool:
        """As ``_pull``, of a file that does not fill the stage."""
        left, stage = size, self._stage
        try:
            while left:
                got = source.readinto(stage.room(left))
                if not got:
                    return False
                stage.advance(got, hashes)
                left -= got
            return not source.read(1)
        except OSError:
            return False

    def _pull(self, source: Source, size: int, hashes: FileHashes) -> Generator[bytes, None, bool]:
        """Read and hash exactly ``size`` bytes; returns whether that is all."""
        left, stage = size, self._stage
        while left:
            try:
                got = source.readinto(stage.room(left))
            except OSError:
                return False
            if not got:
                return False
            stage.advance(got, hashes)
            left -= got
            if stage.full:
                yield stage.take()
        try:
            return not source.read(1)
        except OSError:
            return False
