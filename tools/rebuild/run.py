"""The rebuild as a whole: gather, write beside, put in place.

Both stores are written under names of their own and get theirs at the end, the
catalog first. A file in the catalog tells until then that the namespace is
still to come, so that a rebuild that was killed is simply run again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hsmfs.cache.tier import CacheTier
from hsmfs.config import Config
from hsmfs.errors import CallerError
from hsmfs.fsck.cachefiles import CacheFiles
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.rebuild.catalogfile import CatalogFile
from hsmfs.tools.rebuild.collect import Collected, Collector
from hsmfs.tools.rebuild.images import FoundVolume, find
from hsmfs.tools.rebuild.namespacefile import NamespaceFile
from hsmfs.tools.rebuild.scratch import Scratch
from hsmfs.tools.rebuild.shelf import Shelf
from hsmfs.tools.rebuild.tree import Outcome, TreeBuilder

NEW: Final = ".rebuild"
SCRATCH: Final = ".rebuild-scratch"
DISCS: Final = ".rebuild-discs"
"""What was read of libraries' discs; kept until both stores are in place."""
NAMED_MAX: Final = 5
UNFINISHED: Final = "rebuild.unfinished"
"""In a catalog whose namespace is still to be put in place."""
DATA: Final = "data.mdb"
Tell = Callable[[str, str, str], None]


def check_empty(config: Config) -> None:
    """CallerError where there is something that a rebuild would replace."""
    catalog, namespace = Path(config.catalog.path), Path(config.namespace.path)
    marker = catalog / UNFINISHED
    try:
        if not marker.exists():
            want_empty(catalog, config.catalog.map_bytes, b"V", "the catalog knows volumes")
        want_empty(namespace, config.namespace.map_bytes, b"D", "the namespace has files")
        _want_empty_tier(Path(config.tier[0].path))
    except CallerError:
        if marker.exists():  # both are in place: it was killed just before this
            shutil.rmtree(discs_of(config), ignore_errors=True)
            marker.unlink()
        raise


def want_empty(path: Path, map_bytes: int, table: bytes, found: str) -> None:
    """CallerError where a store has something in a table."""
    if not (path / DATA).exists():
        return
    store = LmdbStore(path, map_bytes, read_only=True)
    try:
        with store.snapshot() as reader:
            if any(True for _ in reader.scan(table, bytes([table[0] + 1]), limit=1)):
                raise CallerError(
                    f"{path}: found a store in use ({found}), expected none or an empty one; "
                    "move it away first if the discs are to replace it"
                )
    finally:
        store.close()


def _want_empty_tier(root: Path) -> None:
    """Cached data of a lost namespace may be newer than what was burned: never dropped."""
    full = next((file for file in CacheFiles(root).walk() if file.size), None)
    if full is not None:
        raise CallerError(
            f"{root}: found cached data of an earlier namespace ({full.path}), expected an empty "
            "tier; move the directory away and make an empty one (what was never burned is there)"
        )


def discs_of(config: Config) -> Path:
    """Directory of what was read of libraries' discs."""
    return beside(Path(config.namespace.path), DISCS)


def found_volumes(
    config: Config, sources: Sequence[Path], shelf: Shelf
) -> tuple[dict[str, FoundVolume], list[tuple[str, str]]]:
    """Volumes of images and libraries, and discs that are left out with the reason."""
    volumes, left_out = find([*sources, *shelf.images], config.site.id)
    shelf.add_copies(volumes)
    left_out = shelf.left_out + shelf.by_barcode(left_out)
    if not volumes:
        why = "; ".join(f"{image}: {reason}" for image, reason in left_out[:NAMED_MAX])
        raise CallerError(f"found no volume of site {config.site.id!r} ({why})")
    return volumes, left_out


def rebuild(
    config: Config, sources: Sequence[Path], tell: Tell, shelf: Shelf | None = None
) -> tuple[dict[str, FoundVolume], list[tuple[str, str]], Collected, Outcome]:
    """Both stores from discs; ``tell`` gets files that are not whole, as they are met.
    ``shelf`` is what was read of libraries.

    Raises CallerError where no volume is found or two do not go together.
    """
    shelf = shelf or Shelf()
    volumes, left_out = found_volumes(config, sources, shelf)
    places = Path(config.namespace.path), Path(config.catalog.path)
    for place in places:
        shutil.rmtree(beside(place, NEW), ignore_errors=True)
    scratch = Scratch(beside(places[0], SCRATCH))
    try:
        collected, outcome = _write(config, volumes, scratch, tell, shelf)
    finally:
        scratch.close()
    put_in_place(*places, discs_of(config))
    return volumes, left_out, collected, outcome


def _write(
    config: Config, volumes: dict[str, FoundVolume], scratch: Scratch, tell: Tell, shelf: Shelf
) -> tuple[Collected, Outcome]:
    catalog = CatalogFile(beside(Path(config.catalog.path), NEW), config.catalog.map_bytes)
    collector = Collector(scratch, catalog, volumes)
    collector.run()
    scratch.flush()
    catalog.flush()
    collected = collector.result
    namespace = NamespaceFile(
        beside(Path(config.namespace.path), NEW),
        config.namespace.map_bytes,
        collected.highest_ino,
    )
    tier = config.tier[0]
    builder = TreeBuilder(
        scratch,
        catalog,
        namespace,
        CacheTier(tier.name, Path(tier.path)),
        {label: volume.copies for label, volume in volumes.items()},
        collected,
        time.time_ns(),
    )
    builder.outcome.tell = tell
    outcome = builder.run()
    name = config.library[0].name
    catalog.records(volumes.values(), collected.missing.values(), name, shelf)
    catalog.close()
    namespace.close(max((one.until for one in collected.sets), default=0))
    return collected, outcome


def beside(path: Path, suffix: str) -> Path:
    """Another name in the same directory."""
    return path.with_name(path.name + suffix)


def put_in_place(namespace: Path, catalog: Path, discs: Path) -> None:
    """The two new stores get their names; what was there (empty stores) is kept beside.
    What was read of libraries' discs is not needed any more."""
    (beside(catalog, NEW) / UNFINISHED).touch()
    for path in (catalog, namespace):
        into_place(path)
    shutil.rmtree(discs, ignore_errors=True)
    (catalog / UNFINISHED).unlink()
    _sync_directory(catalog)


def into_place(path: Path) -> None:
    """A new store gets its name; what had it is kept beside."""
    if path.exists():
        _set_aside(path, time.strftime(".before-rebuild-%Y%m%d-%H%M%S", time.gmtime()))
    os.rename(beside(path, NEW), path)
    _sync_directory(path.parent)


def _set_aside(path: Path, stamp: str) -> None:
    target, number = beside(path, stamp), 0
    while target.exists():
        number += 1
        target = beside(path, f"{stamp}.{number}")
    os.rename(path, target)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
