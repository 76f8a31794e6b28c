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
from msgspec.structs import replace

from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.namespaceset import FORMAT, LOG_NAME, SetHeader, SetLine
from hsmfs.daemon.ownfiles import MANIFEST_SUFFIX, MANIFESTS_DIRECTORY, NAMESPACE_NAME
from hsmfs.errors import CallerError, HsmError, MediumError
from hsmfs.namespace.audit import parsed
from hsmfs.tools.rebuild.catalogfile import CatalogFile
from hsmfs.tools.rebuild.images import FoundVolume, opened
from hsmfs.tools.rebuild.namespacefile import INODES_SKIPPED
from hsmfs.tools.rebuild.recording import NotTaken
from hsmfs.tools.rebuild.scratch import Full, Known, Scratch
from hsmfs.tools.rebuild.unlisted import Unlisted, own_files
from hsmfs.tools.rebuild.unlistedparts import PartNames
from hsmfs.types import SECTOR_BYTES, FileVersion
from hsmfs.volume.manifestread import ManifestEntry, entries_of, parse_header
from hsmfs.volume.reader import LINE_BYTES_MAX
from hsmfs.volume.source import FileSource, Part, VolumeHeader

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
    part_volumes: dict[FileVersion, list[str]] = field(default_factory=dict)
    """Volumes of each file that is in parts."""
    part_names: PartNames = field(default_factory=PartNames)
    highest_ino: int = 0
    void_files: int = 0
    unproved: dict[tuple[str, FileVersion], str] = field(default_factory=dict)
    """Files that only the UDF tree of a volume told of: label, version, path on the disc."""

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
    it whole; where none has, from another volume that repeats it; else line by line, and what
    no line tells of by the UDF tree."""

    def __init__(
        self, scratch: Scratch, catalog: CatalogFile, given: Mapping[str, FoundVolume]
    ) -> None:
        self.scratch = scratch
        self.catalog = catalog
        self.result = Collected()
        self._given = given
        self._told: dict[str, VolumeHeader] = {}
        """Volumes that were not given and that parts of files name."""
        self._wanted: dict[str, FoundVolume] = {}
        """Of the given ones, those whose manifest is still to be found."""

    def run(self) -> None:
        """All of the volumes' manifests and own files. CallerError where two copies of one
        volume are whole and differ."""
        whole = [found for found in self._given.values() if self._is_whole(found)]
        self._wanted = dict(self._given)
        for found in whole:
            del self._wanted[found.label]
        for found in whole:
            with self._damage_noted(f"volume {found.label}"), opened(found.images[0]) as reader:
                self._entries(found.header, reader.manifest(), found)
        damaged = []
        for found in list(self._wanted.values()):
            if found.label in self._wanted:
                with self._damage_noted(f"volume {found.label}"):
                    damaged.append((found, self._around_damage(found)))
        self._by_tree([(found, listed) for found, listed in damaged if found.label in self._wanted])
        for label, header in self._told.items():
            self.result.missing.setdefault(label, header)

    def _is_whole(self, found: FoundVolume) -> bool:
        damaged, proofs = [], {}
        for image in found.images:
            try:
                with opened(image) as reader:
                    proofs[reader.prove_manifest()] = image
            except (HsmError, OSError) as error:
                damaged.append(image)
                self.result.notes.append(f"{image}: {error}")
        if len(proofs) > 1:
            one, other, *_ = proofs.values()
            raise CallerError(
                f"{one} and {other}: found two different manifests of volume {found.label}, both "
                "whole, expected copies of one; give one of them only (see hsm volume dump)"
            )
        return found.sort_out(damaged)

    def _around_damage(self, found: FoundVolume) -> set[str]:
        """What the lines of all copies tell that can be understood; paths on the disc."""
        seen: set[tuple[str, bytes]] = set()
        listed: set[str] = set()
        bad = 0
        for image in found.images:
            with self._damage_noted(str(image)), opened(image) as reader:
                for one in reader.manifest_around_damage():
                    if isinstance(one, MediumError):
                        bad += 1
                    elif (one.source.kind, one.source.path) not in seen:
                        seen.add((one.source.kind, one.source.path))
                        listed.add(one.disc_path)
                        self._entries(found.header, [one], found)
        with self._damage_noted(f"volume {found.label}: own files"):
            for source in own_files(found, listed):
                self._own(found, ManifestEntry(source, None, ""))
        self.result.notes.append(
            f"volume {found.label}: {bad} pieces of the manifest cannot be understood; what only "
            "they told of is looked for in the UDF tree"
        )
        return listed

    def _by_tree(self, damaged: list[tuple[FoundVolume, set[str]]]) -> None:
        if not damaged:
            return
        self.scratch.flush()
        taken = Unlisted(
            self.scratch,
            self.catalog,
            self._damage_noted,
            self.result.highest_ino,
            self.result.is_complete(),
            self.result.unproved,
            self.result.part_names,
        )
        for found, listed in damaged:
            before = len(taken.unproved), taken.unknown
            with self._damage_noted(f"volume {found.label}: UDF tree"):
                taken.take(found, listed, self._until(found.header))
            self._tell(found, len(taken.unproved) - before[0], taken.unknown - before[1])
            self.scratch.flush()
        if taken.new:
            self.result.highest_ino = taken.highest_ino + INODES_SKIPPED + taken.new

    def _until(self, header: VolumeHeader) -> int:
        """How far the sets reach that are not newer than a volume; a time may be cut to
        microseconds."""
        last_ns = header.created_ns + 999
        return max((one.until for one in self.result.sets if one.time_ns <= last_ns), default=-1)

    def _tell(self, found: FoundVolume, taken: int, unknown: int) -> None:
        if taken:
            found.note = f"{taken} files were taken in by the UDF tree: no manifest proves them"
            self.result.notes.append(f"volume {found.label}: {found.note}")
        if unknown:
            self.result.notes.append(
                f"volume {found.label}: {unknown} files of the UDF tree are no file's newest "
                "version and were left out: hsm volume extract copies them"
            )
        if found.is_guessed:
            self.result.notes.append(
                f"volume {found.label}: the manifest's first line is damaged: taken are pool "
                f"{found.header.pool!r} and {found.header.copies} copies"
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
        if source.part is not None:
            self.result.part_names.note(entry.disc_path, source)
        if source.part is not None and source.part.volumes:
            self._parts(header, FileVersion(source.ino, source.data_version), source.part)
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

    def _parts(self, header: VolumeHeader, file: FileVersion, part: Part) -> None:
        """A part names the volumes of all."""
        self.result.part_volumes[file] = part.volumes
        for label in part.volumes:
            if label not in self._given:
                self._told[label] = replace(header, label=label)

    # -- the volume's own files ----------------------------------------------------------

    def _own(self, found: FoundVolume, entry: ManifestEntry) -> None:
        path = os.fsdecode(entry.source.path)
        directory, _, name = path.rpartition("/")
        previous = name.removesuffix(MANIFEST_SUFFIX)
        if path == NAMESPACE_NAME:
            self._proved(found, entry, self._set)
        elif path == LOG_NAME:
            self._proved(found, entry, self._log)
        elif directory == MANIFESTS_DIRECTORY and self._is_of_use(previous, name, found):
            self._proved(found, entry, partial(self._previous, previous, found))

    def _proved(
        self, found: FoundVolume, entry: ManifestEntry, use: Callable[[Iterator[bytes]], None]
    ) -> None:
        """The lines of an own file, of the first copy that has it whole."""
        path = f"/.hsm/{os.fsdecode(entry.source.path)}"
        for image in found.images:
            with self._damage_noted(f"{image}: {path}"), opened(image) as reader:
                if entry.result is None:
                    for _ in _lines(reader.stream_file(path)):
                        pass  # gzip's own CRC is at its end
                    use(_lines(reader.stream_file(path)))
                    return
                place = entry.result.offset_bytes // SECTOR_BYTES, entry.result.size
                proof = xxhash.xxh3_128()
                for piece in reader.extent(*place):
                    proof.update(piece)
                if proof.hexdigest() != entry.result.xxh3_128:
                    raise MediumError("found other bytes than the manifest tells of")
                use(_lines(reader.extent(*place)))
                return

    def _is_of_use(self, label: str, name: str, by: FoundVolume) -> bool:
        return label != name and (self._is_wanted(label) or not by.header.pool)

    def _is_wanted(self, label: str) -> bool:
        if label in self._given:
            return label in self._wanted
        return label not in self.result.missing

    def _previous(self, label: str, by: FoundVolume, lines: Iterator[bytes]) -> None:
        """The manifest of an earlier volume of the same pool."""
        first = next(lines, b"")
        header = parse_header(first, label)[0]
        if not by.header.pool:
            known = {"site": header.site, "pool": header.pool, "copies": header.copies}
            by.header = msgspec.structs.replace(by.header, **known)
        if not self._is_wanted(label):
            return
        found = self._wanted.pop(label, None)
        if found is not None and found.is_guessed:
            found.take_header(header)
        if found is None:
            self.result.missing[label] = header
        self._entries(header, entries_of(chain([first], lines), label), found)

    def _log(self, lines: Iterator[bytes]) -> None:
        """Entries of the audit log, as they were."""
        for line in lines:
            number = (parsed(line) or {}).get("n")
            if isinstance(number, int) and 0 < number < 1 << 63:
                self.scratch.log(number, line)

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
