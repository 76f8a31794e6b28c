"""``make bench-scale``: what operations, memory and start-up cost with many files."""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from hsmfs.errors import HsmError
from hsmfs.tools.bench import machine, scaleworks
from hsmfs.tools.bench.apart import run_apart
from hsmfs.tools.bench.generate import generate
from hsmfs.tools.bench.hsmfsprocess import HsmfsProcess
from hsmfs.tools.bench.measure import can_drop_caches, drop_caches
from hsmfs.tools.bench.namespacedata import Shape
from hsmfs.tools.bench.processcpu import memory_bytes
from hsmfs.tools.bench.scaleworks import Timing
from hsmfs.tools.bench.sizes import BLOCK_BYTES
from hsmfs.tools.bench.systems import remove_tree
from hsmfs.tools.output import table

SIZES: Final = (100_000, 10_000_000)
COUNT: Final = 5_000
"""Operations of each sort in a round."""
ROUNDS: Final = 3
COLD_PART: Final = scaleworks.PARTS - 1
WARM_PARTS: Final = range(2 * ROUNDS + 2, COLD_PART)
"""Looked up before the counted rounds: pages of the store that a process meets
for the first time cost it a fault each, which a long-running one has behind it."""
STARTS: Final = 3
KILL_AFTER_S: Final = 1.5
LARGE_SHARE: Final = 10
"""One of so many files is in the large directory."""
FILES_MIN: Final = 2000
MAP_BYTES: Final = 1 << 40
WORK_TIMEOUT_S: Final = 600.0
EXIT_FAILED: Final = 1


class Figures(msgspec.Struct):
    """All that is measured on one namespace; memory in bytes by name."""

    files: int
    large_files: int
    generate_s: float = 0.0
    namespace_bytes: int = 0
    start_cold_s: float = 0.0
    start_s: float = 0.0
    start_after_kill_s: float = 0.0
    stop_s: float = 0.0
    lookup_cold: list[Timing] = []
    """With nothing of the store in the page cache."""
    lookup: list[Timing] = []
    create: list[Timing] = []
    unlink: list[Timing] = []
    list_large_s: float = 0.0
    memory_at_start: dict[str, int] = {}
    memory_before_list: dict[str, int] = {}
    memory_after_list: dict[str, int] = {}


