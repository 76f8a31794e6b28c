"""Hashes of files that no line of a manifest tells of, as they were read of a library's disc.

``BARCODE.hashes`` is beside the disc's image with holes, for the files' bytes are too many to be
kept: a line (JSON) for each file with its block in the metadata, which its names share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from hsmfs.errors import MediumError
from hsmfs.tools.rebuild.recording import durable
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.hashes import FileHashes
from hsmfs.volume.manifest import FileResult
from hsmfs.volume.reader import VolumeReader, WalkEntry
from hsmfs.volume.source import FileSource

HASHES_SUFFIX: Final = ".hashes"


class HashedFile(msgspec.Struct, array_like=True):
    """One file as it is now on the disc."""

    block: int
    result: FileResult | None
    why: str = ""
    """Why it could not be read, where there is no result."""

    def found(self) -> FileResult:
        """Or MediumError."""
        if self.result is None:
            raise MediumError(self.why)
        return self.result


_decode: Final = msgspec.json.Decoder(HashedFile).decode


def hashed(reader: VolumeReader, entry: WalkEntry) -> FileResult:
    """All hashes of a file; MediumError where it cannot be read."""
    hashes = FileHashes()
    try:
        for piece in reader.stream_walked(entry):
            hashes.update(piece)
    except OSError as error:
        raise MediumError(str(error)) from error
    source = FileSource(path=b"", ino=0, size=entry.size)
    return hashes.result(source, entry.sector * SECTOR_BYTES)


def write_hashes(image: Path, files: Iterable[HashedFile]) -> None:
    """Beside an image, durable; OperatorNeeded where the disk has no room."""
    with durable(image.with_suffix(HASHES_SUFFIX)) as file:
        for one in files:
            file.write(msgspec.json.encode(one) + b"\n")


def read_hashes(image: Path) -> dict[int, HashedFile]:
    """By block; none where the image is a whole one."""
    path = image.with_suffix(HASHES_SUFFIX)
    if not os.path.exists(path):
        return {}
    with path.open("rb") as file:
        return {one.block: one for one in map(_decode, file)}
