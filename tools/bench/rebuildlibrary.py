"""A system made anew from a library of thousands of discs: each volume on two of them, in
magazines of twelve, with the manifests of the sixteen volumes before it."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Final

from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.changer.emulated.disc import image_path, marker_path
from hsmfs.errors import CallerError
from hsmfs.tools.bench import rebuildscale
from hsmfs.tools.bench.apart import run_apart
from hsmfs.tools.bench.generate import generate
from hsmfs.tools.bench.hsmfsprocess import HsmfsProcess
from hsmfs.tools.bench.namespacedata import Shape
from hsmfs.types import SECTOR_BYTES

COPIES: Final = 2
DRIVES: Final = 12
MAGAZINE_SLOTS: Final = 12
FILES_OF_VOLUME: Final = 50
PREVIOUS: Final = 16
"""Default of ``burn.previous_manifests``."""
DISC_BYTES: Final = 1 << 30
LIBRARY: Final = "none"
"""Its name in the configuration."""


def measure(place: Path, discs: int) -> rebuildscale.Figures:
    """All of it in an empty directory. HsmError where the rebuilt tree differs."""
    volumes = discs // COPIES
    if volumes < 1:
        raise CallerError(f"library of {discs} discs: expected at least {COPIES}")
    files = volumes * FILES_OF_VOLUME
    shape = Shape(
        files,
        per_directory=FILES_OF_VOLUME,
        size=rebuildscale.FILE_BYTES,
        now_ns=time.time_ns(),
    )
    source, images = place / "source", place / "images"
    images.mkdir()
    system = HsmfsProcess(place / "system", "native")
    system.configure()
    begun_s = time.monotonic()
    library = system.dir / "library"
    work = partial(_prepare, source, shape, volumes, images, library)
    run_apart(work, rebuildscale.PREPARE_TIMEOUT_S)
    burn_s = time.monotonic() - begun_s
    cpu_s, wall_s, peak_bytes = rebuildscale.rebuild(system.config, LIBRARY)
    compared = rebuildscale.compare(source, system.dir / "namespace")
    return rebuildscale.Figures(files, volumes, burn_s, cpu_s, wall_s, peak_bytes, compared)


def _prepare(source: Path, shape: Shape, volumes: int, images: Path, library: Path) -> None:
    generate(source, rebuildscale.MAP_BYTES, shape)
    with rebuildscale.reading(source) as reader:
        rebuildscale.burn_all(reader, shape, volumes, images, PREVIOUS)
    fill(library, sorted(images.glob("*.img")))


def fill(path: Path, images: list[Path]) -> None:
    """Each image is the disc of two slots, in different magazines where there are as many."""
    library = EmulatedLibrary.create(
        path,
        drives=DRIVES,
        slots=COPIES * len(images),
        magazine_slots=MAGAZINE_SLOTS,
        disc_bytes=DISC_BYTES,
    )
    for number, code in enumerate(library.state.slots):
        # Nobody writes to a closed disc: both copies may be one file.
        image = images[number % len(images)]
        os.truncate(image, -(-image.stat().st_size // SECTOR_BYTES) * SECTOR_BYTES)
        os.link(image, image_path(library.discs, code))
        marker_path(library.discs, code).touch()
