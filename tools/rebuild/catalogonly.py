"""The catalog alone made anew, beside a namespace that is there: what it says stays.

Of versions that the namespace does not know yet (it is an older backup) nothing is taken:
their numbers will be given again, and must not be taken for copies.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hsmfs.config import Config
from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.errors import CallerError
from hsmfs.namespace import schema
from hsmfs.namespace.recovery import VERSION_KEY
from hsmfs.namespace.tables import NEXT_INO_KEY
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import InodeRecord
from hsmfs.store.interface import Reader
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.rebuild.catalogfile import CatalogFile, ExtentReader
from hsmfs.tools.rebuild.collect import Collected, Collector
from hsmfs.tools.rebuild.images import FoundVolume
from hsmfs.tools.rebuild.run import (
    DATA,
    NEW,
    SCRATCH,
    Tell,
    beside,
    discs_of,
    found_volumes,
    into_place,
    want_empty,
)
from hsmfs.tools.rebuild.scratch import Scratch
from hsmfs.tools.rebuild.shelf import Shelf
from hsmfs.types import FileVersion, Residency

STUBS: Final = (Residency.MIGRATED, Residency.RECALLING)
ON_VOLUMES: Final = (Residency.PREMIGRATED, *STUBS)


@dataclass(slots=True)
class Matched:
    """How the namespace's files on volumes fare."""

    files: int = 0
    bytes: int = 0
    waiting: Counter[str] = field(default_factory=Counter)
    """Those that are on missing volumes only, by label."""
    lost: int = 0
    """Stubs that no volume tells of."""
    uncopied: int = 0
    """Files with their data in the cache that no volume tells of."""
    newer: int = 0
    """Versions on discs that the namespace does not know yet."""


def check_catalog_missing(config: Config) -> None:
    """CallerError where there is a catalog in use, or no namespace to make one for."""
    want_empty(
        Path(config.catalog.path), config.catalog.map_bytes, b"V", "the catalog knows volumes"
    )
    path = Path(config.namespace.path)
    if (path / DATA).exists():
        store = LmdbStore(path, config.namespace.map_bytes, read_only=True)
        try:
            with store.snapshot() as reader:
                if reader.get(VERSION_KEY) is not None:
                    return
        finally:
            store.close()
    raise CallerError(
        f"{path}: found no namespace, expected the one whose catalog is to be made anew; without "
        "--catalog both are made"
    )


def rebuild_catalog(
    config: Config, sources: Sequence[Path], tell: Tell, shelf: Shelf
) -> tuple[dict[str, FoundVolume], list[tuple[str, str]], Collected, Matched]:
    """The catalog from discs; ``tell`` gets files that have no copy on them."""
    volumes, left_out = found_volumes(config, sources, shelf)
    place = Path(config.catalog.path)
    shutil.rmtree(beside(place, NEW), ignore_errors=True)
    # Manifests' lines go there too; only their extents are of use here.
    scratch = Scratch(beside(place, SCRATCH))
    try:
        catalog = CatalogFile(beside(place, NEW), config.catalog.map_bytes)
        collector = Collector(scratch, catalog, volumes)
        collector.run()
        catalog.flush()
    finally:
        scratch.close()
    collected = collector.result
    namespace = LmdbStore(Path(config.namespace.path), config.namespace.map_bytes, read_only=True)
    try:
        with namespace.snapshot() as reader:
            matched = Matched()
            _drop_unknown(catalog, reader, matched)
            given = {label for label, volume in volumes.items() if volume.copies}
            _match(catalog.extents(), reader, given, matched, tell)
    finally:
        namespace.close()
    library = config.library[0].name
    catalog.records(volumes.values(), collected.missing.values(), library, shelf)
    catalog.close()
    into_place(place)
    shutil.rmtree(discs_of(config), ignore_errors=True)
    return volumes, left_out, collected, matched


def _drop_unknown(catalog: CatalogFile, reader: Reader, matched: Matched) -> None:
    """Versions whose numbers will be given again."""
    numbers = [int(word) for word in (reader.get(NEXT_INO_KEY) or b"0 0 0").split()]
    unused = range(numbers[1], numbers[2]) if len(numbers) == 3 else range(0)
    view = NamespaceView(reader)
    newer: list[tuple[str, FileVersion, ExtentRecord]] = []
    for file, label, extent in catalog.all_extents():
        record = view.inode(file.ino)
        if record is None:
            is_newer = file.ino >= numbers[0] or file.ino in unused
        else:
            is_newer = file.data_version > record.data_version
        if is_newer:
            newer.append((label, file, extent))
    for label, file, extent in newer:
        catalog.drop(label, file, extent)
    matched.newer = len(newer)


def _match(
    extents: ExtentReader, reader: Reader, given: set[str], matched: Matched, tell: Tell
) -> None:
    view = NamespaceView(reader)
    for _, value in reader.scan(b"I", b"J"):
        record = InodeRecord.unpack(value)
        if record.state not in ON_VOLUMES or not record.size:
            continue
        labels = [
            label for version, label, _ in extents.of(record.ino) if version == record.data_version
        ]
        if given.intersection(labels):
            matched.files += 1
            matched.bytes += record.size
            continue
        path = next(iter(view.paths_of(record.ino)), b"").decode("utf-8", "backslashreplace")
        if labels:
            matched.waiting[labels[0]] += 1
            tell("waits", path, f"for volume {' or '.join(labels)}")
        elif record.state in STUBS:
            matched.lost += 1
            said = view.xattrs(record.ino).get(schema.VOLUMES_XATTR, b"").decode()
            tell("lost", path, f"on no disc that was given; it was on {said or 'no volume'}")
        else:
            matched.uncopied += 1
            tell("uncopied", path, "on no disc that was given; its data is in the cache")
