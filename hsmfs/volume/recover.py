#!/usr/bin/env python3
"""Restore files from discs that hsmfs wrote, with Python's (3.9 or newer) standard library alone.

    python3 recover.py --into DIRECTORY SOURCE...
    python3 recover.py --list SOURCE...

A source is a disc drive (/dev/sr0), an image file, or the directory where a
disc is mounted; several are given in any order. Without one, the disc that
this script lies on is taken. Each file is proved by its SHA-256 before it gets
its name; a damaged one is taken from another source that has the same bytes.
Nothing that exists is written over. What could not be restored is told at the
end, with the label of the disc that is needed; the exit status is then 3.

The discs' UDF file system is not needed: the manifest (docs/disc-format.md) is
found by its first bytes, from the end of the disc, and says where files lie.
Where lines of it are damaged, a later disc's repetition of it is taken, else the
file is found by the UDF tree: it is restored, and named as unproved. A file that is in
parts on several discs is proved as a whole too, where the discs tell its SHA-256.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import calendar
import gzip
import hashlib
import json
import os
import re
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

SECTOR = 2048
STEP = 512 * SECTOR
FIRST = b'{"kind":"hsm-manifest"'
LAST = b'{"kind":"end"'
FORMAT_MAX = 2
FEATURES = {"parts"}
LINE_MAX = 64 << 20
MANIFEST = ".hsm/manifest.jsonl"
PREVIOUS = ".hsm/manifests/"
OWN = b".hsm/"
PARTITION, TAIL, CLUSTER = 288, 512, 32
"""Sectors: where the partition starts, what is behind it, and how much a drive reads at once."""
FILE_SET = b"\0\1\3\0"
"""How the metadata mirror begins, which follows the manifest."""
ENTRY_TAGS, NAME_TAG = (261, 266), 257
DIRECTORY = 4
TREE_NAMES_MAX = 10_000_000
SHOWN_MAX = 50
UNKNOWN = "?"
PLAIN = ("ino", "mode", "uid", "gid", "mtime_ns", "atime_ns")
NUMBERS = {"file": (*PLAIN, "data_version"), "dir": PLAIN, "symlink": PLAIN, "link": ("ino",)}
"""Fields of each kind of line that must be there."""
PART_PREFIX = b".hsm-recover-"
PART_NAME = re.compile(rb"(.+)\.part([0-9]{4,})\Z", re.DOTALL)
"""What a part of a file is called on a disc."""
Line = dict[str, Any]
Key = tuple[int, int]


class Unusable(Exception):
    """A source that holds no volume; the text says why."""


def text_of(path: bytes) -> str:
    """For people: bytes that are no text are shown as escapes."""
    return path.decode("utf-8", "backslashreplace")


def bytes_of(line: Line, key: str) -> bytes:
    """A field that is text, or base64 where it is not UTF-8."""
    coded = line.get(key + "_b64")
    return base64.b64decode(coded) if coded is not None else str(line.get(key, "")).encode()


def check(line: Line) -> None:
    """ValueError where a field is missing or is not what it should be."""
    kind = line["kind"]
    numbers = NUMBERS.get(kind, ()) + (("sector", "size") if kind in ("file", "own") else ())
    for key in numbers:
        value = line.get(key)
        if not isinstance(value, int) or abs(value) >= 1 << 63:
            raise ValueError(f"found {key} {value!r}, expected a number")
    for key in ("sector", "size", "part", "parts", "part_start", "total_size"):
        if int(line.get(key, 0)) < 0:
            raise ValueError(f"found {key} {line[key]}, expected no negative number")
    for key in ("path", "target", "link_of", "disc_path", "sha256", "total_sha256"):
        if not isinstance(line.get(key, ""), str):
            raise ValueError(f"found {key} {line[key]!r}, expected text")
        bytes_of(line, key)
    if kind in NUMBERS and kind != "dir" and not bytes_of(line, "path"):
        raise ValueError("found no path")
    if kind in ("file", "own") and not line.get("sha256"):
        raise ValueError("found no sha256")
    xattrs = line.get("xattrs", {})
    if not isinstance(xattrs, dict) or not all(isinstance(v, str) for v in xattrs.values()):
        raise ValueError("found other xattrs than names with base64 values")


def parsed(raw: Iterable[bytes], say: Any) -> Iterator[Line]:
    """The lines that can be read; of the others it is told."""
    for number, data in enumerate(raw, 1):
        try:
            line = json.loads(data)
            if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
                raise ValueError("expected an object with a kind")
            check(line)
        except (ValueError, TypeError, RecursionError) as error:
            say(f"manifest line {number} is damaged and left out: {error}")
            continue
        yield line


class Source:
    """One disc: its header, its manifest, and bytes of its files."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.notes: list[str] = []
        self.file: BinaryIO | None = None
        self.mounted = os.path.isdir(place)
        try:
            self._load()
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        place = self.place
        raw = self._mounted_lines() if self.mounted else self._image_lines()
        lines = list(parsed(raw, self.notes.append))
        if not lines or lines[0]["kind"] != "hsm-manifest":
            self.notes.append("the manifest's first line is damaged: site and pool are not known")
            lines.insert(0, {"kind": "hsm-manifest"})
        self.header = lines[0]
        form = self.header.get("format", 0)
        unknown = {str(one) for one in self.header.get("features") or ()} - FEATURES
        if not isinstance(form, int) or form > FORMAT_MAX or unknown:
            raise Unusable(
                f"{place}: format {form} with features {sorted(unknown)} is newer than this script "
                f"(format {FORMAT_MAX}); use the recover.py of a newer disc"
            )
        created_ns = self.header.get("created_ns")
        self.created_ns = created_ns if isinstance(created_ns, int) else 0
        self.lines = [line for line in lines[1:] if line["kind"] != "end"]
        if lines[-1]["kind"] != "end" or len(self.lines) != self.header.get("entries"):
            self.notes.append(
                f"manifest: found {len(self.lines)} lines, "
                f"expected {self.header.get('entries')} and a closing one"
            )
        self.damaged = bool(self.notes)
        self.unlisted: list[Line] = []
        """Of a damaged manifest: what only the UDF tree tells of."""
        label = self._use_tree() if self.damaged else ""
        if not self.lines and not self.unlisted:
            raise Unusable(f"{place}: found no manifest of hsmfs and no tree of its UDF")
        self.label = str(self.header.get("label") or label or UNKNOWN)

    def _use_tree(self) -> str:
        """What the tree has besides the lines that are whole; the volume's label."""
        names = mounted_names(self.place) if self.mounted else Tree(self._read, self.size).names()
        listed = {disc_path(line): line for line in self.lines}
        first: dict[Any, bytes] = {}
        for path, identity, line in names:
            known = listed.get(path)
            if known is not None:
                if known["kind"] == "file":
                    first.setdefault(identity, bytes_of(known, "path"))
            elif not path.startswith(OWN) and path != OWN[:-1]:
                if line["kind"] == "file" and identity in first:
                    line = {"kind": "link", "ino": 0, **coded("link_of", first[identity])}
                first.setdefault(identity, path)
                self.unlisted.append({**line, **coded("path", path), "unproved": True})
        return "" if self.mounted else Tree(self._read, self.size).label

    def close(self) -> None:
        """No more is read from it."""
        if self.file is not None:
            self.file.close()

    def _mounted_lines(self) -> Iterator[bytes]:
        try:
            with open(os.path.join(self.place, MANIFEST), "rb") as file:
                yield from bounded_lines(file)
        except OSError as error:
            raise Unusable(f"{self.place}: {error}") from error

    def _image_lines(self) -> Iterator[bytes]:
        try:
            self.file = open(self.place, "rb", buffering=0)  # noqa: SIM115
            self.size = self.file.seek(0, os.SEEK_END)
        except OSError as error:
            raise Unusable(f"{self.place}: {error}") from error
        start = self._find_manifest()
        if start is None:
            start = Tree(self._read, self.size).place_of(MANIFEST.encode())
        if start is None:
            self.notes.append(f"found no manifest of hsmfs in {self.size} bytes")
            return
        rest = b""
        for at in range(start, self.size, CLUSTER * SECTOR):
            piece, is_end = self._until_mirror(self._around_damage(at, CLUSTER * SECTOR))
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                line = line.lstrip(b"\0")
                if line:
                    yield line
                if line.startswith(LAST):
                    return
            rest = rest.lstrip(b"\0")
            if is_end or len(rest) > LINE_MAX:
                return

    @staticmethod
    def _until_mirror(data: bytes) -> tuple[bytes, bool]:
        for at in range(0, len(data), SECTOR):
            if data.startswith(FILE_SET, at):
                return data[:at], True
        return data, False

    def _find_manifest(self) -> int | None:
        """From the end: it is the last of the files, and what follows is small."""
        stop = self.size - self.size % SECTOR
        while stop > 0:
            start = max(0, stop - STEP)
            data = self._around_damage(start, stop - start)
            for at in reversed(range(0, len(data), SECTOR)):
                if data.startswith(FIRST, at):
                    return start + at
            stop = start
        return None

    def _around_damage(self, at: int, size: int) -> bytes:
        """What can be read, by clusters and then by sectors; zeros for the rest."""
        try:
            return self._read(at, size).ljust(min(size, self.size - at), b"\0")
        except OSError:
            if size <= SECTOR:
                return bytes(size)
        step = CLUSTER * SECTOR if size > CLUSTER * SECTOR else SECTOR
        places = range(at, at + size, step)
        return b"".join(self._around_damage(one, min(step, at + size - one)) for one in places)

    def _read(self, at: int, size: int) -> bytes:
        assert self.file is not None
        self.file.seek(at)
        parts = []
        while size and (part := self.file.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _pieces(self, at: int, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self._read(at, min(STEP, size))
            if not piece:
                raise OSError(f"the disc ends at byte {at}")
            yield piece
            at, size = at + len(piece), size - len(piece)

    def data(self, line: Line) -> Iterator[bytes]:
        """The bytes of a file; OSError where they cannot be read."""
        if not self.mounted:
            yield from self._pieces(int(line["sector"]) * SECTOR, int(line["size"]))
            return
        with open(os.path.join(os.fsencode(self.place), disc_path(line)), "rb") as file:
            while piece := file.read(STEP):
                yield piece

    def proved(self, line: Line, out: BinaryIO | None = None, whole: Any = None) -> bytes:
        """The bytes, written to ``out`` or returned; OSError where they are not those burned.

        Nothing proves what only the tree tells of. ``whole`` is a hash that gets them too.
        """
        digest, kept = hashlib.sha256(), []
        for piece in self.data(line):
            digest.update(piece)
            if whole is not None:
                whole.update(piece)
            if out is None:
                kept.append(piece)
            else:
                out.write(piece)
        if digest.hexdigest() != line.get("sha256") and not line.get("unproved"):
            raise OSError(f"SHA-256 is {digest.hexdigest()}, expected {line.get('sha256')}")
        return b"".join(kept)

    def previous(self) -> Iterator[tuple[str, list[Line]]]:
        """Label and lines of the earlier volumes whose manifests are on this one."""
        for line in self.lines:
            if line["kind"] == "own" and str(line.get("path")).startswith(PREVIOUS):
                try:
                    raw = gzip.decompress(self.proved(line)).splitlines()
                    lines = list(parsed(raw, self.notes.append))
                    yield str(lines[0]["label"]), [one for one in lines[1:] if one["kind"] != "end"]
                except (OSError, EOFError, IndexError, KeyError) as error:
                    self.notes.append(f"{line.get('path')}: {error}")


def coded(key: str, value: bytes) -> Line:
    """A field as the manifest has it."""
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {key + "_b64": base64.b64encode(value).decode()}


def disc_path(line: Line) -> bytes:
    """Where a file lies on the disc."""
    found = line.get("disc_path")
    return bytes_of(line, "path") if found is None else str(found).encode()


Found = Iterator[tuple[bytes, Any, Line]]
"""Path on the disc, what is the same for hard links, and a line without its path."""


def mounted_names(place: str) -> Found:
    """What is in a mounted disc."""
    top = os.fsencode(place)
    for folder, directories, files in os.walk(top):
        for name in (*directories, *files):
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            is_directory = stat.S_ISDIR(facts.st_mode)
            line: Line = {"kind": "dir"}
            if not is_directory:
                line.update(kind="file", size=facts.st_size)
            line.update(ino=0, data_version=0, mode=facts.st_mode, uid=facts.st_uid)
            line.update(gid=facts.st_gid, mtime_ns=facts.st_mtime_ns, atime_ns=facts.st_atime_ns)
            yield os.path.relpath(path, top), facts.st_ino, line


def time_of(field: bytes) -> int:
    """A UDF time in nanoseconds; 0 where it is none."""
    *when, hundreds, micros, rest = struct.unpack("<hBBBBBBBB", field[2:12])[:9]
    try:
        seconds = int(calendar.timegm((*when, 0, 0, 0)))
    except (ValueError, OverflowError):
        return 0
    return seconds * 1_000_000_000 + int(hundreds * 10_000 + micros * 100 + rest) * 1000


def text_of_cs0(data: bytes) -> str:
    """A name of UDF."""
    return data[1:].decode("latin-1" if data[:1] == b"\x08" else "utf-16-be", "replace")


class Tree:
    """The UDF tree of an image, from the fixed places of our discs; ECMA-167 part 4.

    Metadata is there twice (but in UDF 2.01): each descriptor is taken from the copy whose
    CRC is right.
    """

    def __init__(self, read: Any, size: int) -> None:
        self._read = read
        self.copies: list[list[tuple[int, int]]] = []
        """Runs of each copy of the metadata: first sector and sectors."""
        for block in (0, size // SECTOR - TAIL - CLUSTER - PARTITION):
            data = self._sector(PARTITION + block) if block >= 0 else b""
            if self._is_whole(data, block, ENTRY_TAGS):
                runs = [(PARTITION + at, length // SECTOR) for length, at in self._extents(data)]
                self.copies.append(runs)
        self.file_set = 0
        if not self.copies:  # UDF 2.01: once only, in the partition itself
            self.file_set = CLUSTER
            self.copies.append([(PARTITION, max(0, size // SECTOR - PARTITION))])
        label = next(self._blocks(self.file_set, (256,)), bytes(240))
        self.label = text_of_cs0(label[112 : 112 + label[239]])

    def _sector(self, sector: int) -> bytes:
        try:
            data: bytes = self._read(sector * SECTOR, SECTOR)
        except OSError:
            return b""
        return data if len(data) == SECTOR else b""

    @staticmethod
    def _is_whole(data: bytes, block: int, idents: tuple[int, ...]) -> bool:
        if len(data) < 16:
            return False
        ident, crc, size, location = struct.unpack("<H6xHHI", data[:16])
        whole = ident in idents and location == block and 16 + size <= len(data)
        return whole and binascii.crc_hqx(data[16 : 16 + size], 0) == crc

    def _copied(self, copy: list[tuple[int, int]], block: int) -> bytes:
        for start, sectors in copy:
            if block < sectors:
                return self._sector(start + block)
            block -= sectors
        return b""

    def _blocks(self, block: int, idents: tuple[int, ...]) -> Iterator[bytes]:
        for copy in self.copies:
            data = self._copied(copy, block)
            if self._is_whole(data, block, idents):
                yield data

    @staticmethod
    def _extents(entry: bytes) -> list[tuple[int, int]]:
        """Bytes and block of each."""
        start = 176 if entry[0] == ENTRY_TAGS[0] & 0xFF else 216
        before, size = struct.unpack_from("<II", entry, start - 8)
        step = 16 if entry[34] & 7 else 8
        places = range(start + before, min(start + before + size, SECTOR - 7), step)
        found = (struct.unpack_from("<II", entry, at) for at in places)
        return [(length, block) for length, block in found if 0 < length < 1 << 30]

    def place_of(self, wanted: bytes) -> int | None:
        """Where a file begins, in bytes; None where it is not found."""
        for path, _, line in self.names():
            if path == wanted and line["kind"] == "file":
                return int(line["sector"]) * SECTOR
        return None

    def names(self) -> Found:
        """All files and directories; those that damage hides are not among them."""
        file_set = next(self._blocks(self.file_set, (256,)), None)
        stack = [(b"", struct.unpack_from("<I", file_set, 404)[0])] if file_set else []
        seen, left = set(), TREE_NAMES_MAX
        while stack:
            above, block = stack.pop()
            entry = next(self._blocks(block, ENTRY_TAGS), None)
            if entry is None or block in seen:
                continue
            seen.add(block)
            for name, child in sorted(self._children(entry).items()):
                found, left = next(self._blocks(child, ENTRY_TAGS), None), left - 1
                if found is None or left < 0:
                    continue
                path = above + name.encode("utf-8", "replace")
                yield path, child, self._line(found)
                if found[27] == DIRECTORY:
                    stack.append((path + b"/", child))

    def _children(self, entry: bytes) -> dict[str, int]:
        """Names and blocks of a directory: what either copy has whole."""
        found: dict[str, int] = {}
        for size, first in self._extents(entry)[:1] if entry[27] == DIRECTORY else ():
            for copy in self.copies:
                blocks = range(first, first + min(-(-size // SECTOR), sum(n for _, n in copy)))
                data = b"".join(self._copied(copy, one).ljust(SECTOR, b"\0") for one in blocks)
                self._parse(data[:size], first, found)
        return found

    def _parse(self, data: bytes, first: int, found: dict[str, int]) -> None:
        at = 0
        while at + 38 <= len(data):
            size = (38 + data[at + 19] + int.from_bytes(data[at + 36 : at + 38], "little") + 3) & ~3
            block = first + at // SECTOR
            if data[at : at + 2] != b"\1\1" or not self._is_whole(
                data[at : at + size], block, (NAME_TAG,)
            ):
                at += 4
                continue
            end = at + size
            start = at + 38 + int.from_bytes(data[at + 36 : at + 38], "little")
            name = text_of_cs0(data[start : start + data[at + 19]])
            if (
                not data[at + 18] & 12
                and plain(name.encode("utf-8", "replace"))
                and "/" not in name
            ):
                found.setdefault(name, int.from_bytes(data[at + 24 : at + 28], "little"))
            at = end

    def _line(self, entry: bytes) -> Line:
        uid, gid, rights = struct.unpack_from("<III", entry, 36)
        flags = int.from_bytes(entry[34:36], "little")
        mode = (rights & 7) | (rights >> 5 & 7) << 3 | (rights >> 10 & 7) << 6
        mode |= (flags >> 6 & 1) << 11 | (flags >> 7 & 1) << 10 | (flags >> 8 & 1) << 9
        times = 72 if entry[0] == ENTRY_TAGS[0] & 0xFF else 80
        line: Line = {"kind": "dir", "ino": 0, "data_version": 0, "mode": mode, "uid": uid}
        line.update(gid=gid, atime_ns=time_of(entry[times : times + 12]))
        line.update(mtime_ns=time_of(entry[times + 12 : times + 24]))
        if entry[27] != DIRECTORY:
            block = next((block for _, block in self._extents(entry)), 0)
            size = int.from_bytes(entry[56:64], "little")
            line.update(kind="file", sector=PARTITION + block, size=size)
        return line


def bounded_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines up to the closing one, none longer than the bound."""
    while line := file.readline(LINE_MAX):
        yield line.rstrip(b"\n")
        if line.startswith(LAST):
            return


Place = tuple[Source, Line]


class Recovery:
    """What all sources together hold, newest volume first."""

    def __init__(self, sources: list[Source]) -> None:
        self.sources = sorted(sources, key=lambda one: (one.created_ns, one.label), reverse=True)
        self.entries: dict[bytes, Place] = {}
        self.copies: dict[Key, list[Place]] = {}
        self.missing: dict[bytes, str] = {}
        """Paths that could not be restored, and why."""
        self.elsewhere: dict[tuple[int, int, int], str] = {}
        """Volumes of parts that nobody gave us, by inode, version and part."""
        self.restored: set[bytes] = set()
        self.unproved: set[bytes] = set()
        """Those of them that only a UDF tree told of."""
        self.bytes = 0
        repeated = self._repeated()
        self.in_parts = self._files_in_parts()
        """By what their parts are called on discs, without the number; and by inode."""
        for label in dict.fromkeys(source.label for source in self.sources):
            copies = [source for source in self.sources if source.label == label]
            for source in copies:
                for line in source.lines:
                    self._take(source, line)
            for source in copies:
                for line in repeated.get(label, ()) if source.damaged else ():
                    self._take(source, line)
                for line in source.unlisted:
                    self._take_unlisted(source, line)
        self._miss_other_volumes()

    def _repeated(self) -> dict[str, list[Line]]:
        """Of the volumes whose manifest is damaged: what a later one repeats of it."""
        wanted = {source.label for source in self.sources if source.damaged}
        found: dict[str, list[Line]] = {}
        for source in self.sources if wanted else ():
            for label, lines in source.previous():
                if label in wanted:
                    found.setdefault(label, lines)
        return found

    def _files_in_parts(self) -> dict[Any, Line]:
        found: dict[Any, Line] = {}
        links = []
        for source in self.sources:
            for line in source.lines:
                name = PART_NAME.match(disc_path(line)) if line.get("part") else None
                if name and line["kind"] == "file":
                    found.setdefault(name[1], line)
                    found.setdefault(line["ino"], line)
                elif name:
                    links.append((name[1], line["ino"]))
        for path, ino in links:
            if ino in found:
                found.setdefault(path, found[ino])
        return found

    def _take_unlisted(self, source: Source, line: Line) -> None:
        """What only the tree tells of; a part of a file that another disc tells of is known
        by its name, its place in the list of volumes and its size."""
        name = PART_NAME.match(bytes_of(line, "path"))
        whole = self.in_parts.get(name[1]) if name else None
        if not name or whole is None:
            self._take(source, line)
            return
        if line["kind"] != "file":
            return  # a further name of the same part: the other disc tells of it too
        number, size, total = int(name[2]), part_bytes(whole), int(whole["total_size"])
        start = (number - 1) * size
        label = dict(enumerate(whole.get("part_volumes") or (), 1)).get(number)
        is_here = UNKNOWN in (source.label, label or UNKNOWN) or source.label == label
        if is_here and int(line["size"]) == min(size, total - start):
            facts = {"part": number, "part_start": start, "sha256": "", "void": False}
            place: Line = {key: line[key] for key in ("sector", "size", "unproved") if key in line}
            line = {**whole, **facts, **place, **coded("disc_path", bytes_of(line, "path"))}
        self._take(source, line)

    def _take(self, source: Source, line: Line) -> None:
        if line["kind"] == "own":
            return
        path = bytes_of(line, "path")
        if not plain(path):
            source.notes.append(f"left out: {text_of(path)} is not a plain relative path")
            return
        is_place = line.get("part") or not line.get("unproved")
        if line["kind"] == "file" and not line.get("void") and is_place:
            key = (int(line["ino"]), int(line["data_version"]))
            self.copies.setdefault(key, []).append((source, line))
        self.entries.setdefault(path, (source, line))

    def _miss_other_volumes(self) -> None:
        """Files that earlier volumes hold which nobody gave us."""
        here = {source.label for source in self.sources}
        for source in self.sources:
            for label, lines in source.previous():
                if label in here:
                    continue
                for line in lines:
                    path = bytes_of(line, "path")
                    if line["kind"] == "file" and line.get("part"):
                        self.elsewhere[part_key(line, int(line["part"]))] = label
                    if line["kind"] in ("file", "link") and path not in self.entries:
                        self.missing[path] = f"is on volume {label}, which was not given"

    def restore(self, into: bytes, only: list[bytes]) -> None:
        """All entries (or those below some paths) into a directory."""
        wanted = [path for path in sorted(self.entries) if chosen(path, only)]
        self.missing = {path: why for path, why in self.missing.items() if chosen(path, only)}
        later = []
        for path in wanted:
            line = self.entries[path][1]
            target = os.path.join(into, path)
            try:
                os.makedirs(os.path.dirname(target) if path else into, exist_ok=True)
                if line["kind"] == "dir":
                    os.makedirs(target, exist_ok=True)
                    later.append((target, line))
                elif line["kind"] in ("link", "symlink"):
                    later.append((target, line))
                elif not self._restore_file(path, target, line):
                    self.unproved.add(path)
                self.restored.add(path)
            except (OSError, KeyError, ValueError, OverflowError) as error:
                self.missing[path] = reason(error)
        self._finish(into, later)

    def _finish(self, into: bytes, later: list[tuple[bytes, Line]]) -> None:
        """Links after all files, so that none is followed; directories last, from the deepest."""
        for target, line in sorted(later, key=lambda one: one[1]["kind"], reverse=True):
            path = bytes_of(line, "path")
            try:
                if line["kind"] == "symlink":
                    os.symlink(bytes_of(line, "target"), target)
                    dress(target, line)
                elif line["kind"] == "link":
                    first = bytes_of(line, "link_of")
                    if first not in self.restored:
                        raise OSError(f"its first name {text_of(first)} is not restored")
                    os.link(os.path.join(into, first), target, follow_symlinks=False)
            except (OSError, KeyError, ValueError, OverflowError) as error:
                self.restored.discard(path)
                self.missing[path] = reason(error)
        for target, line in reversed(later):
            if line["kind"] == "dir":
                dress(target, line)

    def _restore_file(self, path: bytes, target: bytes, line: Line) -> bool:
        """Whether its bytes are proved."""
        if os.path.lexists(target):
            raise OSError("exists already and was left as it is")
        if line.get("void"):
            raise OSError("could not be read when the disc was written")
        fd, part = tempfile.mkstemp(prefix=PART_PREFIX, dir=os.path.dirname(target))
        try:
            with open(fd, "wb") as out:
                alone = line.get("unproved") and not line.get("part")
                parts = [[self.entries[path]]] if alone else self._parts(line)
                is_proved = self._write_all(parts, out)
                self.bytes += out.tell()
            dress(part, line)
            os.rename(part, target)
        except BaseException:
            if os.path.lexists(part):
                os.unlink(part)
            raise
        return is_proved

    def _write_all(self, parts: list[list[Place]], out: BinaryIO) -> bool:
        """One after the other; whether all of it is proved, by each part's hash or the
        whole's. OSError where it is not what was burned."""
        wholes = {one["total_sha256"] for part in parts for _, one in part if is_hashed(one)}
        if len(wholes) > 1:
            raise OSError("its parts are of different files: they tell of different SHA-256")
        digest, is_proved = hashlib.sha256() if wholes else None, True
        for part in parts:
            line, digest = self._write(part, out, digest)
            is_proved = is_proved and not line.get("unproved")
        if digest is None:
            return is_proved
        if digest.hexdigest() not in wholes:
            raise OSError(f"SHA-256 of the whole is {digest.hexdigest()}, expected {wholes.pop()}")
        return True

    def _parts(self, line: Line) -> list[list[Place]]:
        """The file's parts in order, each with all its places. A version may have been cut
        more than once, in other places: any parts that together have all bytes will do."""
        spans: dict[tuple[int, int], list[Place]] = {}
        for place in self.copies.get((int(line["ino"]), int(line["data_version"])), []):
            span = int(place[1].get("part_start", 0)), int(place[1]["size"])
            if not (is_hashed(line) and is_hashed(place[1])) or (
                line["total_sha256"] == place[1]["total_sha256"]
            ):
                spans.setdefault(span, []).append(place)
        for places in spans.values():
            places.sort(key=lambda one: bool(one[1].get("unproved")))
        if not line.get("part"):
            return [spans.get((0, int(line["size"])), [])]
        after: dict[int, list[list[Place]]] = {int(line["total_size"]): []}
        for start, size in sorted(spans, reverse=True):
            if size and start + size in after:
                after.setdefault(start, [spans[start, size], *after[start + size]])
        if 0 not in after:
            raise OSError(self._lacks(line, spans))
        return after[0]

    def _lacks(self, line: Line, spans: dict[tuple[int, int], list[Place]]) -> str:
        """Which parts of its cut are missing, and where they are."""
        lines = [one for places in spans.values() for _, one in places]
        here = {one.get("part") for one in lines if one.get("parts") == line["parts"]}
        numbers = range(1, int(line["parts"]) + 1)
        return ", ".join(self._where(line, number) for number in numbers if number not in here)

    def _where(self, line: Line, number: int) -> str:
        named = dict(enumerate(line.get("part_volumes") or (), 1)).get(number)
        label = self.elsewhere.get(part_key(line, number)) or named
        where = f"volume {label}, which was not given" if label else "none of the discs given"
        return f"part {number} of {line['parts']} is on {where}"

    def _write(self, places: list[Place], out: BinaryIO, whole: Any) -> tuple[Line, Any]:
        """From the first place that has it; its line, and the hash of all so far."""
        start, why = out.tell(), "is on none of the discs given"
        for source, line in places:
            longer = None if whole is None else whole.copy()
            try:
                source.proved(line, out, longer)
                return line, longer
            except OSError as error:
                why = f"volume {source.label}: {reason(error)}"
                out.seek(start)
                out.truncate()
        raise OSError(why)


def part_bytes(line: Line) -> int:
    """Of each part of a file but the last."""
    number, start = int(line["part"]), int(line["part_start"])
    return start // (number - 1) if number > 1 else int(line["size"])


def is_hashed(line: Line) -> bool:
    """Whether it tells the hash of all parts together."""
    return bool(line.get("total_sha256"))


def part_key(line: Line, number: int) -> tuple[int, int, int]:
    """A part of a file's version."""
    return int(line["ino"]), int(line["data_version"]), number


def reason(error: Exception) -> str:
    """An error without the path, which the reader is shown already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def plain(path: bytes) -> bool:
    """Relative, without components that lead elsewhere."""
    parts = path.split(b"/") if path else []
    return not any(part in (b"", b".", b"..") or b"\0" in part for part in parts)


def chosen(path: bytes, only: list[bytes]) -> bool:
    """Whether it is one of these paths, or below or above one."""
    return not only or any(
        path == one or path.startswith(one + b"/") or one.startswith(path + b"/") for one in only
    )


def dress(target: bytes, line: Line) -> None:
    """Owner, mode, attributes, times, as far as this system and user can."""
    is_link = stat.S_ISLNK(os.lstat(target).st_mode)
    if os.name == "posix" and os.geteuid() == 0:
        os.chown(target, int(line["uid"]), int(line["gid"]), follow_symlinks=False)
    if not is_link:
        os.chmod(target, int(line["mode"]) & 0o7777)
    if hasattr(os, "setxattr"):
        for name, value in line.get("xattrs", {}).items():
            try:
                raw = base64.b64decode(value)
                os.setxattr(target, unquote_to_bytes(name), raw, follow_symlinks=False)
            except OSError:
                pass  # the file system has none, or the user may not
    times = (int(line["atime_ns"]), int(line["mtime_ns"]))
    if os.utime in os.supports_follow_symlinks:
        os.utime(target, ns=times, follow_symlinks=False)
    elif not is_link:
        os.utime(target, ns=times)


def opened(places: list[str]) -> list[Source]:
    """The sources that hold a volume; of the others it is told."""
    sources = []
    for place in places:
        try:
            sources.append(Source(place))
        except (Unusable, OSError) as error:
            print(f"left out: {error}", file=sys.stderr)
    sites = sorted({str(s.header["site"]) for s in sources if "site" in s.header})
    if len(sites) > 1:
        print(
            f"discs of different sites were given: {', '.join(sites)}; recover one site at a time",
            file=sys.stderr,
        )
        return []
    return sources


def show(recovery: Recovery) -> None:
    """What the discs hold, one path a line."""
    for path in sorted(recovery.entries):
        source, line = recovery.entries[path]
        size = line.get("size", "")
        print(f"{source.label:<12} {line['kind']:<7} {size:>14}  {text_of(path)}")


def report(recovery: Recovery) -> int:
    """What happened; 0 where all is there, 3 where something is missing."""
    for source in recovery.sources:
        print(
            f"volume {source.label} of site {source.header.get('site')}, "
            f"pool {source.header.get('pool')}: {len(source.lines)} entries, from {source.place}"
        )
        for note in source.notes:
            print(f"  {note}")
    print(f"restored {len(recovery.restored)} entries, {recovery.bytes} bytes")
    for path in sorted(recovery.unproved)[:SHOWN_MAX]:
        print(
            f"unproved: {text_of(path)}: only the disc's tree tells of it, look whether it is right"
        )
    if len(recovery.unproved) > SHOWN_MAX:
        print(f"unproved: {len(recovery.unproved) - SHOWN_MAX} more")
    for path in sorted(recovery.missing)[:SHOWN_MAX]:
        print(f"missing: {text_of(path)}: {recovery.missing[path]}")
    if len(recovery.missing) > SHOWN_MAX:
        print(f"missing: {len(recovery.missing) - SHOWN_MAX} more")
    return 3 if recovery.missing or any(source.notes for source in recovery.sources) else 0


def main(arguments: list[str] | None = None) -> int:
    """The command; see the top of the file."""
    parser = argparse.ArgumentParser(
        description="Restore files from discs that hsmfs wrote. Exit status: 0 all restored, "
        "1 nothing could be read, 3 something is missing."
    )
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="drive, image or mounted disc")
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--into", metavar="DIRECTORY", help="where to restore")
    choice.add_argument("--list", action="store_true", help="only show what is on the discs")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATH",
        help="only this path of the original tree and what is below it",
    )
    options = parser.parse_args(arguments)
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sources = opened(options.sources or [here])
    if not sources:
        return 1
    try:
        recovery = Recovery(sources)
        if options.list:
            show(recovery)
            return 0
        only = [os.fsencode(path).strip(b"/") for path in options.only]
        recovery.restore(os.fsencode(options.into), only)
        return report(recovery)
    finally:
        for source in sources:
            source.close()


if __name__ == "__main__":
    sys.exit(main())
