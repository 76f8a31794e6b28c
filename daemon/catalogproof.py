"""Whether the catalog can be trusted, before hsmd does anything with it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from hsmfs.config import Config
from hsmfs.daemon.catalog import START_TABLES, Catalog
from hsmfs.errors import CallerError, HsmError, StoreDamagedError
from hsmfs.namespace import schema
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.store.proof import prove_apart
from hsmfs.types import Residency

WAY_OUT: Final = (
    "restore the newest backup of catalog.path; without one move it away and make it anew from the "
    "discs: hsm rebuild --catalog --from LIBRARY"
)
ON_VOLUMES: Final = (Residency.PREMIGRATED, Residency.MIGRATED, Residency.RECALLING)


def open_catalog(config: Config) -> LmdbStore:
    """The store; StoreDamagedError where it cannot be read. Blocks."""
    path, map_bytes = Path(config.catalog.path), config.catalog.map_bytes
    path.mkdir(parents=True, exist_ok=True)
    if (path / "data.mdb").exists():
        try:
            prove_apart(path, map_bytes, START_TABLES)
        except HsmError as error:
            raise StoreDamagedError(f"catalog.path: {error}; {WAY_OUT}") from error
    return LmdbStore(path, map_bytes=map_bytes)


def want_volumes(config: Config, catalog: LmdbStore, namespace: LmdbStore) -> None:
    """CallerError where the namespace has files on volumes and the catalog knows of none: new
    volumes would get the labels of old ones."""
    with catalog.snapshot() as reader:
        if any(True for _ in reader.scan(b"V", b"W", limit=1)):
            return
    with namespace.snapshot() as reader:
        for state in ON_VOLUMES:
            start, stop = b"C" + bytes([state]), b"C" + bytes([state + 1])
            for key, _ in reader.scan(start, stop, limit=1):
                ino = schema.INDEX.unpack(key[1:])[3]
                raise CallerError(
                    f"catalog.path: {config.catalog.path}: found no volumes, expected those of the "
                    f"namespace's files (inode {ino} is {state.name.lower()}); {WAY_OUT}"
                )


def read_catalog(config: Config, store: LmdbStore) -> Catalog:
    """Its records; StoreDamagedError where one is not what it should be."""
    try:
        return Catalog(store)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreDamagedError(
            f"catalog.path: {config.catalog.path}: found a damaged record ({error}); {WAY_OUT}"
        ) from error
