"""Files of the volume's own that go on each disc beside README and manifest.

``recover.py`` restores a tree without hsmfs; the changes of the namespace make
``hsm rebuild`` know names, owners and deletions as they were last; the manifests
of the pool's last volumes tell what is on discs that are lost or not at hand. Manifests are kept
in the catalog's directory, one gzip file a volume, written when its first disc
is burned. A manifest that is missing there (a crash in between, a catalog that
was rebuilt) is only not repeated on later discs; its own disc has it.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from hsmfs.daemon.namespaceset import LOG_NAME, SetHeader
from hsmfs.volume import recover
from hsmfs.volume.source import FileSource, VolumeHeader

log = structlog.get_logger(__name__)

MANIFESTS_DIRECTORY: Final = "manifests"
SCRIPT_NAME: Final = "recover.py"
NAMESPACE_SHARE_OF_DISC: Final = 10
"""Changes of the namespace take at most one part of so many."""
WHY_BYTES_MAX: Final = 500
SHARE_OF_DISC: Final = 100
"""Manifests of earlier volumes take at most one part of so many."""
MANIFEST_SUFFIX: Final = ".jsonl.gz"
NAMESPACE_NAME: Final = "namespace.jsonl.gz"


class OwnFiles:
    """Manifests of burned volumes, and what new volumes take with them.

    ``keep_manifest`` blocks; call it in a worker thread.
    """

    def __init__(self, root: Path, previous_max: int, namespace: Path) -> None:
        self._root = root
        self._namespace = namespace
        self._previous_max = previous_max

    def keep_manifest(self, label: str, lines: Iterable[bytes]) -> None:
        """Durable when it returns."""
        self._root.mkdir(parents=True, exist_ok=True)
        path = self._root / f"{label}{MANIFEST_SUFFIX}"
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as out:
            with gzip.GzipFile("", "wb", 6, out, mtime=0) as packed:
                packed.writelines(lines)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)

    async def gather(
        self,
        into: Path,
        labels: Sequence[str],
        header: VolumeHeader,
        capacity_bytes: int,
        since: int,
    ) -> tuple[list[FileSource], int]:
        """Put the files below ``into``; the entries that plan them, and up to where the
        namespace's journal is in them (0 where it is not).

        ``labels`` are the pool's volumes, newest first; ``since`` is the number in the
        journal from which changes are wanted. What one run left in ``into`` is replaced.
        """
        names = await trio.to_thread.run_sync(self._collect, into, labels, capacity_bytes)
        until = await self._namespace_set(into, header, capacity_bytes, since)
        if until:
            names.insert(1, NAMESPACE_NAME)
            if self._has_log(into, header, capacity_bytes):
                names.insert(2, LOG_NAME)
        return [self._entry(into, name, header.created_ns) for name in names], until

    async def _namespace_set(
        self, into: Path, header: VolumeHeader, capacity_bytes: int, since: int
    ) -> int:
        """Written by a process of its own: a full one takes processor for a while."""
        out = into / NAMESPACE_NAME
        words = [str(self._namespace), str(since), header.site, str(header.created_ns), str(out)]
        done = await trio.run_process(
            [sys.executable, "-m", "hsmfs.daemon.namespaceset", *words],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        if done.returncode != 0:
            why = done.stderr.decode(errors="replace").strip()[-WHY_BYTES_MAX:]
        elif out.stat().st_size > capacity_bytes // NAMESPACE_SHARE_OF_DISC:
            why = f"{out.stat().st_size} bytes are too many for discs of {capacity_bytes}"
        else:
            return msgspec.json.decode(done.stdout, type=SetHeader).until
        log.warning("volume goes without namespace changes", volume=header.label, why=why)
        out.unlink(missing_ok=True)
        return 0

    @staticmethod
    def _has_log(into: Path, header: VolumeHeader, capacity_bytes: int) -> bool:
        """Whether entries of the audit log go with the set."""
        out = into / LOG_NAME
        size = out.stat().st_size if out.exists() else 0
        if size > capacity_bytes // NAMESPACE_SHARE_OF_DISC:
            why = f"{size} bytes are too many for discs of {capacity_bytes}"
            log.warning("volume goes without the audit log", volume=header.label, why=why)
            out.unlink()
            return False
        return size > 0

    def _collect(self, into: Path, labels: Sequence[str], capacity_bytes: int) -> list[str]:
        """Names of what was put below ``into``; blocks."""
        shutil.rmtree(into, ignore_errors=True)
        (into / MANIFESTS_DIRECTORY).mkdir(parents=True)
        shutil.copyfile(recover.__file__, into / SCRIPT_NAME)
        names = [SCRIPT_NAME]
        room = capacity_bytes // SHARE_OF_DISC
        for label in labels[: self._previous_max]:
            kept = self._root / f"{label}{MANIFEST_SUFFIX}"
            size = kept.stat().st_size if kept.exists() else 0
            if not size or size > room:
                continue
            room -= size
            names.append(f"{MANIFESTS_DIRECTORY}/{kept.name}")
            shutil.copyfile(kept, into / names[-1])
        return names

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
