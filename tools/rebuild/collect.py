"""Manifests and namespace sets into the scratch store, extents into the new catalog."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Final

import msgspec
import xxhash

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.namespaceset import FORMAT, SetHeader, SetLine
from hsmfs.daemon.ownfiles import MANIFEST_SUFFIX, MANIFESTS_DIRECTORY, NAMESPACE_NAME
from hsmfs.errors import HsmError, MediumError
from hsmfs.tools.rebuild.catalogfile import CatalogFile
from hsmfs.tools.rebuild.images import FoundVolume, opened
from hsmfs.tools.rebuild.recording import NotTaken
from hsmfs.tools.rebuild.scratch import Full, Known, Scratch
from hsmfs.types import FileVersion
from hsmfs.volume.manifestread import ManifestEntry, entries_of, parse_header
from hsmfs.volume.reader import LINE_BYTES_MAX, VolumeReader
from hsmfs.volume.source import FileSource, VolumeHeader

UNPACKED_BYTES_MAX: Final = 64 << 30
"""Of one packed file of a volume's own: a bound against made-up ones."""
PIECE_BYTES: Final = 1 << 20
_decode_header: Final = msgspec.json.Decoder(SetHeader).decode
_decode_line: Final = msgspec.json.Decoder(SetLine).decode


@dataclass(slots=True)
class Collected:
    """What was seen on the way."""

    notes: list[str] = field(default_factory=list)
    """Damage that was met."""
    missing: dict[str, VolumeHeader] = field(default_factory=dict)
    """Volumes that others tell of and nobody gave us."""
    sets: list[SetHeader] = field(default_factory=list)
    highest_ino: int = 0
    void_files: int = 0

    def full(self) -> Full | None:
        """The newest full set."""
        full = [Full(one.until, one.time_ns) for one in self.sets if one.full]
        return max(full, default=None)

    def is_complete(self) -> bool:
        """Whether the sets cover all changes from a full one to the newest."""
        reached = -1
        for one in sorted(self.sets, key=lambda one: (one.until, not one.full)):
            if one.full:
                reached = one.until
            elif reached >= one.since:
                reached = max(reached, one.until)
        return bool(self.sets) and reached == max(one.until for one in self.sets)


