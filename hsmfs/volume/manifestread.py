"""Read a manifest back: entries as they were planned, results as written."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes

import msgspec
import xxhash

from hsmfs.errors import CallerError, MediumError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.manifest import FileResult
from hsmfs.volume.source import (
    FORMAT_VERSION,
    KNOWN_FEATURES,
    OWN_DIRECTORY,
    FileSource,
    Part,
    VolumeHeader,
)

CLOSING_BYTES_MAX: Final = 4096
"""Of the last line."""
ENTRY_KINDS: Final = ("file", "dir", "symlink", "link", "own")


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """One line: what was asked for, and what came of it."""

    source: FileSource
    result: FileResult | None
    """Of files with data of their own."""
    disc_path: str
    """Path on the disc; empty where only the manifest has the entry."""


def _bad(label: str, number: int, why: object) -> NoReturn:
    raise MediumError(f"volume {label}: manifest line {number}: {why}")


def parse_header(line: bytes, label: str) -> tuple[VolumeHeader, int]:
    """Header and number of entries; refuses formats that it does not know."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, Any])
        if fields.get("kind") != "hsm-manifest":
            _bad(label, 1, f"found kind {fields.get('kind')!r}, expected 'hsm-manifest'")
        unknown = set(fields["features"]) - KNOWN_FEATURES
        if fields["format"] > FORMAT_VERSION or unknown:
            raise CallerError(
                f"volume {label}: format {fields['format']} with features {sorted(unknown)} is "
                f"newer than this reader (format {FORMAT_VERSION}); use a newer release"
            )
        return msgspec.convert(fields, VolumeHeader), int(fields["entries"])
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
        _bad(label, 1, error)


class _Line(msgspec.Struct, kw_only=True):
    """A line between the first and the last, or the last; fields that are unknown are left."""

    kind: str
    path: str = ""
    path_b64: str | None = None
    disc_path: str | None = None
    link_of: str = ""
    link_of_b64: str | None = None
    target: str = ""
    target_b64: str | None = None
    ino: int = 0
    data_version: int = 0
    part: int = 0
    parts: int = 0
    part_start: int = 0
    total_size: int = 0
    part_volumes: list[str] = []
    total_sha256: str = ""
    size: int = 0
    mode: int = 0o100644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0
    xattrs: dict[str, str] = {}
    sector: int = -1
    void: bool = False
    xxh3: str = ""
    sha256: str = ""
    chunks: list[str] = []


_decode: Final = msgspec.json.Decoder(_Line).decode


def _bytes(text: str, coded: str | None) -> bytes:
    return text.encode() if coded is None else base64.b64decode(coded, validate=True)


def _part(line: _Line) -> Part | None:
    if not line.part:
        return None
    if line.kind == "file" and not (
        0 < line.part <= line.parts
        and 0 <= line.part_start <= line.part_start + line.size <= line.total_size
    ):
        raise ValueError(
            f"found part {line.part} of {line.parts}, bytes {line.part_start} and {line.size} more "
            f"of {line.total_size}"
        )
    volumes, whole = line.part_volumes, line.total_sha256
    return Part(line.part, line.parts, line.part_start, line.total_size, volumes, whole)


def _source(line: _Line) -> FileSource:
    kind, path, link_of = line.kind, _bytes(line.path, line.path_b64), None
    if kind == "own":
        path = path.removeprefix(OWN_DIRECTORY + b"/")
    elif kind == "link":
        kind, link_of = "file", _bytes(line.link_of, line.link_of_b64)
    xattrs = line.xattrs
    return FileSource(
        path=path,
        kind=kind,
        link_of=link_of,
        target=_bytes(line.target, line.target_b64),
        xattrs={unquote_to_bytes(name): base64.b64decode(xattrs[name]) for name in xattrs},
        ino=line.ino,
        data_version=line.data_version,
        part=_part(line),
        size=line.size,
        mode=line.mode,
        uid=line.uid,
        gid=line.gid,
        mtime_ns=line.mtime_ns,
        atime_ns=line.atime_ns,
        ctime_ns=line.ctime_ns,
    )


def _result(line: _Line, source: FileSource) -> FileResult | None:
    if not source.has_data:
        return None
    if line.sector < 0 or line.size < 0:
        raise ValueError(f"found sector {line.sector} and size {line.size}, expected both")
    return FileResult(
        ino=source.ino,
        data_version=source.data_version,
        offset_bytes=line.sector * SECTOR_BYTES,
        size=source.size,
        xxh3_128=line.xxh3,
        sha256=line.sha256,
        chunk_xxh3=[int(mark, 16) for mark in line.chunks],
        void=line.void,
    )


def _entry(line: _Line) -> ManifestEntry:
    source = _source(line)
    disc_path = line.path if line.disc_path is None else line.disc_path
    return ManifestEntry(
        source, _result(line, source), "" if source.kind == "symlink" else disc_path
    )


def prove(pieces: Iterable[bytes], label: str) -> str:
    """Whether a manifest is whole, without a look at its lines: its last line has the hash
    of all before it, which is returned. MediumError where it is not."""
    proof, lines, held = xxhash.xxh3_128(), 0, b""
    for piece in pieces:
        data = held + piece
        proof.update(data[:-CLOSING_BYTES_MAX])
        lines += data.count(b"\n", 0, max(0, len(data) - CLOSING_BYTES_MAX))
        held = data[-CLOSING_BYTES_MAX:]
    start = held[:-1].rfind(b"\n") + 1
    proof.update(held[:start])
    lines += held.count(b"\n", 0, start)
    try:
        closing = msgspec.json.decode(held[start:], type=_Line)
    except (msgspec.MsgspecError, ValueError) as error:
        _bad(label, lines + 1, error)
    if closing.kind != "end" or proof.hexdigest() != closing.xxh3:
        _bad(label, lines + 1, "lines before it are missing or changed")
    return closing.xxh3


def entries_around_damage(
    lines: Iterable[bytes], label: str
) -> Iterator[ManifestEntry | MediumError]:
    """All entries whose lines can be understood, and why the others cannot; for rescue:
    nothing proves these lines, only that each is one. CallerError for a newer format."""
    for number, line in enumerate(lines, 1):
        try:
            fields = _decode(line)
            if fields.kind in ENTRY_KINDS:
                yield _entry(fields)
            elif fields.kind == "hsm-manifest":
                parse_header(line, label)
            elif fields.kind != "end":
                raise ValueError(f"found kind {fields.kind!r}")
        except MediumError as error:
            yield error
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            yield MediumError(f"volume {label}: manifest line {number}: {error}")


def entries_of(lines: Iterator[bytes], label: str) -> Iterator[ManifestEntry]:
    """Entries between the header and the last line, which proves them."""
    first = next(lines, b"")
    _, expected = parse_header(first, label)
    proof = xxhash.xxh3_128(first + b"\n")
    for number, line in enumerate(lines, 2):
        try:
            fields = _decode(line)
            if fields.kind == "end":
                if (number - 2, proof.hexdigest()) == (expected, fields.xxh3):
                    return
                _bad(label, number, "lines before it are missing or changed")
            entry = _entry(fields)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            _bad(label, number, error)
        proof.update(line + b"\n")
        yield entry
    _bad(label, expected + 2, "found the end of the file, expected the closing line")
