"""One volume, all regions that may be damaged, and what readers make of it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from hsmfs.daemon.namespaceset import SetLine
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import recover
from hsmfs.volume.manifest import MANIFEST_PATH
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import FileSource
from support.discreaders import DISCS_MAX, linux_all, udfclient, unreadable
from support.udfread import LIBRARY
from support.volumes import burn, changes, content

LABEL = "sandbox-000001"
FAULTS = ("zeroed", "flipped", "unreadable")
MOST = 1024
"""Sectors of the greatest region: 2 MiB."""
TAIL = 512
FLIPPED_EVERY = 61
"""Bytes."""
MTIME_NS = 1_600_000_000_000_000_000


def entries() -> list[FileSource]:
    """Four directories with small files, large ones between them; data order is this one."""
    found: list[FileSource] = []

    def file(path: bytes, size: int) -> None:
        ino, mtime_ns = 20 + len(found), MTIME_NS + len(found) * 1_000_000
        facts = {"mode": 0o100640, "uid": 12, "mtime_ns": mtime_ns, "data_version": 1}
        found.append(FileSource(path=path, ino=ino, size=size, **facts))  # type: ignore[arg-type]

    for folder in (b"a", b"b", b"b/c", b"d"):
        found.append(FileSource(path=folder, ino=20 + len(found), kind="dir", mode=0o40750))
        for number in range(8):
            file(b"%s/file%d.dcm" % (folder, number), 700 * number + 1)
        file(b"%s/large" % folder, 900_000)
    return found


def lines() -> list[SetLine]:
    """The namespace as it was when the volume was burned."""
    inodes = {entry.path: entry.ino for entry in entries()} | {b"": 1}
    found = [SetLine(ino=1, mode=0o40755)]
    for one in entries():
        parent, _, name = one.path.rpartition(b"/")
        names: list[list[int | str]] = [[inodes[parent], name.decode()]]
        facts = {"mode": one.mode, "uid": one.uid, "size": one.size, "mtime_ns": one.mtime_ns}
        line = SetLine(ino=one.ino, names=names, data_version=one.data_version, **facts)  # type: ignore[arg-type]
        found.append(line)
    return found


Digests = dict[str, str]
"""SHA-256 of files by path."""


@dataclass(frozen=True, slots=True)
class Region:
    """Some sectors, and what is in them."""

    name: str
    sectors: range
    hit: frozenset[str] = frozenset()
    """Files whose data is there."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A whole image and what is where."""

    image: bytes
    expected: Digests
    regions: list[Region]

    def damaged(self, region: Region, fault: str) -> bytes:
        """The image with a fault; unreadable is up to who reads it."""
        start, stop = region.sectors.start * SECTOR_BYTES, region.sectors.stop * SECTOR_BYTES
        data = bytearray(self.image)
        if fault == "zeroed":
            data[start:stop] = bytes(stop - start)
        elif fault == "flipped":
            for at in range(start, stop, FLIPPED_EVERY):
                data[at] ^= 1 << at % 8
        return bytes(data)


def made(folder: Path) -> Volume:
    """The volume; 6 MB."""
    path = folder / "volume.img"
    own = {b"recover.py": Path(recover.__file__).read_bytes(), **changes(0, 10, *lines())}
    burn(path, LABEL, entries(), own=own, created_ns=1_700_000_000_000_000_000)
    image = path.read_bytes()
    files = [entry for entry in entries() if entry.has_data]
    expected = {f.path.decode(): hashlib.sha256(content(f)).hexdigest() for f in files}
    return Volume(image, expected, list(_regions(image)))


