"""``make bench-policy``: rules on 10 million files; part of ``make bench`` as ``policy``.

The namespace is generated; each measurement runs in a process of its own, so
that its memory is its own. Memory is what the process has of its own
(RssAnon, at its highest): pages of the store are the kernel's to take back.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from rich.console import Console

from hsmfs.accesslog import DTYPE as ACCESS_DTYPE
from hsmfs.accesslog import READ, WRITE
from hsmfs.daemon.candidates import Candidates
from hsmfs.daemon.policy.evaluate import load_policy
from hsmfs.daemon.policy.rules import Policy
from hsmfs.daemon.policy.vector import Evaluator
from hsmfs.daemon.selection import coldest, first_matches
from hsmfs.daemon.whatif import Site, replay
from hsmfs.errors import HsmError
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.bench.apart import run_apart
from hsmfs.tools.bench.generate import generate
from hsmfs.tools.bench.namespacedata import Shape
from hsmfs.tools.bench.systems import remove_tree
from hsmfs.tools.output import table
from hsmfs.types import Residency

FILES: Final = 10_000_000
COUNT: Final = 100_000
ROUNDS: Final = 3
MAP_BYTES: Final = 1 << 40
TIMEOUT_S: Final = 600.0
SAMPLE_S: Final = 0.02
EXIT_FAILED: Final = 1
RULES: Final = """
pool "main" { copies 2 }
pool "other" { copies 1 }
pin "a" when path ~ "/d*7/*" and age > 2y
pin "b" when age > 2y
migrate "videos" to "main" when age > 5y and size > 100KiB
migrate "folders" to "other" when path ~ "/d00012*/**" and mtime_age > 90d
migrate "names" to "main" when name ~ "*77" and heat < 0.5 and age > 1y
migrate "owners" to "other" when uid != 0 and size > 1KiB
migrate "cold" to "main" when heat < 0.01
"""
YEAR_RULES: Final = """
pool "main" { copies 2; head 0 }
migrate "cold" to "main" when age > 30d
release "room" from tier "ssd" when tier.used > 85% until tier.used < 70%
"""
YEAR_OPENS: Final = 1_000_000
YEAR_CHUNKS: Final = 9
"""Of 32,768 inodes."""
YEAR_NS: Final = 365 * 86_400 * 10**9
AIMS: Final = {
    "coldest 100,000 by age": (1.0, 200),
    "coldest 100,000 by age and glob": (2.0, 200),
    "one pass, five rules": (10.0, 200),
    "what-if, a million opens": (30.0, 500),
}
"""Seconds and MB."""


class Taken(msgspec.Struct):
    """One measurement."""

    what: str
    found: int
    seconds: float = 0.0
    cpu_s: float = 0.0
    memory_mb: float = 0.0


def policy() -> Policy:
    """The rules that are measured."""
    return load_policy(RULES, "bench", ("ssd",), None)


def cold(path: str, now_ns: int, rule: int, view: NamespaceView) -> int:
    """Files of the coldest that match."""
    node = policy().pin[rule].condition.tree
    return len(coldest(view, Residency.RESIDENT, node, now_ns, COUNT))


def one_pass(path: str, now_ns: int, view: NamespaceView) -> int:
    """Files for which one of five rules decides."""
    rules, evaluator = policy().migrate, Evaluator(now_ns)
    found = 0
    for batch in Candidates(view, Residency.RESIDENT).all():
        found += sum(len(rows) for _, rows in first_matches(rules, batch, evaluator))
    return found


def a_year(path: str, now_ns: int, view: NamespaceView) -> int:
    """Recalls of a made-up year of a million opens, which what-if predicts."""
    inodes = np.concatenate([part["ino"] for part in islice(view.bulk.all_records(), YEAR_CHUNKS)])
    records = view.bulk.records(inodes)
    records = records[records["size"] > 0]
    chance = np.random.default_rng(1)
    events = np.zeros(YEAR_OPENS, dtype=ACCESS_DTYPE)
    events["time_ns"] = now_ns - np.sort(chance.integers(0, YEAR_NS, YEAR_OPENS))[::-1]
    # Some are opened often, most seldom.
    chosen = (chance.random(YEAR_OPENS) ** 3 * len(records)).astype(np.int64)
    events["ino"], events["size"] = records["ino"][chosen], records["size"][chosen]
    events["kind"] = np.where(chance.random(YEAR_OPENS) < 0.05, WRITE, READ)
    capacity = int(records["size"].sum()) // 2
    site = Site("ssd", capacity, 2, 25_000_000_000)
    return replay(view, load_policy(YEAR_RULES, "bench", ("ssd",), None), events, site).recalls


Work = Callable[[str, int, NamespaceView], int]
WORKS: Final[dict[str, Callable[[str, int, NamespaceView], int]]] = {
    "coldest 100,000 by age": lambda path, now_ns, view: cold(path, now_ns, 1, view),
    "coldest 100,000 by age and glob": lambda path, now_ns, view: cold(path, now_ns, 0, view),
    "one pass, five rules": one_pass,
    "what-if, a million opens": a_year,
}


class Memory:
    """The most that this process had of its own while it was watched."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            text = Path("/proc/self/status").read_text()
            line = next(line for line in text.splitlines() if line.startswith("RssAnon"))
            self.bytes = max(self.bytes, int(line.split()[1]) * 1024)