class Collector:
    """Reads the volumes given, in any order. A manifest is taken from the first copy that has
    it whole; where none has, from another volume that repeats it; else line by line."""

    def __init__(
        self, scratch: Scratch, catalog: CatalogFile, given: Mapping[str, FoundVolume]
    ) -> None:
        self.scratch = scratch
        self.catalog = catalog
        self.result = Collected()
        self._given = given
        self._wanted: dict[str, FoundVolume] = {}
        """Of the given ones, those whose manifest is still to be found."""

    def run(self) -> None:
        """All of the volumes' manifests and own files."""
        whole = [found for found in self._given.values() if self._is_whole(found)]
        self._wanted = dict(self._given)
        for found in whole:
            del self._wanted[found.label]
        for found in whole:
            self._volume(found, VolumeReader.manifest)
        for found in list(self._wanted.values()):
            self._volume(found, self._around_damage)

    def _is_whole(self, found: FoundVolume) -> bool:
        damaged = []
        for image in found.images:
            try:
                with opened(image) as reader:
                    reader.prove_manifest()
            except (HsmError, OSError) as error:
                damaged.append(image)
                self.result.notes.append(f"{image}: {error}")
        return found.sort_out(damaged)

    def _volume(
        self, found: FoundVolume, entries: Callable[[VolumeReader], Iterator[ManifestEntry]]
    ) -> None:
        with self._damage_noted(f"volume {found.label}"), opened(found.images[0]) as reader:
            self._entries(found.header, entries(reader), found)

    def _around_damage(self, reader: VolumeReader) -> Iterator[ManifestEntry]:
        bad = 0
        for one in reader.manifest_around_damage():
            if isinstance(one, MediumError):
                bad += 1
            else:
                yield one
        self.result.notes.append(
            f"volume {reader.label}: {bad} pieces of the manifest cannot be understood; files that "
            "only they tell of are not taken in: hsm volume extract copies them by the UDF tree"
        )

    @contextmanager
    def _damage_noted(self, where: str) -> Iterator[None]:
        try:
            yield
        except NotTaken:
            pass  # another disc of a library gave it
        except (HsmError, OSError, EOFError, zlib.error, msgspec.MsgspecError) as error:
            self.result.notes.append(f"{where}: {error}")

    def _entries(
        self,
        header: VolumeHeader,
        entries: Iterable[ManifestEntry],
        found: FoundVolume | None,
    ) -> None:
        """A whole manifest; ``found`` is None where its volume is missing."""
        for entry in entries:
            if entry.source.kind != "own":
                self._entry(header, entry, found is None)
            elif found is not None:
                self._own(found, entry)

    def _entry(self, header: VolumeHeader, entry: ManifestEntry, is_missing: bool) -> None:
        source, result = entry.source, entry.result
        self.result.highest_ino = max(self.result.highest_ino, source.ino)
        if result is not None and result.void:
            self.result.void_files += 1
            return
        kind = "link" if source.link_of is not None else source.kind
        known = Known(
            header.label, kind, source.path, source.data_version, _size(source), source.mode,
            source.uid, source.gid, source.mtime_ns, source.atime_ns, source.ctime_ns,
            source.xattrs, source.target, is_missing,
        )  # fmt: skip
        self.scratch.known(known, source.ino, header.created_ns)
        if result is not None:
            extent = ExtentRecord(
                offset=result.offset_bytes,
                size=result.size,
                xxh3_128=result.xxh3_128,
                sha256=result.sha256,
                chunks=result.chunk_xxh3,
                path=source.key.decode("utf-8", "backslashreplace"),
                start=source.part.start if source.part is not None else 0,
                total=source.part.total if source.part is not None else 0,
            )
            self.catalog.extent(header.label, FileVersion(result.ino, result.data_version), extent)

    # -- the volume's own files ----------------------------------------------------------

    def _own(self, found: FoundVolume, entry: ManifestEntry) -> None:
        path = os.fsdecode(entry.source.path)
        directory, _, name = path.rpartition("/")
        previous = name.removesuffix(MANIFEST_SUFFIX)
        if path == NAMESPACE_NAME:
            self._proved(found, entry, self._set)
        elif directory == MANIFESTS_DIRECTORY and previous != name and self._is_wanted(previous):
            self._proved(found, entry, partial(self._previous, previous))

    def _proved(
        self, found: FoundVolume, entry: ManifestEntry, use: Callable[[Iterator[bytes]], None]
    ) -> None:
        """The lines of an own file, of the first copy that has it whole."""
        path = f"/.hsm/{os.fsdecode(entry.source.path)}"
        for image in found.images:
            with self._damage_noted(f"{image}: {path}"), opened(image) as reader:
                proof = xxhash.xxh3_128()
                for piece in reader.stream_file(path):
                    proof.update(piece)
                if entry.result is None or proof.hexdigest() != entry.result.xxh3_128:
                    raise MediumError("found other bytes than the manifest tells of")
                use(_lines(reader.stream_file(path)))
                return

    def _is_wanted(self, label: str) -> bool:
        if label in self._given:
            return label in self._wanted
        return label not in self.result.missing

    def _previous(self, label: str, lines: Iterator[bytes]) -> None:
        first = next(lines, b"")
        header = parse_header(first, label)[0]
        found = self._wanted.pop(label, None)
        if found is None:
            self.result.missing[label] = header
        self._entries(header, entries_of(chain([first], lines), label), found)

    def _set(self, lines: Iterator[bytes]) -> None:
        header = _decode_header(next(lines, b""))
        if header.format > FORMAT:
            raise MediumError(f"found format {header.format}, expected at most {FORMAT}")
        for raw in lines:
            line = _decode_line(raw)
            self.result.highest_ino = max(self.result.highest_ino, line.ino)
            self.scratch.line(line, header.until, stat.S_ISDIR(line.mode))
        self.result.sets.append(header)


def _size(source: FileSource) -> int:
    """Of the whole file."""
    return source.size if source.part is None else source.part.total


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of a gzip file (RFC 1952), bounded in length and in all."""
    unpacker, rest, left = zlib.decompressobj(wbits=31), b"", UNPACKED_BYTES_MAX
    for piece in pieces:
        while piece:
            data = unpacker.decompress(piece, PIECE_BYTES)
            piece = unpacker.unconsumed_tail
            left -= len(data)
            *lines, rest = (rest + data).split(b"\n")
            yield from lines
            if left < 0 or len(rest) > LINE_BYTES_MAX:
                raise MediumError("found more or longer lines than any volume has")
    if not unpacker.eof or rest:
        raise MediumError("found the end of the file within a line")
