"""What is measured of discs; each runs in a process of its own and returns plain figures."""

from __future__ import annotations

import hashlib
import os
import queue
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xxhash

from hsmfs.changer.burn import Burn
from hsmfs.changer.drive import Drive
from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.changer.emulated.disc import DiscFile
from hsmfs.changer.library import Changer
from hsmfs.clock import SystemClock
from hsmfs.daemon.burnjob import CHUNK_BYTES_ABOUT, _Lane
from hsmfs.daemon.sources import ClaimedSource
from hsmfs.tools.bench.apart import WorkFailed
from hsmfs.tools.bench.disccorpus import MANY_BYTES, Corpus, ManyFiles
from hsmfs.tools.bench.processcpu import memory_bytes
from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES
from hsmfs.volume.directfile import write_stream
from hsmfs.volume.hashes import HashThreads
from hsmfs.volume.imagefile import write_known
from hsmfs.volume.source import FileSource
from hsmfs.volume.writer import VolumeWriter

LANE_BYTES: Final = 64 * 1024 * 1024
"""The default of ``[burn] buffer_bytes``."""
FIRST_SLOT: Final = 0x0400
FIRST_DRIVE: Final = 0x0100
HASHED_BYTES: Final = 64 * 1024 * 1024


Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Timed:
    """Seconds by the clock and of the processor, with children."""

    seconds: float
    cpu_s: float


def timed(work: Callable[[], object]) -> Timed:
    """Run it once."""
    before_s, start = _cpu_s(), time.perf_counter()
    work()
    return Timed(time.perf_counter() - start, _cpu_s() - before_s)


def _cpu_s() -> float:
    """User and system time of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def source_of(opened: Callable[[FileSource], int]) -> Callable[[FileSource], ClaimedSource]:
    """Sources as a burn has them."""
    return lambda entry: ClaimedSource(opened(entry), "/none", entry.part, entry.size)


# -- writing, hashing ----------------------------------------------------------------------


def hashed(corpus: Corpus) -> Figures:
    """Cache files to the stream of a volume with all hashes, as drives are handed it."""

    def run() -> None:
        writer = VolumeWriter(corpus.layout())
        for _ in writer.stream(source_of(corpus.opened)):
            pass
        assert not any(result.void for result in writer.results)

    return _rate(timed(run), corpus)


def tar_openssl(corpus: Corpus) -> Figures:
    """The same files through tar into one SHA-256."""
    _needs("tar", "openssl")
    command = f"tar cf - -C '{corpus.cache}' . | openssl dgst -sha256 >/dev/null"
    return _rate(timed(lambda: subprocess.run(["sh", "-c", command], check=True)), corpus)


def hashed_to_file(corpus: Corpus, into: Path) -> Figures:
    """With all hashes into an image file."""

    def run() -> None:
        writer = VolumeWriter(corpus.layout())
        with (into / "image").open("wb") as out:
            write_stream(out.fileno(), writer.stream(source_of(corpus.opened)))

    return _into(into, run, corpus)


def only_written(corpus: Corpus, into: Path) -> Figures:
    """Into an image file, with hashes that are known from an earlier pass."""
    writer = VolumeWriter(corpus.layout())
    for _ in writer.stream(source_of(corpus.opened)):
        pass

    def run() -> None:
        with (into / "image").open("w+b") as out:
            write_known(out.fileno(), corpus.layout(), writer.results, corpus.opened)

    return _into(into, run, corpus, lambda: _proved(into / "image", writer.image_xxh3))


def _proved(image: Path, xxh3: str) -> None:
    proof = xxhash.xxh3_128()
    with image.open("rb") as file:
        while piece := file.read(1 << 20):
            proof.update(piece)
    assert proof.hexdigest() == xxh3, "the image differs from the stream that was hashed"


def genisoimage(corpus: Corpus, into: Path) -> Figures:
    """The same files by Debian's program for UDF."""
    _needs("genisoimage")
    command = ["genisoimage", "-quiet", "-udf", "-o", str(into / "image"), str(corpus.cache)]

    def run() -> None:
        subprocess.run(command, check=True, capture_output=True)

    return _into(into, run, corpus)


def _into(
    into: Path, run: Callable[[], None], corpus: Corpus, check: Callable[[], None] | None = None
) -> Figures:
    """Each begins with no dirty pages and no file."""
    os.sync()
    try:
        taken = timed(run)
        assert (into / "image").stat().st_size > corpus.bytes
        if check is not None:
            check()
    finally:
        (into / "image").unlink(missing_ok=True)
    return _rate(taken, corpus)


def _rate(taken: Timed, corpus: Corpus) -> Figures:
    return {
        "mb_s": corpus.bytes / 1e6 / taken.seconds,
        "cpu_s_per_gb": taken.cpu_s / corpus.bytes * 1e9,
    }


def _needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise WorkFailed(f"{program} is not installed; as root: apt-get install {program}")


# -- copies ---------------------------------------------------------------------------------