def timed(path: str, now_ns: int, what: str) -> dict[str, object]:
    """One measurement, in this process."""
    store = LmdbStore(Path(path), MAP_BYTES, read_only=True)
    with store.snapshot() as reader, Memory() as memory:
        begun, cpu = time.monotonic(), time.process_time()
        found = WORKS[what](path, now_ns, NamespaceView(reader))
        seconds, cpu_s = time.monotonic() - begun, time.process_time() - cpu
    store.close()
    return {
        "what": what,
        "found": found,
        "seconds": seconds,
        "cpu_s": cpu_s,
        "memory_mb": memory.bytes / 1e6,
    }


def measure(path: Path, now_ns: int) -> list[Taken]:
    """Each work a few times, the median by processor; the first round only warms up."""
    results = []
    for what in WORKS:
        task = partial(timed, str(path), now_ns, what)
        rounds = [msgspec.convert(run_apart(task, TIMEOUT_S), Taken) for _ in range(ROUNDS + 1)]
        results.append(sorted(rounds[1:], key=lambda one: one.cpu_s)[ROUNDS // 2])
    return results


def run(directory: Path, files: int) -> list[Taken]:
    """Generate and measure."""
    place = Path(tempfile.mkdtemp(prefix="hsmfs-policy-", dir=directory))
    shape = Shape(files, now_ns=time.time_ns(), varied=True)
    try:
        generate(place / "namespace", MAP_BYTES, shape)
        return measure(place / "namespace", shape.now_ns)
    finally:
        remove_tree(place)


def rows(taken: Sequence[Taken]) -> list[list[str]]:
    """The table."""
    return [
        [
            one.what,
            f"{one.found:,}",
            f"{one.seconds:.2f}",
            f"{one.cpu_s:.2f}",
            f"{one.memory_mb:.0f}",
            "under {:g} s, {} MB".format(*AIMS[one.what]),
        ]
        for one in taken
    ]


def show(screen: Console, files: int, taken: Sequence[Taken]) -> None:
    """Print it."""
    screen.print(f"\nPolicy: rules on {files:,} files\n")
    right = ["found", "s", "s of CPU", "MB"]
    screen.print(table(["what", *right, "asked"], rows(taken), right))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m hsmfs.tools.bench.policyscale")
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="work there")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    try:
        taken = run(options.dir, options.files)
    except (HsmError, OSError) as error:
        print(f"bench-policy: {error}", file=sys.stderr)
        return EXIT_FAILED
    show(Console(highlight=False, width=None if sys.stdout.isatty() else 160), options.files, taken)
    if options.json:
        text = msgspec.json.encode({"format": 1, "files": options.files, "policy": taken})
        options.json.write_bytes(msgspec.json.format(text, indent=2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