def reader_of(image: bytes) -> VolumeReader:
    def read(sector: int, sectors: int) -> bytes:
        return image[sector * SECTOR_BYTES : (sector + sectors) * SECTOR_BYTES]

    return VolumeReader(read, len(image) // SECTOR_BYTES)


def _regions(image: bytes) -> Iterator[Region]:
    total = len(image) // SECTOR_BYTES
    reserve = total - TAIL
    yield Region("volume recognition", range(16, 19))
    names = ("primary", "implementation use", "partition", "logical volume", "unallocated space")
    for sequence, first in (("main", 32), ("reserve", reserve)):
        for number, name in enumerate((*names, "terminating")):
            at = first + number
            yield Region(f"{sequence} sequence: {name} descriptor", range(at, at + 1))
        yield Region(f"{sequence} sequence, whole", range(first, first + 16))
    yield Region("integrity descriptor", range(64, 66))
    yield Region("anchor at 256", range(256, 257))
    yield Region("anchor at N - 257", range(total - 257, total - 256))
    yield Region("anchor at N - 1", range(total - 1, total))
    yield Region("metadata file's entry", range(288, 289))
    yield Region("metadata mirror's entry", range(reserve - 32, reserve - 31))
    yield from _in_metadata(image)
    yield from _in_data(image)
    yield _with_hits("first 2 MiB", range(MOST), image)
    yield _with_hits("last 2 MiB", range(total - MOST, total), image)


def _in_metadata(image: bytes) -> Iterator[Region]:
    walked = {one.path: one for one in reader_of(image).walk()}
    starts = [at for at in range(320, len(image) // SECTOR_BYTES) if _is_file_set(image, at)]
    main, mirror = starts
    end = max(one.block for one in walked.values()) + 1
    yield Region("metadata: file set", range(main, main + 1))
    yield Region("metadata: root's entry", range(main + 2, main + 3))
    yield Region("metadata: root's names", range(main + 3, main + 4))
    folder, file = main + walked["b"].block, main + walked["b/file3.dcm"].block
    yield Region("metadata: a directory's entry", range(folder, folder + 1))
    yield Region("metadata: a directory's names", range(folder + 1, folder + 2))
    yield Region("metadata: a file's entry", range(file, file + 1))
    yield Region("metadata, first half", range(main, main + end // 2))
    yield Region("metadata, whole", range(main, main + end))
    yield Region("metadata mirror, first half", range(mirror, mirror + end // 2))
    yield Region("metadata mirror, whole", range(mirror, mirror + end))


def _is_file_set(image: bytes, sector: int) -> bool:
    return image.startswith(b"\0\1\3\0", sector * SECTOR_BYTES)


def _in_data(image: bytes) -> Iterator[Region]:
    walked = {one.path: one for one in reader_of(image).walk()}

    def of(path: str) -> range:
        sector = walked[path].sector
        return range(sector, sector + -(-walked[path].size // SECTOR_BYTES))

    yield Region("README", of(".hsm/README.txt"))
    yield Region(
        "own files", range(of(".hsm/recover.py").start, of(".hsm/namespace.jsonl.gz").stop)
    )
    yield _with_hits("one file's data", of("b/file3.dcm"), image)
    first = of("b/large").start + 5
    yield _with_hits("data, 2 MiB", range(first, first + MOST), image)
    manifest = of(MANIFEST_PATH.removeprefix("/"))
    yield Region("manifest: first line", range(manifest.start, manifest.start + 1))
    middle = manifest.start + len(manifest) // 2
    yield Region("manifest: a sector in the middle", range(middle, middle + 1))
    yield Region("manifest: last line", range(manifest.stop - 1, manifest.stop))
    yield Region("manifest, whole", manifest)


def _with_hits(name: str, sectors: range, image: bytes) -> Region:
    hit = set()
    for one in reader_of(image).walk():
        end = one.sector + -(-one.size // SECTOR_BYTES)
        if one.size and one.sector < sectors.stop and end > sectors.start:
            hit.add(one.path)
    return Region(name, sectors, frozenset(hit))


# -- our programs on a damaged image -----------------------------------------------------------


@contextmanager
def bad_sectors(image: Path, sectors: range) -> Iterator[None]:
    """In this process these sectors cannot be read, as of a disc in a drive."""
    facts, pread = image.stat(), os.pread
    start, stop = sectors.start * SECTOR_BYTES, sectors.stop * SECTOR_BYTES

    def good(descriptor: int, size: int, at: int) -> int:
        if not os.path.samestat(os.fstat(descriptor), facts) or at >= stop or at + size <= start:
            return size
        if at >= start:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return start - at

    def bad_pread(descriptor: int, size: int, at: int) -> bytes:
        return pread(descriptor, good(descriptor, size, at), at)

    class File:
        """An unbuffered file of recover.py."""

        def __init__(self, path: str, *_: object, **__: object) -> None:
            self.file = open(path, "rb", buffering=0)  # noqa: SIM115

        def seek(self, at: int, whence: int = 0) -> int:
            return self.file.seek(at, whence)

        def read(self, size: int) -> bytes:
            return self.file.read(good(self.file.fileno(), size, self.file.tell())) or b""

        def close(self) -> None:
            self.file.close()

    def bad_open(path: str | int, mode: str = "r", **more: int) -> object:
        is_it = isinstance(path, str) and os.path.samefile(path, image)
        return File(str(path)) if is_it else open(path, mode, **more)

    with (
        patch.object(os, "pread", bad_pread),
        patch.object(recover, "open", bad_open, create=True),
    ):
        yield


def files_below(folder: Path) -> Digests:
    """Regular files."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


# -- programs of others ---------------------------------------------------------------------------


def seven_zip(image: Path, work: Path, bad: Mapping[Path, range]) -> Digests:
    """What 7-Zip extracts."""
    out = work / "7z"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    environment = {**os.environ, **unreadable(bad, work)}
    command = ["7z", "x", "-y", f"-o{out}", str(image)]
    subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment)
    return files_below(out)


def libudfread(
    image: Path, work: Path, bad: Mapping[Path, range], timeout_s: float = 60
) -> Digests:
    """What libudfread shows, in a process of its own."""
    program = Path(__file__).with_name("udfread.py")
    done = subprocess.run(
        [sys.executable, str(program), str(image)],
        capture_output=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **unreadable(bad, work)},
    )
    found = json.loads(done.stdout) if done.returncode == 0 else {}
    return {os.fsdecode(bytes.fromhex(path)): digest for path, digest in found.items()}


def udfclient_copies(image: Path, work: Path, bad: Mapping[Path, range]) -> Digests | None:
    """What udfclient copies; None where it does not end."""
    out = work / "udfclient"
    shutil.rmtree(out, ignore_errors=True)
    try:
        udfclient(image, out, unreadable(bad, work), HANG_S)
    except ValueError:
        return {}  # it shows no root
    except subprocess.TimeoutExpired:
        return None
    return files_below(out / "disc")


def kernel_shows(images: Sequence[Path], work: Path, bad: Mapping[Path, range]) -> list[Digests]:
    """What Linux's udf driver shows of each."""
    found = linux_all(images, work, bad)
    return [
        {os.fsdecode(path): facts[6] for path, facts in one["entries"].items()} for one in found
    ]


# -- the table of docs/disc-format.md -------------------------------------------------------------

ALL, REST, NOTHING, HANGS = "all", "the rest", "nothing", "hangs"
HANG_S = 20.0
Program = Callable[[Path, Path, Mapping[Path, range]], Digests | None]
PROGRAMS: dict[str, Program] = {
    "libudfread": libudfread,
    "7-Zip": seven_zip,
    "udfclient": udfclient_copies,
}


def verdict(volume: Volume, region: Region, found: Digests | None) -> str:
    """How much of the files' data was read as it was burned."""
    if found is None:
        return HANGS
    good = {path for path, digest in volume.expected.items() if found.get(path) == digest}
    if len(good) == len(volume.expected):
        return ALL
    if good and good >= volume.expected.keys() - region.hit:
        return REST
    return f"{len(good)} of {len(volume.expected)}" if good else NOTHING


def cell(verdicts: Mapping[str, str]) -> str:
    """Verdicts by fault in one cell: faults with one verdict go together."""
    groups: dict[str, list[str]] = {}
    for fault, one in verdicts.items():
        groups.setdefault(one, []).append(fault)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{', '.join(faults)}: {one}" for one, faults in groups.items())


def column(volume: Volume, program: Program, work: Path) -> list[str]:
    """A program's cell of each region."""
    cells, image = [], work / "damaged.img"
    for region in volume.regions:
        verdicts = {}
        for fault in FAULTS:
            image.write_bytes(volume.damaged(region, fault))
            bad = {image: region.sectors} if fault == "unreadable" else {}
            verdicts[fault] = verdict(volume, region, program(image, work, bad))
        cells.append(cell(verdicts))
    return cells


def kernel_column(volume: Volume, work: Path) -> list[str]:
    """The same of Linux, which reads several images before it ends."""
    verdicts: list[dict[str, str]] = [{} for _ in volume.regions]
    places = [(number, fault) for number in range(len(volume.regions)) for fault in FAULTS]
    for first in range(0, len(places), DISCS_MAX):
        images, bad = [], {}
        for number, fault in places[first : first + DISCS_MAX]:
            images.append(work / f"{len(images)}.img")
            region = volume.regions[number]
            images[-1].write_bytes(volume.damaged(region, fault))
            if fault == "unreadable":
                bad[images[-1]] = region.sectors
        found = kernel_shows(images, work, bad)
        for (number, fault), one in zip(places[first:], found, strict=False):
            verdicts[number][fault] = verdict(volume, volume.regions[number], one)
    return [cell(one) for one in verdicts]


def is_there(program: str) -> bool:
    """Whether it is installed."""
    return {
        "libudfread": LIBRARY is not None,
        "7-Zip": shutil.which("7z") is not None,
        "udfclient": shutil.which("udfclient") is not None,
    }[program]
