"""Make the image of a lost volume anew from images of its parity set."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import xxhash

from hsmfs.errors import CallerError, HsmError
from hsmfs.tools.voldump import sector_reader
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.parityfiles import PIECE_BYTES, Sums, choose_kinds
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import ParityInfo, VolumeHeader

PIECE_SECTORS: Final = PIECE_BYTES // SECTOR_BYTES
PARITY_FILE: Final = "parity.bin"


@dataclass(slots=True)
class _Image:
    path: Path
    header: VolumeHeader
    data_sector: int
    """Where the parity begins, of a parity volume."""


@dataclass(slots=True)
class _Set:
    info: ParityInfo
    sums: dict[str, _Image] = field(default_factory=dict)


def rebuild_image(label: str, into: Path, images: Sequence[Path]) -> dict[str, Any]:
    """Write the image of volume ``label``; what was used, as plain values.

    Raises CallerError where the images given do not suffice or do not belong
    together; ``into`` then does not exist.
    """
    if into.exists():
        raise CallerError(f"{into}: exists already; choose another name")
    found, notes = _opened(images)
    chosen = _set_of(label, found)
    members = {image.header.label: image for image in found if image.header.parity is None}
    there, lost = {}, {}
    for index, member in enumerate(chosen.info.members):
        if member.label in members and member.label != label:
            there[index] = members[member.label]
        else:
            lost[index] = member
    kinds = choose_kinds(len(lost), chosen.sums)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=into.parent)))
        sums = Sums(*(scratch / kind if kind in kinds else None for kind in ("p", "q")))
        stack.callback(sums.close)
        for kind in kinds:
            _fold_sum(sums, kind, chosen.sums[kind], max(m.sectors for m in chosen.info.members))
        for index, image in there.items():
            _fold_member(sums, index, image, chosen.info)
        outs = {
            index: (scratch / f"{index}.img", one.sectors * SECTOR_BYTES)
            for index, one in lost.items()
        }
        sums.solve(outs, kinds)
        index = next(i for i, member in lost.items() if member.label == label)
        _check(outs[index][0], lost[index].xxh3, label)
        os.link(outs[index][0], into)
    return {
        "label": label,
        "image": str(into),
        "set": chosen.info.set,
        "used": sorted(image.header.label for image in (*there.values(), *chosen.sums.values())),
        "lost": sorted(member.label for member in lost.values()),
        "notes": notes,
    }


def _opened(images: Sequence[Path]) -> tuple[list[_Image], list[str]]:
    found, notes = [], []
    for path in images:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CallerError(f"{path}: {error.strerror}; expected a disc image") from error
        try:
            total = os.lseek(descriptor, 0, os.SEEK_END) // SECTOR_BYTES
            reader = VolumeReader(sector_reader(descriptor), total)
            sector = reader.own_sector(PARITY_FILE) if reader.header.parity is not None else 0
            found.append(_Image(path, reader.header, sector))
        except HsmError as error:
            notes.append(f"{path}: left out: {error}")
        finally:
            os.close(descriptor)
    return found, notes


def _set_of(label: str, found: Sequence[_Image]) -> _Set:
    """The set that protects the volume; the one of which most is there."""
    sites = {image.header.site for image in found}
    if len(sites) > 1:
        raise CallerError(f"found discs of sites {', '.join(sorted(sites))}, expected those of one")
    sets: dict[str, _Set] = {}
    for image in found:
        info = image.header.parity
        if info is None or label not in [member.label for member in info.members]:
            continue
        known = sets.setdefault(info.set, _Set(info))
        if known.info.members != info.members:
            raise CallerError(f"{image.path}: found other members of set {info.set} than before")
        known.sums[info.kind] = image
    if not sets:
        raise CallerError(
            f"found no parity volume that protects volume {label}, expected at least one among the "
            "images"
        )
    return max(sets.values(), key=lambda one: len(one.sums))


def _fold_sum(sums: Sums, kind: str, image: _Image, sectors: int) -> None:
    with image.path.open("rb") as file:
        for offset in range(0, sectors * SECTOR_BYTES, PIECE_BYTES):
            size = min(PIECE_BYTES, sectors * SECTOR_BYTES - offset)
            data = os.pread(file.fileno(), size, image.data_sector * SECTOR_BYTES + offset)
            sums.fold_sum(kind, offset, data)


def _fold_member(sums: Sums, index: int, image: _Image, info: ParityInfo) -> None:
    member, digest = info.members[index], xxhash.xxh3_128()
    with image.path.open("rb") as file:
        for offset in range(0, member.sectors * SECTOR_BYTES, PIECE_BYTES):
            size = min(PIECE_BYTES, member.sectors * SECTOR_BYTES - offset)
            data = os.pread(file.fileno(), size, offset)
            digest.update(data)
            sums.fold(index, offset, data)
    if digest.hexdigest() != member.xxh3:
        raise CallerError(
            f"{image.path}: found image xxh3 {digest.hexdigest()}, expected {member.xxh3} (volume "
            f"{member.label} as it was when parity was made); it is damaged, leave it out"
        )


def _check(path: Path, expected: str, label: str) -> None:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    if digest.hexdigest() != expected:
        raise CallerError(
            f"volume {label}: what was made anew has xxh3 {digest.hexdigest()}, "
            f"expected {expected}; one of the parity volumes is damaged"
        )
