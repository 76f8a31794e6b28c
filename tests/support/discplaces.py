"""Stopped systems whose emulated library has volumes on its discs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.config import Config
from hsmfs.configload import load
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogrecords import DiscRecord
from hsmfs.daemon.namespaceset import SetLine
from hsmfs.fsck.findings import Kind, Summary
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.fsckcommand import findings
from hsmfs.tools.rebuild.collect import Collected
from hsmfs.tools.rebuild.images import opened
from hsmfs.tools.rebuild.reading import read_libraries
from hsmfs.tools.rebuild.run import discs_of, rebuild
from hsmfs.tools.rebuild.shelf import Shelf
from hsmfs.tools.rebuild.tree import Outcome
from hsmfs.volume.source import FileSource
from support.volumes import SITE, burn, changes, stopped_system

ROOT = SetLine(ino=1, mode=0o40755)
FILES = 20
BYTES = 500


def label(number: int) -> str:
    return f"{SITE}-{number:06d}"


class Place:
    """A stopped system whose library has volumes on some of its discs."""

    def __init__(self, root: Path, drives: int = 2) -> None:
        self.root = root
        stopped_system(root)
        text = (root / "hsmfs.toml").read_text()
        (root / "hsmfs.toml").write_text(text.replace("magazine_slots = 12", "magazine_slots = 4"))
        self.config: Config = load(root / "hsmfs.toml")
        library = Path(self.config.library[0].path)
        self.library = EmulatedLibrary.create(
            library, drives=drives, slots=12, magazine_slots=4, disc_bytes=1 << 22
        )
        self.images = root / "images"
        self.images.mkdir()
        self.volumes = 0

    def volume(self, *slots: int, with_previous: bool = True) -> Path:
        """A further volume on the discs in these slots; each has files of its own."""
        self.volumes += 1
        number = self.volumes
        inodes = range(100 * number, 100 * number + FILES)
        files = [
            FileSource(path=b"v%d-%d" % (number, ino), ino=ino, data_version=1, size=BYTES)
            for ino in inodes
        ]
        lines = [
            SetLine(
                ino=f.ino,
                names=[[1, f.path.decode()]],
                mode=0o100640,
                size=BYTES,
                data_version=1,
            )
            for f in files
        ]
        own = changes(10 * (number - 1), 10 * number, ROOT, *lines)
        if with_previous and number > 1:
            with opened(self.images / f"{number - 1}.img") as reader:
                packed = gzip.compress(reader.read_file("/.hsm/manifest.jsonl"))
            own[b"manifests/%s.jsonl.gz" % label(number - 1).encode()] = packed
        image = self.images / f"{number}.img"
        burn(image, label(number), files, own, created_ns=number)
        for slot in slots:
            self.put(slot, image)
        return image

    def put(self, slot: int, image: Path | bytes, closed: bool = True) -> None:
        self.library.hands.load_foreign(self.barcode(slot), image, closed)

    def barcode(self, slot: int) -> str:
        return self.library.state.slots[slot]

    def disc(self, slot: int) -> Path:
        return self.library.image(self.barcode(slot))

    def faults(self, *faults: dict[str, Any]) -> None:
        (self.library.path / "faults.json").write_text(json.dumps(list(faults)))

    def read(self, **options: bool) -> Shelf:
        return read_libraries(self.config, self.config.library, again=options.get("again", False))

    def rebuilt(
        self, sources: Sequence[Path] = (), **options: bool
    ) -> tuple[Shelf, Collected, Outcome, list[tuple[str, str]]]:
        """From the library; fsck finds nothing but what waits for missing volumes."""
        shelf = self.read(**options)
        _, left_out, collected, outcome = rebuild(
            self.config, sources, lambda what, path, why: None, shelf
        )
        found = list(findings(self.config, False, None, Summary()))
        assert all(one.kind == Kind.LOST for one in found)
        assert len(found) == sum(outcome.waiting.values())
        assert not discs_of(self.config).exists()
        return shelf, collected, outcome, left_out

    def names(self) -> set[bytes]:
        path = Path(self.config.namespace.path)
        store = LmdbStore(path, self.config.namespace.map_bytes, read_only=True)
        try:
            with store.snapshot() as reader:
                return {path for path, _ in NamespaceView(reader).walk(1, b"")}
        finally:
            store.close()

    def catalog(self) -> Catalog:
        """Its records; the store is closed again."""
        path = Path(self.config.catalog.path)
        store = LmdbStore(path, self.config.catalog.map_bytes, read_only=True)
        try:
            return Catalog(store)
        finally:
            store.close()

    def record(self, slot: int) -> DiscRecord:
        return self.catalog().discs[self.barcode(slot)]

    def in_drives(self) -> list[str]:
        state = json.loads((self.library.path / "library.json").read_text())
        return [code for code in state["drive_discs"] if code]


def names_of(*volumes: int) -> set[bytes]:
    return {b"v%d-%d" % (v, 100 * v + n) for v in volumes for n in range(FILES)}
