"""Files of the volume's own that go on each disc beside README and manifest.

``recover.py`` restores a tree without hsmfs; the manifests of the pool's last
volumes tell what is on discs that are lost or not at hand. Manifests are kept
in the catalog's directory, one gzip file a volume, written when its first disc
is burned. A manifest that is missing there (a crash in between, a catalog that
was rebuilt) is only not repeated on later discs; its own disc has it.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from hsmfs.volume import recover
from hsmfs.volume.source import FileSource

MANIFESTS_DIRECTORY: Final = "manifests"
SCRIPT_NAME: Final = "recover.py"
SHARE_OF_DISC: Final = 100
"""Manifests of earlier volumes take at most one part of so many."""
_SUFFIX: Final = ".jsonl.gz"


class OwnFiles:
    """Manifests of burned volumes, and what new volumes take with them.

    All methods block; call them in a worker thread.
    """

    def __init__(self, root: Path, previous_max: int) -> None:
        self._root = root
        self._previous_max = previous_max

    def keep_manifest(self, label: str, lines: Iterable[bytes]) -> None:
        """Durable when it returns."""
        self._root.mkdir(parents=True, exist_ok=True)
        path = self._root / f"{label}{_SUFFIX}"
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as out:
            with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
                packed.writelines(lines)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)

    def gather(
        self, into: Path, labels: Sequence[str], when_ns: int, capacity_bytes: int
    ) -> list[FileSource]:
        """Put the files below ``into``; the entries that plan them.

        ``labels`` are the pool's volumes, newest first. What one run left in
        ``into`` is replaced.
        """
        shutil.rmtree(into, ignore_errors=True)
        (into / MANIFESTS_DIRECTORY).mkdir(parents=True)
        shutil.copyfile(recover.__file__, into / SCRIPT_NAME)
        names = [SCRIPT_NAME]
        room = capacity_bytes // SHARE_OF_DISC
        for label in labels[: self._previous_max]:
            kept = self._root / f"{label}{_SUFFIX}"
            size = kept.stat().st_size if kept.exists() else 0
            if not size or size > room:
                continue
            room -= size
            names.append(f"{MANIFESTS_DIRECTORY}/{kept.name}")
            shutil.copyfile(kept, into / names[-1])
        return [self._entry(into, name, when_ns) for name in names]

    @staticmethod
    def _entry(into: Path, name: str, when_ns: int) -> FileSource:
        return FileSource(
            path=os.fsencode(name),
            ino=0,
            kind="own",
            size=(into / name).stat().st_size,
            mode=0o100444,
            mtime_ns=when_ns,
            atime_ns=when_ns,
            ctime_ns=when_ns,
        )