def burned(corpus: Corpus, place: Path, copies: int, *, keeps: bool) -> Figures:
    """One stream to so many emulated drives by a burn's lanes.

    Their discs are files; or they ``keep`` nothing, as a drive takes data by DMA: what the
    kernel does with pages of a file is no part of a burn.
    """
    if not keeps:
        DiscFile.write = _taken  # type: ignore[method-assign,assignment]
    layout = corpus.layout()
    os.sync()
    library = EmulatedLibrary.create(
        place / f"library{copies}",
        drives=copies,
        slots=copies,
        magazine_slots=copies,
        disc_bytes=(layout.total_sectors + 64) // 32 * 32 * SECTOR_BYTES,
        clock=SystemClock(),
    )
    figures: Figures = {}
    try:
        burns = [_burn(library, number, layout.total_sectors) for number in range(copies)]
        counts: dict[str, int] = {"hashed": 0}
        writer = VolumeWriter(layout)
        before = _read_bytes()
        with _CountedHashes(counts):
            taken = timed(lambda: _feed(writer, burns, corpus))
        figures = _rate(taken, corpus)
        figures["read_per_byte"] = (_read_bytes() - before) / corpus.bytes
        figures["hashed_per_byte"] = counts["hashed"] / (layout.total_sectors * SECTOR_BYTES)
        assert all(burn.written_bytes >= layout.total_sectors * SECTOR_BYTES for burn in burns)
    finally:
        shutil.rmtree(place / f"library{copies}")
    return figures


def _taken(disc: DiscFile, lba: int, data: bytes | memoryview) -> None:
    """In place of writing; this process measures nothing else."""
    assert lba == disc.written_sectors
    disc.written_sectors += len(data) // SECTOR_BYTES


def _burn(library: EmulatedLibrary, number: int, sectors: int) -> Burn:
    Changer(library.changer_transport()).move(FIRST_SLOT + number, FIRST_DRIVE + number)
    drive = Drive(library.drive_transport(number), lambda _seconds: None)
    drive.ready()
    return Burn(drive, sectors)


def _feed(writer: VolumeWriter, burns: list[Burn], corpus: Corpus) -> None:
    """What ``BurnSession`` does with its lanes."""
    nobody: Any = None
    size = LANE_BYTES // CHUNK_BYTES_ABOUT
    lanes = [_Lane(nobody, nobody, queue.Queue(maxsize=size)) for _ in burns]
    threads = [
        threading.Thread(target=lane.drain_into, args=(burn,))
        for lane, burn in zip(lanes, burns, strict=True)
    ]
    for thread in threads:
        thread.start()
    for chunk in writer.stream(source_of(corpus.opened)):
        for lane in lanes:
            lane.put(chunk)
    for lane in lanes:
        lane.put(None)
    for thread in threads:
        thread.join()


def _read_bytes() -> int:
    """What this process has read by system calls."""
    fields = Path("/proc/self/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


class _CountedHashes:
    """Counts the bytes of chunks that are given to the hashes' threads."""

    def __init__(self, counts: dict[str, int]) -> None:
        self._counts = counts
        self._put = HashThreads.put

    def __enter__(self) -> None:
        counts, put = self._counts, self._put

        def counted(threads: HashThreads, chunk: bytes, segments: Any) -> None:
            counts["hashed"] += len(chunk)
            put(threads, chunk, segments)

        HashThreads.put = counted  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        HashThreads.put = self._put  # type: ignore[method-assign]


# -- very many files --------------------------------------------------------------------------


def many(files: ManyFiles) -> Figures:
    """Memory and processor of planning and writing, with the manifest."""
    before = memory_bytes(os.getpid())["VmRSS"]
    peak = _Peak()
    found: list[VolumeWriter] = []

    def run() -> None:
        writer = VolumeWriter(files.layout(), files.place)
        for _ in writer.stream(source_of(files.opened)):
            pass
        found.append(writer)

    with peak:
        taken = timed(run)
    assert len(found[0].results) == files.count
    hashing_s = _hashing_cpu_s(files.count * MANY_BYTES, MANY_BYTES)
    hashing_s += _image_cpu_s(found[0])
    return {
        "memory_mb": (peak.bytes - before) / 1e6,
        "cpu_us_per_file": (taken.cpu_s - hashing_s) / files.count * 1e6,
        "hashing_us_per_file": hashing_s / files.count * 1e6,
    }


class _Peak:
    """The largest resident size while it runs, looked at 20 times a second."""

    STEP_S: Final = 0.05

    def __init__(self) -> None:
        self.bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._end.wait(self.STEP_S):
            self._look()

    def _look(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.bytes = max(self.bytes, pages * os.sysconf("SC_PAGE_SIZE"))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._look()
        self._end.set()
        self._thread.join()


def _hashing_cpu_s(total_bytes: int, file_bytes: int) -> float:
    """Processor that the hashes of so many bytes take, file by file, by the same libraries."""
    piece = os.urandom(min(file_bytes, CHUNK_BYTES))
    times = max(1, min(total_bytes, HASHED_BYTES) // len(piece))

    def run() -> None:
        for _ in range(times):
            hashlib.sha256(piece).digest()
            xxhash.xxh3_128_digest(piece)
            xxhash.xxh3_64_intdigest(piece)

    return timed(run).cpu_s * total_bytes / (times * len(piece))


def _image_cpu_s(writer: VolumeWriter) -> float:
    """Processor of the hash of the whole image."""
    total_bytes = writer.layout.total_sectors * SECTOR_BYTES
    piece, proof = os.urandom(1 << 20), xxhash.xxh3_128()
    times = HASHED_BYTES // len(piece)

    def run() -> None:
        for _ in range(times):
            proof.update(piece)

    return timed(run).cpu_s * total_bytes / (times * len(piece))
