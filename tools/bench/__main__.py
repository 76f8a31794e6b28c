"""``make bench``: the same work on ext4, mergerfs, bindfs and both sessions; then discs and rules.

In every round every system does every work, one after another in an order
that rotates; the first round warms up and does not count.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from hsmfs.tools.bench import discs, machine, policyscale, report, systems
from hsmfs.tools.bench.bigworks import WORKS
from hsmfs.tools.bench.measure import can_drop_caches
from hsmfs.tools.bench.runner import Runner
from hsmfs.tools.bench.sizes import FULL, QUICK, TINY, Sizes
from hsmfs.tools.output import table

ROUNDS: Final = 5
EXIT_FAILED: Final = 1
EXIT_WRONG_USE: Final = 2
EXIT_IN_PART: Final = 3
WIDTH: Final = 200
POLICY: Final = "policy"
RULE_FILES: Final = {"full": policyscale.FILES, "quick": policyscale.FILES // 10, "tiny": 1000}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON."""
    options = _options(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_FAILED))
    screen = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    options.dir.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="hsmfs-bench-", dir=options.dir))
    sizes: Sizes = {"full": FULL, "quick": QUICK, "tiny": TINY}[options.sizes]
    runner = Runner(place, sizes, lambda line: print(line, file=sys.stderr, flush=True))
    try:
        works = [work for work in WORKS if _chosen(work.name, options.only)]
        results = runner.run(works, options.systems, options.rounds) if works else []
        runner.stop()
        groups = [group for group in discs.GROUPS if _chosen(group, options.only)]
        bench = discs.DiscBench(place, discs.SIZES[options.sizes], runner.say)
        found = bench.run(groups) if groups else discs.DiscResults()
        rules = _rules(options, place, runner)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return EXIT_FAILED
    finally:
        runner.stop()
        systems.remove_tree(place)
    if works and not results:
        print("bench: no system took part", file=sys.stderr)
        return EXIT_FAILED
    if results:
        _show(screen, results, options.systems, runner)
    _show_discs(screen, found)
    if rules:
        policyscale.show(screen, RULE_FILES[options.sizes], rules)
    if options.json:
        _write(options, sizes, results, runner, found, rules)
    return EXIT_IN_PART if runner.failures or found.failures else 0


def _rules(options: argparse.Namespace, place: Path, runner: Runner) -> list[policyscale.Taken]:
    """Rules on a generated namespace."""
    if not _chosen(POLICY, options.only):
        return []
    runner.say("policy: rules on a generated namespace")
    return policyscale.run(place, RULE_FILES[options.sizes])


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    names = [*(work.name for work in WORKS), *discs.GROUPS, POLICY]
    known = ", ".join(names)
    parser = argparse.ArgumentParser(
        prog="python -m hsmfs.tools.bench", description="hsmfs against ext4, mergerfs, bindfs."
    )
    parser.add_argument(
        "--only", nargs="+", metavar="WORK", default=[], help=f"words of names of works: {known}"
    )
    parser.add_argument("--systems", type=_systems, default=list(systems.NAMES))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="counted rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures of all rounds")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="work there")
    parser.add_argument(
        "--quick", dest="sizes", action="store_const", const="quick", default="full", help="less"
    )
    parser.add_argument(
        "--tiny", dest="sizes", action="store_const", const="tiny", help=argparse.SUPPRESS
    )
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error(f"--rounds: found {options.rounds}, expected 1 or more")
    if not any(_chosen(name, options.only) for name in names):
        parser.error(f"--only: found {' '.join(options.only)}, expected words of: {known}")
    return options


def _systems(text: str) -> list[str]:
    wanted = text.split(",")
    wrong = [name for name in wanted if name not in systems.NAMES]
    if wrong:
        expected = ", ".join(systems.NAMES)
        raise argparse.ArgumentTypeError(f"found {wrong[0]!r}, expected some of {expected}")
    return [name for name in systems.NAMES if name in wanted]


def _chosen(name: str, only: list[str]) -> bool:
    return not only or any(word in name for word in only)


def _show(screen: Console, results: list[report.Result], wanted: list[str], runner: Runner) -> None:
    took_part = [name for name in wanted if any(name in one.median for one in results)]
    screen.print("\nMedian rate, and its ratio to ext4\n")
    ratios = ["best/ext4", "native/C", "native/pyfuse3"]
    right = [*took_part, *ratios]
    rows = report.rate_rows(results, took_part)
    screen.print(table(["work", "unit", *took_part, *ratios], rows, right))
    served = [name for name in took_part if name != report.PLAIN]
    screen.print("\nServer CPU, µs for one operation\n")
    screen.print(table(["work", "one", *served], report.cpu_rows(results, served), served))
    if not can_drop_caches():
        screen.print("\nNot root: nothing was dropped from the caches, cold works were warm.")
    for line in [*runner.left_out, *runner.failures]:
        screen.print(f"left out: {line}", markup=False)


def _show_discs(screen: Console, found: discs.DiscResults) -> None:
    if found.rounds:
        screen.print("\nDiscs: median rate, and processor for each GB of files\n")
        names = ["MB/s", "s/GB"]
        screen.print(table(["what", *names], discs.rate_rows(found), names))
        screen.print("\nDiscs: what is asked for\n")
        screen.print(table(["what", "found", "asked", "reached"], discs.bar_rows(found), ["found"]))
    for line in found.failures:
        screen.print(f"left out: {line}", markup=False)


def _write(
    options: argparse.Namespace,
    sizes: Sizes,
    results: list[report.Result],
    runner: Runner,
    of_discs: discs.DiscResults,
    rules: list[policyscale.Taken],
) -> None:
    found = {
        "format": 1,
        "machine": machine.facts(options.dir),
        "versions": machine.versions(),
        "systems": runner.versions,
        "left_out": runner.left_out,
        "failures": runner.failures,
        "rounds": options.rounds,
        "caches_dropped": can_drop_caches(),
        "sizes": sizes,
        "results": results,
        "discs": of_discs,
        "policy": rules,
    }
    text = msgspec.json.format(msgspec.json.encode(found), indent=2)
    options.json.write_bytes(text + b"\n")


if __name__ == "__main__":
    sys.exit(main())
