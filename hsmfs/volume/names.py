"""Names on a disc: OSTA compressed unicode (UDF 2.50 section 2.1.1).

A name that UDF cannot hold (over 254 bytes of CS0, not UTF-8, ``.hsm`` at the
top, a name that looks like one of ours), or that Linux would shorten (over 254
bytes of UTF-8), is shortened and ends in ``~`` and 16 hex digits of its SHA-256,
so that the two sorts can never be the same name. A name that looks like that of a
part of a file (``.part`` and four or more digits at its end) is changed too, and then
has no such end: so what ends in that is a part, on whatever disc it is met.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.volume.source import OWN_DIRECTORY, FileSource

CS0_BYTES_MAX: Final = 254
"""Characters of a file identifier, without the compression id."""
UTF8_BYTES_MAX: Final = 254
"""What Linux's udf driver shows of a name."""
_OURS: Final = re.compile(rb"~[0-9a-f]{16}(\.[^.]{1,8})?\Z", re.DOTALL)
_PART: Final = re.compile(rb"\.part[0-9]{4,}\Z")
_PART_HINT: Final = b".part"
_FORBIDDEN: Final = re.compile("[\x00\ufeff\ufffe/]")
_SUFFIX_CHARS_MAX: Final = 9
_MARK_CHARS: Final = 17
_SHORT_BYTES_MAX: Final = 254 - 2 * (_MARK_CHARS + _SUFFIX_CHARS_MAX)
_SHORT_UTF8_MAX: Final = UTF8_BYTES_MAX - _MARK_CHARS - _SUFFIX_CHARS_MAX


def encode_cs0(text: str) -> bytes:
    """Compression id and characters; 8 bits a character where all fit."""
    try:
        return b"\x08" + text.encode("latin-1")
    except UnicodeEncodeError:
        return b"\x10" + text.encode("utf-16-be")


def decode_cs0(data: bytes, where: str) -> str:
    """The other way; MediumError on what is no CS0."""
    try:
        if not data:
            return ""
        if data[0] in (8, 254):
            return data[1:].decode("latin-1")
        if data[0] in (16, 255):
            return data[1:].decode("utf-16-be")
    except UnicodeDecodeError as error:
        raise MediumError(f"{where}: name is not UTF-16: {error}") from error
    raise MediumError(f"{where}: found compression id {data[0]} of a name, expected 8 or 16")


def dstring(text: str, size: int) -> bytes:
    """A fixed field: CS0, zeros, and its length in the last byte."""
    coded = encode_cs0(text) if text else b""
    if len(coded) > size - 1:
        coded = _cut(coded, size - 1)
    return coded.ljust(size - 1, b"\0") + bytes([len(coded)])


def _cut(coded: bytes, size: int) -> bytes:
    """At most so many bytes, and no half of a character."""
    if coded[0] == 8:
        return coded[:size]
    text = coded[1 : 1 + (size - 1 & ~1)].decode("utf-16-be", "ignore")
    return coded[:1] + text.encode("utf-16-be")


def parse_dstring(field: bytes, where: str) -> str:
    """The text of a fixed field."""
    return decode_cs0(field[: min(field[-1], len(field) - 1)], where)


def disc_name(name: bytes, *, at_root: bool = False, of: bytes | None = None) -> str:
    """What a path component is called on the disc; of a part of a file, ``of`` is the file's
    own name, so that all parts are shortened alike and stay in order."""
    is_like_part = of is None and _PART_HINT in name and _PART.search(name) is not None
    if name.isascii() and len(name) <= CS0_BYTES_MAX and b"~" not in name:
        text = name.decode("ascii")
        if not is_like_part and not (at_root and name == OWN_DIRECTORY):
            return text
        return _shortened(text, of or name, keeps_suffix=not is_like_part)
    text = name.decode("utf-8", "replace")
    fits = len(name) <= UTF8_BYTES_MAX and len(encode_cs0(text)) - 1 <= CS0_BYTES_MAX
    is_plain = not is_like_part and not _OURS.search(name) and not _FORBIDDEN.search(text)
    if fits and is_plain and _is_utf8(name):
        return text
    text = _FORBIDDEN.sub("_", text.replace("\ufffd", "_"))
    return _shortened(text, of or name, keeps_suffix=not is_like_part)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _shortened(text: str, name: bytes, *, keeps_suffix: bool) -> str:
    """Start of the text, hash of the original, and its suffix if short."""
    stem, dot, suffix = text.rpartition(".") if keeps_suffix else ("", "", "")
    if not stem or len(suffix) >= _SUFFIX_CHARS_MAX or not suffix or not suffix.isascii():
        stem, dot, suffix = text, "", ""
    while len(encode_cs0(stem)) > _SHORT_BYTES_MAX or len(stem.encode()) > _SHORT_UTF8_MAX:
        stem = stem[:-1]
    return f"{stem}~{hashlib.sha256(name).hexdigest()[:16]}{dot}{suffix}"


def is_part_name(name: bytes) -> bool:
    """Whether a name on a disc is that of a part of a file."""
    return _PART.search(name) is not None


def leaf_name(entry: FileSource, *, at_root: bool) -> str:
    """What a file is called in its directory."""
    of = entry.path.rpartition(b"/")[2] if entry.part is not None else None
    return disc_name(entry.key.rpartition(b"/")[2], at_root=at_root, of=of)


def entry_path(entry: FileSource) -> str:
    """The whole path of an entry as it is on the disc."""
    if entry.part is None:
        return disc_path(entry.key)
    parent, slash, _ = entry.path.rpartition(b"/")
    name = leaf_name(entry, at_root=not slash)
    return f"{_disc_directory(parent)}/{name}" if slash else name


def disc_path(path: bytes) -> str:
    """The whole path as it is on the disc."""
    if (
        len(path) <= CS0_BYTES_MAX
        and path.isascii()
        and b"~" not in path
        and _PART_HINT not in path
        and not path.startswith(OWN_DIRECTORY)
    ):
        return path.decode("ascii")  # as ``disc_name`` would say of each part
    parent, slash, name = path.rpartition(b"/")
    if not slash:
        return disc_name(name, at_root=True)
    return f"{_disc_directory(parent)}/{disc_name(name)}"


@lru_cache(maxsize=256)
def _disc_directory(path: bytes) -> str:
    """Of a directory: one after the other has the same."""
    first, *rest = path.split(b"/")
    return "/".join([disc_name(first, at_root=True), *map(disc_name, rest)])
