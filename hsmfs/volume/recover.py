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
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import os
import stat
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
SHOWN_MAX = 50
UNKNOWN = "?"
PLAIN = ("ino", "mode", "uid", "gid", "mtime_ns", "atime_ns")
NUMBERS = {"file": (*PLAIN, "data_version"), "dir": PLAIN, "symlink": PLAIN, "link": ("ino",)}
"""Fields of each kind of line that must be there."""
PART_PREFIX = b".hsm-recover-"
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
    for key in ("sector", "size", "part", "parts"):
        if int(line.get(key, 0)) < 0:
            raise ValueError(f"found {key} {line[key]}, expected no negative number")
    for key in ("path", "target", "link_of", "disc_path", "sha256"):
        if not isinstance(line.get(key, ""), str):
            raise ValueError(f"found {key} {line[key]!r}, expected text")
        bytes_of(line, key)
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
        if not lines:
            raise Unusable(f"{place}: found no manifest of hsmfs")
        if lines[0]["kind"] != "hsm-manifest":
            self.notes.append("the manifest's first line is damaged: label and site are not known")
            lines.insert(0, {"kind": "hsm-manifest", "label": UNKNOWN})
        self.header = lines[0]
        form = self.header.get("format", 0)
        unknown = {str(one) for one in self.header.get("features") or ()} - FEATURES
        if not isinstance(form, int) or form > FORMAT_MAX or unknown:
            raise Unusable(
                f"{place}: format {form} with features {sorted(unknown)} is newer than this script "
                f"(format {FORMAT_MAX}); use the recover.py of a newer disc"
            )
        self.label = str(self.header.get("label"))
        created_ns = self.header.get("created_ns")
        self.created_ns = created_ns if isinstance(created_ns, int) else 0
        self.lines = [line for line in lines[1:] if line["kind"] != "end"]
        if lines[-1]["kind"] != "end" or len(self.lines) != self.header.get("entries"):
            self.notes.append(
                f"manifest: found {len(self.lines)} lines, "
                f"expected {self.header.get('entries')} and a closing one"
            )

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
            raise Unusable(f"{self.place}: found no manifest of hsmfs in {self.size} bytes")
        rest = b""
        for piece in self._pieces(start, self.size - start):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line
                if line.startswith(LAST):
                    return
            if len(rest) > LINE_MAX or rest.startswith(b"\0"):
                return

    def _find_manifest(self) -> int | None:
        """From the end: it is the last of the files, and what follows is small."""
        stop = self.size - self.size % SECTOR
        while stop > 0:
            start = max(0, stop - STEP)
            try:
                data = self._read(start, stop - start)
            except OSError:
                data = b"".join(self._sector(at) for at in range(start, stop, SECTOR))
            for at in reversed(range(0, len(data), SECTOR)):
                if data.startswith(FIRST, at):
                    return start + at
            stop = start
        return None

    def _sector(self, at: int) -> bytes:
        try:
            return self._read(at, SECTOR).ljust(SECTOR, b"\0")
        except OSError:
            return bytes(SECTOR)

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
        path = str(line.get("disc_path", line.get("path", "")))
        with open(os.path.join(self.place, path), "rb") as file:
            while piece := file.read(STEP):
                yield piece

    def proved(self, line: Line, out: BinaryIO | None = None) -> bytes:
        """The bytes, written to ``out`` or returned; OSError where they are not those burned."""
        digest, kept = hashlib.sha256(), []
        for piece in self.data(line):
            digest.update(piece)
            if out is None:
                kept.append(piece)
            else:
                out.write(piece)
        if digest.hexdigest() != line["sha256"]:
            raise OSError(f"SHA-256 is {digest.hexdigest()}, expected {line['sha256']}")
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
        self.bytes = 0
        for source in self.sources:
            for line in source.lines:
                self._take(source, line)
        self._miss_other_volumes()

    def _take(self, source: Source, line: Line) -> None:
        if line["kind"] == "own":
            return
        path = bytes_of(line, "path")
        if not plain(path):
            source.notes.append(f"left out: {text_of(path)} is not a plain relative path")
            return
        if line["kind"] == "file" and not line.get("void"):
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
                else:
                    self._restore_file(path, target, line)
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

    def _restore_file(self, path: bytes, target: bytes, line: Line) -> None:
        if os.path.lexists(target):
            raise OSError("exists already and was left as it is")
        if line.get("void"):
            raise OSError("could not be read when the disc was written")
        fd, part = tempfile.mkstemp(prefix=PART_PREFIX, dir=os.path.dirname(target))
        try:
            with open(fd, "wb") as out:
                for place in self._parts(line):
                    self._write(place, out)
                self.bytes += out.tell()
            dress(part, line)
            os.rename(part, target)
        except BaseException:
            if os.path.lexists(part):
                os.unlink(part)
            raise

    def _parts(self, line: Line) -> list[list[Place]]:
        """The file's parts in order, each with all its places."""
        places = self.copies.get((int(line["ino"]), int(line["data_version"])), [])
        by_part: dict[int, list[Place]] = {}
        for place in places:
            by_part.setdefault(int(place[1].get("part", 0)), []).append(place)
        if not line.get("part"):
            return [by_part.get(0, [])]
        numbers = range(1, int(line["parts"]) + 1)
        lost = [number for number in numbers if number not in by_part]
        if lost:
            raise OSError(", ".join(self._where(line, number) for number in lost))
        return [by_part[number] for number in numbers]

    def _where(self, line: Line, number: int) -> str:
        label = self.elsewhere.get(part_key(line, number))
        where = f"volume {label}, which was not given" if label else "none of the discs given"
        return f"part {number} of {line['parts']} is on {where}"

    def _write(self, places: list[Place], out: BinaryIO) -> None:
        start, why = out.tell(), "is on none of the discs given"
        for source, line in places:
            try:
                source.proved(line, out)
                return
            except OSError as error:
                why = f"volume {source.label}: {reason(error)}"
                out.seek(start)
                out.truncate()
        raise OSError(why)


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
