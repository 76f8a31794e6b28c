"""The discs that a rebuild gets: opened, known by their labels, told apart."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hsmfs.errors import CallerError, HsmError, MediumError
from hsmfs.tools.rebuild.recording import Read, replay
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import VolumeHeader

IMAGE_SUFFIXES: Final = (".img", ".iso", ".udf")
DISCS_DIRECTORY: Final = "discs"
LIBRARY_FILE: Final = "library.json"
"""In the directory of an emulated library."""


@dataclass(slots=True)
class FoundVolume:
    """One volume, and where its copies are."""

    header: VolumeHeader
    images: list[Path]
    """Copies, in the order in which they are tried."""
    manifest_bytes: int
    sectors: int
    barcodes: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    """Barcodes of copies whose manifest is damaged, where another one's is whole."""
    note: str = ""
    """For the catalog."""
    is_guessed: bool = False
    """The manifest's first line is damaged: the header is what the volume descriptors say."""

    @property
    def label(self) -> str:
        return self.header.label

    @property
    def copies(self) -> int:
        """Those that count. What was read in a drive does not: it has no barcode, so nobody
        knows which disc it was until it is identified in the library."""
        return max(1, len(self.barcodes) - len(self.damaged)) if self.barcodes else 0

    def take_header(self, header: VolumeHeader) -> None:
        """The whole one, of another copy or as a later volume repeats it."""
        self.header, self.is_guessed = header, False

    def is_copy_of(self, other: FoundVolume) -> bool:
        """Whether all that is known of both is the same."""
        mine, theirs = self.header, other.header
        if self.is_guessed or other.is_guessed:
            same_time = mine.created_ns // 1000 == theirs.created_ns // 1000
            return same_time and self.sectors == other.sectors
        return mine == theirs and self.manifest_bytes == other.manifest_bytes

    def sort_out(self, damaged: list[Path]) -> bool:
        """Whole copies are tried first from now on; whether there is one."""
        self.images.sort(key=lambda image: image in damaged)
        is_whole = self.images[0] not in damaged
        if is_whole:
            self.damaged |= {image.stem for image in damaged} & set(self.barcodes)
        return is_whole


def volume_reader(descriptor: int, image: Path | None = None) -> VolumeReader:
    """A volume in an open image or device; ``image`` may be what was read of a library's disc."""

    def read(sector: int, sectors: int) -> bytes:
        try:
            return os.pread(descriptor, sectors * SECTOR_BYTES, sector * SECTOR_BYTES)
        except OSError as error:
            raise MediumError(f"sector {sector}: {error.strerror}") from error

    read_or_raise: Read = read if image is None else replay(image, read)
    return VolumeReader(read_or_raise, os.lseek(descriptor, 0, os.SEEK_END) // SECTOR_BYTES)


@contextmanager
def opened(image: Path) -> Iterator[VolumeReader]:
    """A volume in an image or device, for a while."""
    descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield volume_reader(descriptor, image)
    finally:
        os.close(descriptor)


def images_of(sources: Iterable[Path]) -> Iterator[Path]:
    """Image files and devices; of a directory all images in it. CallerError for others."""
    for source in sources:
        if not source.is_dir():
            if not source.exists():
                raise CallerError(
                    f"{source}: found nothing, expected an image, a drive, or a directory of images"
                )
            yield source
            continue
        inside = source / DISCS_DIRECTORY if (source / LIBRARY_FILE).exists() else source
        images = sorted(path for path in inside.iterdir() if path.suffix in IMAGE_SUFFIXES)
        if not images:
            raise CallerError(
                f"{inside}: found no images ({', '.join(IMAGE_SUFFIXES)}), expected at least one"
            )
        yield from images


def find(
    sources: Iterable[Path], site: str
) -> tuple[dict[str, FoundVolume], list[tuple[str, str]]]:
    """Volumes by label, and images that are left out with the reason.

    Raises CallerError where two discs of one label differ: one of them is not
    what it says, and only a person can tell which.
    """
    volumes: dict[str, FoundVolume] = {}
    left_out: list[tuple[str, str]] = []
    for image in images_of(sources):
        try:
            found = _open(image, site)
        except (HsmError, OSError) as error:
            left_out.append((str(image), str(error)))
            continue
        known = volumes.setdefault(found.label, found)
        if not known.is_copy_of(found):
            raise CallerError(
                f"{image} and {known.images[0]}: found two different volumes of label "
                f"{found.label}, expected copies of one; give one of them only (see hsm volume "
                "dump)"
            )
        if known is not found:
            known.images.append(image)
            if known.is_guessed and not found.is_guessed:
                known.take_header(found.header)
                known.manifest_bytes = found.manifest_bytes
        if not image.is_block_device() and image.stem not in known.barcodes:
            known.barcodes.append(image.stem)
    return volumes, left_out


def _open(image: Path, site: str) -> FoundVolume:
    with opened(image) as reader:
        header, length, why_not = identify(reader, site)
        sectors = reader.total_sectors
        return FoundVolume(header, [image], length, sectors, is_guessed=why_not is not None)


def identify(reader: VolumeReader, site: str) -> tuple[VolumeHeader, int, MediumError | None]:
    """A disc's header and the manifest's bytes. Where its first line is damaged the header is
    what the volume descriptors say, and it is told why.

    CallerError for another site or a newer format, MediumError where it has no manifest.
    """
    header, why_not = reader.header_or_rest()
    if header.site != (site if why_not is None else site[: len(header.site)]):
        raise CallerError(
            f"found a disc of site {header.site!r}, expected {site!r} (site.id of the "
            "configuration)"
        )
    return header, reader.manifest_bytes, why_not