class Scale:
    """The measurements on one namespace in one directory."""

    def __init__(self, directory: Path, session: str, files: int) -> None:
        self.shape = Shape(files, large=files // LARGE_SHARE, now_ns=time.time_ns())
        self.figures = Figures(files, self.shape.large)
        self.hsmfs = HsmfsProcess(directory, session)

    def generate(self) -> None:
        """The namespace."""
        self.hsmfs.configure()
        begun_s = time.monotonic()
        path = self.hsmfs.dir / "namespace"
        generate(path, MAP_BYTES, self.shape)
        self.figures.generate_s = time.monotonic() - begun_s
        self.figures.namespace_bytes = (path / "data.mdb").stat().st_size

    def start(self) -> None:
        """Start a few times; it runs afterwards."""
        if can_drop_caches():
            drop_caches()
        self.figures.start_cold_s = self.hsmfs.start()
        taken = []
        for _ in range(STARTS):
            self.hsmfs.stop()
            taken.append(self.hsmfs.start())
        self.figures.start_s = statistics.median(taken)
        self.figures.memory_at_start = memory_bytes(self.hsmfs.pid)

    def cold(self) -> None:
        """Lookups that the disk must answer; afterwards it need not."""
        if can_drop_caches():
            drop_caches()
            self.figures.lookup_cold.append(self._timed(scaleworks.lookups, COLD_PART))
        self._read_store()

    def _read_store(self) -> None:
        """All of it into the page cache: what follows is the cost of the programs."""
        with (self.hsmfs.dir / "namespace" / "data.mdb").open("rb", buffering=0) as store:
            while store.read(BLOCK_BYTES):
                pass

    def operations(self, number: int) -> None:
        """One round; the first warms up and does not count."""
        if not number:
            for part in WARM_PARTS:
                self._timed(scaleworks.lookups, part)
        lookup = self._timed(scaleworks.lookups, 2 * number)
        create = self._timed(scaleworks.creates, number)
        unlink = self._timed(scaleworks.unlinks, 2 * number + 1)
        if number:
            self.figures.lookup.append(lookup)
            self.figures.create.append(create)
            self.figures.unlink.append(unlink)

    def _timed(self, work: Callable[[str, Shape, int, int], Timing], part: int) -> Timing:
        task = partial(work, str(self.hsmfs.mount), self.shape, COUNT, part)
        return msgspec.convert(run_apart(task, WORK_TIMEOUT_S), Timing)

    def listing(self) -> None:
        """The large directory, and what it does to memory."""
        self.figures.memory_before_list = memory_bytes(self.hsmfs.pid)
        work = partial(scaleworks.list_large, str(self.hsmfs.mount), self.shape)
        self.figures.list_large_s = run_apart(work, WORK_TIMEOUT_S)
        self.figures.memory_after_list = memory_bytes(self.hsmfs.pid)

    def stop(self) -> None:
        """The process and its mount are gone."""
        self.figures.stop_s = self.hsmfs.stop()

    def kills(self) -> None:
        """Starts after a kill -9 in the midst of creates."""
        taken = []
        for number in range(STARTS):
            load = partial(
                scaleworks.create_and_kill,
                str(self.hsmfs.mount),
                self.shape,
                f"kill{number}",
                self.hsmfs.pid,
                KILL_AFTER_S,
            )
            if not run_apart(load, WORK_TIMEOUT_S):
                raise HsmError("kill: no file was made before it")
            self.hsmfs.kill()
            taken.append(self.hsmfs.start())
        self.figures.start_after_kill_s = statistics.median(taken)


def measure(systems: Sequence[Scale]) -> None:
    """All sizes at once, so that their operations take turns."""
    for system in systems:
        system.generate()
        print(f"{system.shape.files:,} files generated", file=sys.stderr, flush=True)
    for system in systems:
        system.start()
        system.cold()
    for number in range(ROUNDS + 1):
        for system in systems:
            system.operations(number)
    for system in systems:
        system.listing()
        system.kills()


def rows(measured: Sequence[Figures]) -> list[list[str]]:
    """The table: one column for each size, then the last over the first."""
    lines: list[tuple[str, str, Callable[[Figures], float | None]]] = [
        ("lookup", "µs", lambda f: _us(f.lookup)),
        ("lookup, disk cold", "µs", lambda f: _us(f.lookup_cold)),
        ("create", "µs", lambda f: _us(f.create)),
        ("unlink", "µs", lambda f: _us(f.unlink)),
        ("list the large directory", "s", lambda f: f.list_large_s),
        ("its entries", "", lambda f: f.large_files),
        ("start", "s", lambda f: f.start_s),
        ("start, disk cold", "s", lambda f: f.start_cold_s),
        ("start after kill -9", "s", lambda f: f.start_after_kill_s),
        ("stop", "s", lambda f: f.stop_s),
        ("memory at start", "MB", lambda f: _mb(f.memory_at_start, "VmRSS")),
        ("memory in use", "MB", lambda f: _mb(f.memory_after_list, "VmRSS")),
        ("  shared pages once", "MB", lambda f: _mb(f.memory_after_list, "Pss")),
        ("  without mapped store pages", "MB", lambda f: _mb(f.memory_after_list, "RssAnon")),
        ("  before the listing", "MB", lambda f: _mb(f.memory_before_list, "RssAnon")),
        ("  peak", "MB", lambda f: _mb(f.memory_after_list, "VmHWM")),
        ("namespace", "MB", lambda f: f.namespace_bytes / 1e6),
        ("generated in", "s", lambda f: f.generate_s),
    ]
    return [[what, unit, *_cells([get(one) for one in measured])] for what, unit, get in lines]


def _us(timings: list[Timing]) -> float | None:
    return statistics.median(one.median_us for one in timings) if timings else None


def _mb(memory: dict[str, int], key: str) -> float:
    return memory.get(key, 0) / 1e6


def _cells(values: list[float | None]) -> list[str]:
    shown = ["-" if value is None else f"{value:,.4g}" for value in values]
    first, last = values[0], values[-1]
    return [*shown, f"{last / first:.2f}" if first and last else "-"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every size, print, write JSON."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_FAILED))
    options.dir.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="hsmfs-scale-", dir=options.dir))
    systems = [
        Scale(place / str(n), options.session, files) for n, files in enumerate(options.sizes)
    ]
    try:
        measure(systems)
    except (HsmError, OSError) as error:
        print(f"bench-scale: {options.session}: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        for system in systems:
            system.stop()
        remove_tree(place)
    measured = [system.figures for system in systems]
    heads = [f"{one.files:,} files" for one in measured]
    screen = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    screen.print(table(["", "unit", *heads, "ratio"], rows(measured), [*heads, "ratio"]))
    if options.json:
        _write(options, measured)
    return 0


def _write(options: argparse.Namespace, measured: list[Figures]) -> None:
    found = {
        "format": 1,
        "session": options.session,
        "machine": machine.facts(options.dir),
        "versions": machine.versions(),
        "caches_dropped": can_drop_caches(),
        "sizes": measured,
    }
    text = msgspec.json.format(msgspec.json.encode(found), indent=2)
    options.json.write_bytes(text + b"\n")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hsmfs.tools.bench.scale", description=__doc__)
    parser.add_argument("--sizes", type=_sizes, default=list(SIZES), help="files, with commas")
    parser.add_argument("--session", choices=("native", "pyfuse3"), default="native")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="work there")
    return parser.parse_args(argv)


def _sizes(text: str) -> list[int]:
    try:
        found = [int(word.replace("_", "")) for word in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < LARGE_SHARE:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected numbers such as 100000,10000000"
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
