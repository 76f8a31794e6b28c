"""``make bench-rebuild``: a system of a million files made anew from 20 volumes, and compared.

A namespace is generated, its files are written to volumes, each with the changes of the
namespace since the one before, and ``hsm rebuild`` makes both stores from the images in a process
of its own, whose processor time and memory are what is measured. Then every name, inode, link and
attribute of the two namespaces is compared.
"""

from __future__ import annotations

import argparse
import gzip
import io
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Final

import msgspec

from hsmfs.daemon.namespaceset import SetHeader, line_of, write_lines
from hsmfs.daemon.ownfiles import MANIFEST_SUFFIX, MANIFESTS_DIRECTORY
from hsmfs.errors import HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import InodeRecord
from hsmfs.store.interface import Reader
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.bench.apart import run_apart
from hsmfs.tools.bench.generate import generate
from hsmfs.tools.bench.hsmfsprocess import HsmfsProcess
from hsmfs.tools.bench.namespacedata import Folder, Shape, folders
from hsmfs.tools.bench.systems import remove_tree
from hsmfs.tools.rebuild.images import opened
from hsmfs.types import ROOT_INODE, SECTOR_BYTES
from hsmfs.volume.layout import FileSource, VolumeHeader, plan_volume
from hsmfs.volume.writer import VolumeWriter

FILES: Final = 1_000_000
VOLUMES: Final = 20
FILE_BYTES: Final = 100
MAP_BYTES: Final = 1 << 40
DISC_BYTES: Final = 1 << 37
SET_NAME: Final = b"namespace.jsonl.gz"
SITE: Final = "bench"
PREPARE_TIMEOUT_S: Final = 3600.0
EXIT_FAILED: Final = 1
COMPARED: Final = (
    "mode",
    "uid",
    "gid",
    "nlink",
    "rdev",
    "size",
    "atime_ns",
    "mtime_ns",
    "ctime_ns",
)
"""Of an inode; birth, version and residency are checked apart or are not of the tree."""
TABLES: Final = b"DLS"
"""Compared key by key: names, links, targets of symbolic links."""


class Figures(msgspec.Struct):
    """What the rebuild took."""

    files: int
    volumes: int
    burn_s: float
    cpu_s: float
    wall_s: float
    peak_bytes: int
    """Largest resident size, with the mapped pages of the stores."""
    compared: int
    """Names, links and inodes that are equal."""


def measure(place: Path, files: int, volumes: int) -> Figures:
    """All of it in an empty directory. HsmError where the rebuilt tree differs."""
    shape = Shape(files, size=FILE_BYTES, now_ns=time.time_ns())
    source = place / "source"
    images = place / "images"
    images.mkdir()
    begun_s = time.monotonic()
    # A process keeps the largest size of the one that started it: so this one stays small.
    run_apart(partial(_prepare, source, shape, volumes, images), PREPARE_TIMEOUT_S)
    burn_s = time.monotonic() - begun_s
    system = HsmfsProcess(place / "system", "native")
    system.configure()
    cpu_s, wall_s, peak_bytes = rebuild(system.config, str(images))
    compared = compare(source, system.dir / "namespace")
    return Figures(files, volumes, burn_s, cpu_s, wall_s, peak_bytes, compared)


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """A store as it is now."""
    store = LmdbStore(path, MAP_BYTES, read_only=True)
    try:
        with store.snapshot() as reader:
            yield reader
    finally:
        store.close()


def _prepare(source: Path, shape: Shape, volumes: int, images: Path) -> None:
    generate(source, MAP_BYTES, shape)
    with reading(source) as reader:
        burn_all(reader, shape, volumes, images)


# -- the volumes ---------------------------------------------------------------------------


