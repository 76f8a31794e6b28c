"""The manifest: JSON Lines of a length that is known before the burn.

Hashes, sector and ``void`` have fixed widths, so that the manifest's length
follows from the plan although its values are known only after the data.
Bytes that are not UTF-8 stand in a ``_b64`` field. See docs/disc-format.md.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import quote_from_bytes

import msgspec

from hsmfs.types import CHUNK_BYTES
from hsmfs.volume.names import disc_path, entry_path
from hsmfs.volume.source import FORMAT_VERSION, OWN_DIRECTORY, FileSource, VolumeHeader

MANIFEST_PATH: Final = "/.hsm/manifest.jsonl"
MANIFEST_NAME: Final = "manifest.jsonl"
_XXH3_128_HEX: Final = 32
_SHA256_HEX: Final = 64
_encode = msgspec.json.Encoder().encode


class FileResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was written of one file; all hashes are zeros where it is void."""

    ino: int
    data_version: int
    offset_bytes: int
    size: int
    xxh3_128: str
    sha256: str
    chunk_xxh3: list[int]
    void: bool = False


def chunks_of(size_bytes: int) -> int:
    """Chunks of a file; none where it is empty."""
    return -(-size_bytes // CHUNK_BYTES)


def header_line(header: VolumeHeader, entries: int) -> bytes:
    """The first line."""
    fields = {
        "kind": "hsm-manifest",
        "format": FORMAT_VERSION,
        "features": header.features,
        "site": header.site,
        "label": header.label,
        "pool": header.pool,
        "created_ns": header.created_ns,
        "copies": header.copies,
    }
    if header.udf != "2.50":
        fields["udf"] = header.udf
    if header.parity is not None:
        fields["parity"] = msgspec.to_builtins(header.parity)
    line = _encode(fields)
    return line[:-1] + b',"entries":%10d}\n' % entries


def end_line(entries: int, xxh3_128_hex: str) -> bytes:
    """The last line: proves that no line before it is missing or changed."""
    return b'{"kind":"end","entries":%10d,"xxh3":"%s"}\n' % (entries, xxh3_128_hex.encode())


FRAME_BYTES: Final = len(end_line(0, "0" * _XXH3_128_HEX))


def _text_field(fields: dict[str, Any], key: str, value: bytes) -> None:
    try:
        fields[key] = value.decode("utf-8")
    except UnicodeDecodeError:
        fields[f"{key}_b64"] = base64.b64encode(value).decode("ascii")


class _PlainLine(msgspec.Struct):
    """Most lines: a file in one piece, with its own name, and nothing unusual."""

    kind: str
    path: str
    ino: int
    data_version: int
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int


def _coded(entry: FileSource) -> bytes:
    """What is known before the burn, as JSON; the plain line says what ``_fields`` would,
    in a third of the time."""
    path = entry.path
    if (
        entry.kind == "file"
        and entry.link_of is None
        and entry.part is None
        and not entry.xattrs
        and path.isascii()
        and (text := disc_path(path)).encode() == path
    ):
        return _encode(
            _PlainLine(
                "file",
                text,
                entry.ino,
                entry.data_version,
                entry.size,
                entry.mode,
                entry.uid,
                entry.gid,
                entry.mtime_ns,
                entry.atime_ns,
                entry.ctime_ns,
            )
        )
    return _encode(_fields(entry))


def _fields(entry: FileSource) -> dict[str, Any]:
    """What is known before the burn."""
    fields: dict[str, Any] = {"kind": "link" if entry.link_of is not None else entry.kind}
    is_own = entry.kind == "own"
    _text_field(fields, "path", OWN_DIRECTORY + b"/" + entry.path if is_own else entry.path)
    on_disc = "" if is_own or entry.kind == "symlink" or not entry.path else entry_path(entry)
    if on_disc and on_disc != fields.get("path"):
        fields["disc_path"] = on_disc
    fields["ino"] = entry.ino
    if entry.part is not None:
        fields["part"] = entry.part.number
    if entry.link_of is not None:
        _text_field(fields, "link_of", entry.link_of)
        return fields
    if entry.part is not None:
        fields["parts"] = entry.part.parts
        fields["part_start"] = entry.part.start
        fields["total_size"] = entry.part.total
        fields["part_volumes"] = entry.part.volumes
        if entry.part.sha256:
            fields["total_sha256"] = entry.part.sha256
    if is_own:
        fields["size"] = entry.size
    elif entry.kind == "file":
        fields["data_version"] = entry.data_version
        fields["size"] = entry.size
    elif entry.kind == "symlink":
        _text_field(fields, "target", entry.target)
    fields["mode"], fields["uid"], fields["gid"] = entry.mode, entry.uid, entry.gid
    fields["mtime_ns"] = entry.mtime_ns
    fields["atime_ns"] = entry.atime_ns
    fields["ctime_ns"] = entry.ctime_ns
    if entry.xattrs:
        fields["xattrs"] = {
            quote_from_bytes(name): base64.b64encode(value).decode("ascii")
            for name, value in sorted(entry.xattrs.items())
        }
    return fields


def _proof(sector: int, void: bool, xxh3: str, sha256: str, chunks: Iterable[int]) -> bytes:
    word = b"true " if void else b"false"
    marks = b",".join(b'"%016x"' % chunk for chunk in chunks)
    return b',"sector":%10d,"void":%s,"xxh3":"%s","sha256":"%s","chunks":[%s]}\n' % (
        sector,
        word,
        xxh3.encode(),
        sha256.encode(),
        marks,
    )


_PROOF_BYTES: Final = len(_proof(0, False, "0" * _XXH3_128_HEX, "0" * _SHA256_HEX, ()))
_CHUNK_MARK_BYTES: Final = len(b'"0123456789abcdef",')


def entry_line(entry: FileSource, sector: int, result: FileResult | None) -> bytes:
    """The line of one entry; ``result`` where it has data."""
    line = _coded(entry)
    if result is None:
        return line + b"\n"
    proof = _proof(sector, result.void, result.xxh3_128, result.sha256, result.chunk_xxh3)
    return line[:-1] + proof


def line_bytes(entry: FileSource) -> int:
    """Length of the entry's line, whatever its hashes will be."""
    length = len(_coded(entry))
    if not entry.has_data:
        return length + 1
    chunks = chunks_of(entry.size)
    return length - 1 + _PROOF_BYTES + max(0, chunks * _CHUNK_MARK_BYTES - 1)


def void_result(entry: FileSource, offset_bytes: int) -> FileResult:
    """A file whose bytes on the disc are not to be trusted."""
    return FileResult(
        ino=entry.ino,
        data_version=entry.data_version,
        offset_bytes=offset_bytes,
        size=entry.size,
        xxh3_128="0" * _XXH3_128_HEX,
        sha256="0" * _SHA256_HEX,
        chunk_xxh3=[0] * chunks_of(entry.size),
        void=True,
    )
