"""Recovery data inside volumes: planned where a pool asks for it, made while the volume is
burned, used when no disc gives a whole image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hsmfs.errors import MediumError
from hsmfs.volume.layout import FileSource, Layout, VolumeHeader, plan_volume
from hsmfs.volume.recovery import (
    Accumulator,
    Mended,
    make_file,
    mend_image,
    shape_of,
    shape_with,
)
from hsmfs.volume.source import RECOVERY_NAME


def with_recovery(
    header: VolumeHeader,
    chosen: Sequence[FileSource],
    capacity_sectors: int,
    percent: float,
    own: Path,
) -> list[FileSource]:
    """The entries and one more, for recovery data over all before it; blocks.

    Its file is made in ``own``, empty; it is filled anew by each burn.
    """
    draft = [*chosen, _entry(header, 1)]
    sector = _sector(plan_volume(header, draft, capacity_sectors))
    shape = shape_of(sector, percent)
    entries = [*chosen, _entry(header, shape.file_bytes)]
    assert _sector(plan_volume(header, entries, capacity_sectors)) == sector
    own.mkdir(parents=True, exist_ok=True)
    make_file(own / RECOVERY_NAME, shape)
    return entries


def _entry(header: VolumeHeader, size: int) -> FileSource:
    when_ns = header.created_ns
    return FileSource(
        path=RECOVERY_NAME.encode(),
        ino=0,
        kind="own",
        size=size,
        mode=0o100444,
        mtime_ns=when_ns,
        atime_ns=when_ns,
        ctime_ns=when_ns,
    )


def _sector(layout: Layout) -> int:
    """Where the recovery file begins, which is the last entry; 0: there is none."""
    if not layout.entries or not layout.entries[-1].is_recovery:
        return 0
    return int(layout.geometry.data_sector + layout.tree.sector[-1])


def recovery_of(layout: Layout, own: Path) -> Accumulator | None:
    """What a burn of this layout must give its chunks to."""
    sector = _sector(layout)
    if not sector:
        return None
    return Accumulator(own / RECOVERY_NAME, shape_with(sector, layout.entries[-1].size))


def summed(chunks: Iterable[bytes], recovery: Accumulator | None) -> Iterator[bytes]:
    """The chunks as they are, each taken in before the next is asked for."""
    for chunk in chunks:
        if recovery is not None:
            recovery.add(chunk)
        yield chunk


def mend(path: Path) -> Mended | None:
    """Repair a staged image by its own recovery data; None where that cannot be."""
    if not os.path.exists(path):
        return None
    try:
        return mend_image(path)
    except MediumError:
        return None
