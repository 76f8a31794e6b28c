"""Images of volumes for tests, with own files, and a stopped system to rebuild into."""

from __future__ import annotations

import gzip
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from hsmfs.config import Config
from hsmfs.configload import load
from hsmfs.daemon.namespaceset import SetHeader, SetLine
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.sandbox import CONFIG_TEXT
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.directfile import write_stream
from hsmfs.volume.layout import FileSource, VolumeHeader, plan_volume
from hsmfs.volume.source import ParityInfo
from hsmfs.volume.writer import VolumeWriter

SITE = "sandbox"


def content(source: FileSource) -> bytes:
    """Bytes that follow from inode and version."""
    return random.Random(source.ino * 1000 + source.data_version).randbytes(source.size)


def burn(
    image: Path,
    label: str,
    entries: Sequence[FileSource],
    own: Mapping[bytes, bytes] | None = None,
    created_ns: int = 1,
    site: str = SITE,
    capacity_bytes: int = 1 << 30,
    udf: str = "2.50",
    parity: ParityInfo | None = None,
) -> VolumeWriter:
    """An image with these entries; ``own`` are files below ``.hsm``."""
    header = VolumeHeader(
        label=label, site=site, pool="main", created_ns=created_ns, copies=1, udf=udf, parity=parity
    )
    own = own or {}
    mine = [
        FileSource(path=path, ino=0, kind="own", size=len(data), mode=0o100444)
        for path, data in own.items()
    ]
    layout = plan_volume(header, [*mine, *entries], capacity_bytes // SECTOR_BYTES)
    writer = VolumeWriter(layout)

    def opened(source: FileSource) -> io.BytesIO:
        return io.BytesIO(own[source.path] if source.kind == "own" else content(source))

    with image.open("wb") as out:
        write_stream(out.fileno(), writer.stream(opened))
    return writer


def changes(since: int, until: int, *lines: SetLine) -> dict[bytes, bytes]:
    """A set of namespace changes as an own file, a full one where ``since`` is 0."""
    header = SetHeader(site=SITE, full=since == 0, since=since, until=until, time_ns=until)
    packed = b"".join(msgspec.json.encode(line) + b"\n" for line in (header, *lines))
    return {b"namespace.jsonl.gz": gzip.compress(packed)}


def stopped_system(root: Path) -> Config:
    """Configuration and directories of a system without stores."""
    for folder in ("mnt", "cache", "state", "run", "library"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "hsmfs.toml").write_text(
        CONFIG_TEXT.format(
            dir=root,
            reserve_bytes=1,
            session="native",
            allow_other="true",
            magazine_slots=12,
            speed="instant",
        )
    )
    return load(root / "hsmfs.toml")


def paths_of(config: Config) -> dict[bytes, int]:
    """Paths of a namespace with their inodes."""
    store = LmdbStore(Path(config.namespace.path), config.namespace.map_bytes, read_only=True)
    try:
        with store.snapshot() as reader:
            return {path: one.ino for path, one in NamespaceView(reader).walk(1, b"")}
    finally:
        store.close()