def burn_all(
    reader: Reader, shape: Shape, volumes: int, images: Path, previous_max: int = 0
) -> None:
    """Each volume has about as many directories, tells of what came since the last, and
    repeats the manifests of the last ones."""
    everything = list(folders(shape))
    size = -(-len(everything) // volumes)
    manifests: deque[tuple[bytes, bytes]] = deque(maxlen=previous_max)
    for number, start in enumerate(range(0, len(everything), size)):
        part = everything[start : start + size]
        label = f"{SITE}-{number + 1:06d}"
        image = _burn(reader, part, number, label, shape.now_ns + number, images, manifests)
        if previous_max:
            with opened(image) as volume:
                packed = gzip.compress(b"".join(volume.stream_manifest()))
            name = f"{MANIFESTS_DIRECTORY}/{label}{MANIFEST_SUFFIX}"
            manifests.append((name.encode(), packed))


def _burn(
    reader: Reader, part: Sequence[Folder], number: int, label: str, now_ns: int, images: Path,
    manifests: Collection[tuple[bytes, bytes]],
) -> Path:  # fmt: skip
    changes = images / "changes"
    until = part[-1].next_ino
    since = part[0].ino if number else 0
    header = SetHeader(site=SITE, full=number == 0, since=since, until=until, time_ns=now_ns)
    write_lines(changes, header, _lines(reader, part))
    data = {SET_NAME: changes.read_bytes(), **dict(manifests)}
    own = [
        FileSource(path=path, ino=0, kind="own", size=len(data[path]), mode=0o100444)
        for path in data
    ]
    entries = [*own, *_entries(reader, part)]
    volume = VolumeHeader(label=label, site=SITE, pool="main", created_ns=now_ns)
    writer = VolumeWriter(plan_volume(volume, entries, DISC_BYTES // SECTOR_BYTES))
    path = images / f"R{number:05d}.img"
    with path.open("wb") as image:
        for piece in writer.stream(lambda entry: _opened(entry, data)):
            image.write(piece)
    changes.unlink()
    return path


def _opened(entry: FileSource, own: Mapping[bytes, bytes]) -> Any:
    if entry.kind == "own":
        return io.BytesIO(own[entry.path])
    return io.BytesIO(entry.ino.to_bytes(8, "big").ljust(entry.size, b"."))


def _records(reader: Reader, part: Sequence[Folder]) -> Iterator[tuple[bytes, InodeRecord]]:
    """Path and record of each directory and what is in it."""
    view = NamespaceView(reader)
    for folder in part:
        inside = ((folder.name + b"/" + name, ino) for name, ino in folder.entries())
        for path, ino in chain([(folder.name, folder.ino)], inside):
            record = view.inode(ino)
            assert record is not None
            yield path, record


def _lines(reader: Reader, part: Sequence[Folder]) -> Iterator[Any]:
    view = NamespaceView(reader)
    root = view.inode(ROOT_INODE)
    assert root is not None
    yield line_of(reader, view, root)
    for _, record in _records(reader, part):
        yield line_of(reader, view, record)


def _entries(reader: Reader, part: Sequence[Folder]) -> Iterator[FileSource]:
    for path, record in _records(reader, part):
        is_directory = path.count(b"/") == 0
        yield FileSource(
            path=path,
            ino=record.ino,
            data_version=record.data_version,
            size=0 if is_directory else record.size,
            mtime_ns=record.mtime_ns,
            atime_ns=record.atime_ns,
            ctime_ns=record.ctime_ns,
            mode=record.mode,
            uid=record.uid,
            gid=record.gid,
            kind="dir" if is_directory else "file",
        )


# -- the rebuild ---------------------------------------------------------------------------


def rebuild(config: Path, source: str) -> tuple[float, float, int]:
    """Processor seconds, seconds, and largest resident size of ``hsm rebuild``."""
    command = [sys.executable, "-m", "hsmfs.tools.hsm", "--config", str(config)]
    command += ["rebuild", "--from", source, "--json"]
    begun_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    with process.stdout as out:
        answer = out.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise HsmError(f"rebuild: exit status {process.returncode}: {answer[-2000:].decode()}")
    peak_bytes = usage.ru_maxrss * 1024  # Linux counts in KiB
    return usage.ru_utime + usage.ru_stime, time.monotonic() - begun_s, peak_bytes


# -- the comparison ------------------------------------------------------------------------


def compare(source: Path, rebuilt: Path) -> int:
    """How many names, links and inodes are equal; HsmError at the first that is not."""
    with reading(source) as old, reading(rebuilt) as new:
        count = sum(_compare_table(old, new, bytes([table])) for table in TABLES)
        return count + _compare_inodes(old, new)


def _compare_table(old: Reader, new: Reader, table: bytes) -> int:
    stop = bytes([table[0] + 1])
    count = 0
    for one, other in zip_longest(old.scan(table, stop), new.scan(table, stop)):
        if one is None or other is None or _plain(table, one) != _plain(table, other):
            raise HsmError(f"table {table!r}: found {other!r}, expected {one!r}")
        count += 1
    return count


def _plain(table: bytes, item: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Without the cookie, which is counted anew."""
    return (item[0], item[1][:12]) if table == b"D" else item


def _compare_inodes(old: Reader, new: Reader) -> int:
    count = 0
    for one, other in zip_longest(old.scan(b"I", b"J"), new.scan(b"I", b"J")):
        facts = [None if item is None else _facts(item[1]) for item in (one, other)]
        if facts[0] != facts[1]:
            raise HsmError(f"inode: found {facts[1]}, expected {facts[0]}")
        count += 1
    return count


def _facts(data: bytes) -> tuple[int, ...]:
    record = InodeRecord.unpack(data)
    return (record.ino, *(getattr(record, name) for name in COMPARED))


# -- the program ---------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, print."""
    options = _options(argv)
    place = Path(tempfile.mkdtemp(prefix="hsmfs-bench-rebuild-", dir=options.dir))
    try:
        found = _measured(place, options)
    except (HsmError, OSError) as error:
        print(f"bench-rebuild: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        remove_tree(place)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(found) + b"\n")
    discs = f" on {options.library:,} discs of a library" if options.library else ""
    print(
        f"{found.files:,} files on {found.volumes:,} volumes{discs}, made in {found.burn_s:.0f} s: "
        f"rebuilt in {found.cpu_s:.1f} s of processor, {found.wall_s:.1f} s, "
        f"{found.peak_bytes / 1e6:.0f} MB; {found.compared:,} names, links and inodes are equal"
    )
    return 0


def _measured(place: Path, options: argparse.Namespace) -> Figures:
    if not options.library:
        return measure(place, options.files, options.volumes)
    from hsmfs.tools.bench import rebuildlibrary  # it builds on this module

    return rebuildlibrary.measure(place, options.library)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hsmfs.tools.bench.rebuildscale",
        description=(__doc__ or "").split("\n\n")[0],
    )
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--volumes", type=int, default=VOLUMES)
    parser.add_argument("--library", type=int, metavar="DISCS", help="from a library of so many")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="work there")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
