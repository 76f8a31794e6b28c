"""Read a manifest back: entries as they were planned, results as written."""

from __future__ import annotations

import base64
from collections.abc import Iterator
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
    VolumeHeader,
)

_NUMBERS: Final = (
    *("ino", "data_version", "size", "mode", "uid", "gid"),
    *("mtime_ns", "atime_ns", "ctime_ns"),
)


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


def _bytes(fields: dict[str, Any], key: str) -> bytes:
    coded = fields.get(f"{key}_b64")
    if coded is not None:
        return base64.b64decode(coded, validate=True)
    return str(fields.get(key, "")).encode()


def _source(fields: dict[str, Any]) -> FileSource:
    is_link = fields["kind"] == "link"
    plain = {name: int(fields[name]) for name in _NUMBERS if name in fields}
    xattrs = fields.get("xattrs", {})
    path = _bytes(fields, "path")
    if fields["kind"] == "own":
        path = path.removeprefix(OWN_DIRECTORY + b"/")
    return FileSource(
        path=path,
        kind="file" if is_link else fields["kind"],
        link_of=_bytes(fields, "link_of") if is_link else None,
        target=_bytes(fields, "target"),
        xattrs={unquote_to_bytes(name): base64.b64decode(xattrs[name]) for name in xattrs},
        **plain,
    )


def _result(fields: dict[str, Any], source: FileSource) -> FileResult | None:
    if not source.has_data:
        return None
    return FileResult(
        ino=source.ino,
        data_version=source.data_version,
        offset_bytes=int(fields["sector"]) * SECTOR_BYTES,
        size=source.size,
        xxh3_128=fields["xxh3"],
        sha256=fields["sha256"],
        chunk_xxh3=[int(mark, 16) for mark in fields["chunks"]],
        void=bool(fields["void"]),
    )


def _entry(fields: dict[str, Any]) -> ManifestEntry:
    source = _source(fields)
    disc_path = "" if source.kind == "symlink" else fields.get("disc_path", fields.get("path", ""))
    return ManifestEntry(source, _result(fields, source), disc_path)


def entries_of(lines: Iterator[bytes], label: str) -> Iterator[ManifestEntry]:
    """Entries between the header and the last line, which proves them."""
    first = next(lines, b"")
    _, expected = parse_header(first, label)
    proof = xxhash.xxh3_128(first + b"\n")
    for number, line in enumerate(lines, 2):
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
            if fields["kind"] == "end":
                if (number - 2, proof.hexdigest()) == (expected, fields["xxh3"]):
                    return
                _bad(label, number, "lines before it are missing or changed")
            entry = _entry(fields)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError) as error:
            _bad(label, number, error)
        proof.update(line + b"\n")
        yield entry
    _bad(label, expected + 2, "found the end of the file, expected the closing line")
