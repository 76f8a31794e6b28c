"""MIME types by the extension of a name; the same on every machine.

Python's own table without the files of the system, and what hospitals and
laboratories keep besides.
"""

from __future__ import annotations

import functools
import mimetypes
from typing import Final

UNKNOWN: Final = b"application/octet-stream"
EXTENSIONS_MAX: Final = 10_000
"""Remembered: extensions are few, but names come from users."""
FURTHER: Final = {
    ".dcm": "application/dicom",
    ".dicom": "application/dicom",
    ".edf": "application/edf",
    ".fastq": "text/x-fastq",
    ".fits": "image/fits",
    ".hl7": "application/edi-hl7v2",
    ".jp2": "image/jp2",
    ".mkv": "video/x-matroska",
    ".mxf": "application/mxf",
    ".nii": "application/x-nifti",
    ".svs": "image/x-aperio-svs",
    ".czi": "image/x-zeiss-czi",
}
_TABLES: Final = mimetypes.MimeTypes()
_PACKED: Final = {
    ".bz2": b"application/x-bzip2",
    ".gz": b"application/gzip",
    ".xz": b"application/x-xz",
    ".zst": b"application/zstd",
}


def mime_of(name: bytes) -> bytes:
    """The type of a file of this name; ``application/octet-stream`` where nothing tells."""
    stem, dot, extension = name.rpartition(b".")
    return _of_extension(extension.lower()) if dot and stem else UNKNOWN


@functools.lru_cache(maxsize=EXTENSIONS_MAX)
def _of_extension(extension: bytes) -> bytes:
    try:
        word = "." + extension.decode("ascii")
    except UnicodeDecodeError:
        return UNKNOWN
    packed = _PACKED.get(word)
    if packed is not None:
        return packed
    known = FURTHER.get(word) or _TABLES.types_map[True].get(word)
    known = known or _TABLES.types_map[False].get(word)
    return known.encode() if known else UNKNOWN
