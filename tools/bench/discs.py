"""Discs in ``make bench``: writing against tar, openssl and genisoimage; copies; memory.

Everything is measured in processes of their own, what is compared one after the other in
an order that rotates; the first round warms up and does not count.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hsmfs.tools.bench import discworks
from hsmfs.tools.bench.apart import WorkFailed, run_apart
from hsmfs.tools.bench.disccorpus import (
    COPIES_SHARE,
    FULL,
    QUICK,
    TINY,
    Corpus,
    DiscSizes,
    ManyFiles,
)
from hsmfs.tools.bench.discworks import Figures
from hsmfs.tools.bench.report import rotated

SIZES: Final = {"full": FULL, "quick": QUICK, "tiny": TINY}
TIMEOUT_S: Final = 1800.0
HASHED: Final = "all hashes"
TAR: Final = "tar | openssl"
TO_FILE: Final = "all hashes, to a file"
WRITTEN: Final = "only written, to a file"
GENISOIMAGE: Final = "genisoimage -udf"
ONE: Final = "one copy"
TWO: Final = "two copies"
ONE_KEPT: Final = "one copy, emulated disc kept"
TWO_KEPT: Final = "two copies, emulated discs kept"
GROUPS: Final = {
    "disc hash": (HASHED, TAR, TO_FILE),
    "disc write": (WRITTEN, GENISOIMAGE),
    "disc copies": (ONE, TWO, ONE_KEPT, TWO_KEPT),
    "disc many": (),
}
"""What is compared, by the names that ``--only`` knows."""


class Bar(msgspec.Struct, frozen=True):
    """A figure that is asked for."""

    name: str
    found: float
    bar: float
    is_least: bool
    """Else it is the most."""

    @property
    def is_reached(self) -> bool:
        return self.found >= self.bar if self.is_least else self.found <= self.bar


class DiscResults(msgspec.Struct):
    """All figures of all counted rounds, and what is asked for."""

    rounds: dict[str, list[Figures]] = {}
    bars: list[Bar] = []
    failures: list[str] = []


class DiscBench:
    """Runs the chosen groups below a directory, which it makes and removes."""

    def __init__(self, place: Path, sizes: DiscSizes, say: Callable[[str], None]) -> None:
        self._place = place / "discs"
        self._sizes = sizes
        self._say = say
        self.results = DiscResults()

    def run(self, groups: Sequence[str]) -> DiscResults:
        """Measure."""
        self._place.mkdir()
        try:
            if any(GROUPS[group] for group in groups):
                self._compare(groups)
            if "disc many" in groups:
                self._many()
        finally:
            shutil.rmtree(self._place, ignore_errors=True)
        return self.results

    def _compare(self, groups: Sequence[str]) -> None:
        corpus, place = Corpus(self._place, self._sizes), self._place
        self._say(f"discs: making {self._sizes.bytes / 1e9:.1f} GB of cache files")
        corpus.make()
        part = corpus.share(COPIES_SHARE)
        works: dict[str, Callable[[], Figures]] = {
            HASHED: lambda: discworks.hashed(corpus),
            TAR: lambda: discworks.tar_openssl(corpus),
            WRITTEN: lambda: discworks.only_written(corpus, place),
            GENISOIMAGE: lambda: discworks.genisoimage(corpus, place),
            TO_FILE: lambda: discworks.hashed_to_file(corpus, place),
            ONE: lambda: discworks.burned(corpus, place, 1, keeps=False),
            TWO: lambda: discworks.burned(corpus, place, 2, keeps=False),
            ONE_KEPT: lambda: discworks.burned(part, place, 1, keeps=True),
            TWO_KEPT: lambda: discworks.burned(part, place, 2, keeps=True),
        }
        for group in groups:
            for number in range(self._sizes.rounds + 1):
                for name in rotated(GROUPS[group], number):
                    self._measure(name, works[name], counts=number > 0)
        self._bars_of_rates()

    def _measure(self, name: str, work: Callable[[], Figures], *, counts: bool) -> None:
        try:
            figures = run_apart(work, TIMEOUT_S)
        except WorkFailed as error:
            if counts:
                self.results.failures.append(f"{name}: {error}")
            return
        shown = ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
        self._say(f"discs: {name}: {shown}{'' if counts else ' (warming up)'}")
        if counts:
            self.results.rounds.setdefault(name, []).append(figures)

    def _many(self) -> None:
        files = ManyFiles(self._place / "many", self._sizes.many_files)
        files.make()
        name = f"{files.count:,} files"
        self._measure(name, lambda: discworks.many(files), counts=True)
        for figures in self.results.rounds.get(name, []):
            self._bar(f"{name}: memory, MB", figures["memory_mb"], 150, is_least=False)
            what = f"{name}: processor beside hashing, µs a file"
            self._bar(what, figures["cpu_us_per_file"], 50, is_least=False)

    # -- what is asked for -----------------------------------------------------------------

    def _bar(self, name: str, found: float, bar: float, *, is_least: bool) -> None:
        self.results.bars.append(Bar(name, found, bar, is_least))

    def _ratio(self, ours: str, other: str, key: str) -> float | None:
        """Of rates the median of the ratio within each round; of processor, which other
        work on the machine can only add to, the least of all rounds over the least."""
        rounds = self.results.rounds
        if ours not in rounds or other not in rounds:
            return None
        if key == "cpu_s_per_gb":
            return min(one[key] for one in rounds[ours]) / min(one[key] for one in rounds[other])
        pairs = zip(rounds[ours], rounds[other], strict=False)
        return statistics.median(mine[key] / theirs[key] for mine, theirs in pairs)

    def _bars_of_rates(self) -> None:
        for ours, other in ((HASHED, TAR), (TO_FILE, TAR), (WRITTEN, GENISOIMAGE)):
            ratio = self._ratio(ours, other, "mb_s")
            if ratio is not None:
                self._bar(f"{ours}: rate over that of {other}", ratio, 1.0, is_least=True)
            ratio = self._ratio(ours, other, "cpu_s_per_gb")
            if ratio is not None:
                self._bar(f"{ours}: processor over that of {other}", ratio, 1.0, is_least=False)
        ratio = self._ratio(TWO, ONE, "cpu_s_per_gb")
        if ratio is not None:
            self._bar(f"{TWO}: processor over that of {ONE}", ratio, 1.6, is_least=False)
        for figures in self.results.rounds.get(TWO, [])[-1:]:
            self._bar(f"{TWO}: reads of each byte", figures["read_per_byte"], 1.01, is_least=False)
            hashed = figures["hashed_per_byte"]
            self._bar(f"{TWO}: hashes of each byte", hashed, 1.0, is_least=False)


def rate_rows(results: DiscResults) -> list[list[str]]:
    """Median rate and processor of each."""
    rows = []
    for name, rounds in results.rounds.items():
        if "mb_s" in rounds[0]:
            rate = statistics.median(one["mb_s"] for one in rounds)
            cpu_s = statistics.median(one["cpu_s_per_gb"] for one in rounds)
            rows.append([name, f"{rate:,.0f}", f"{cpu_s:.2f}"])
    return rows


def bar_rows(results: DiscResults) -> list[list[str]]:
    """What was found, what was asked for, and whether that is reached."""
    return [
        [
            bar.name,
            f"{bar.found:.2f}",
            f"{'at least' if bar.is_least else 'at most'} {bar.bar:g}",
            "yes" if bar.is_reached else "NO",
        ]
        for bar in results.bars
    ]
