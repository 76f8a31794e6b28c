"""The rounds: every system does every work in each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from hsmfs.errors import HsmError
from hsmfs.tools import mounts
from hsmfs.tools.bench import systems
from hsmfs.tools.bench.apart import WorkFailed, run_apart
from hsmfs.tools.bench.measure import Sample, can_drop_caches, measure
from hsmfs.tools.bench.report import Result, Samples, result, rotated
from hsmfs.tools.bench.sizes import Sizes
from hsmfs.tools.bench.works import Work

WORK_TIMEOUT_S: Final = 300.0


class Runner:
    """Starts systems, does works on them, and lets none of them end the run."""

    def __init__(self, place: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.place = place
        self.sizes = sizes
        self.say = say
        self.drops = can_drop_caches()
        self.left_out: list[str] = []
        """Systems that this machine does not have, and why."""
        self.failures: list[str] = []
        """Systems and works that should have worked, and how they failed."""
        self.versions: dict[str, str] = {}
        self._running: dict[str, systems.System] = {}
        self._skipped: set[tuple[str, str]] = set()

    def run(self, works: Sequence[type[Work]], names: Sequence[str], rounds: int) -> list[Result]:
        """Results of all works; empty when no system took part."""
        for name in names:
            self._start(systems.make(name, self.place))
        samples: dict[str, Samples] = {work.name: {name: [] for name in names} for work in works}
        for number in range(rounds + 1):
            for work in works:
                for name in rotated(list(self._running), number):
                    sample = self._do(work, name)
                    if sample is not None and number:
                        samples[work.name][name].append(sample)
            self.say(f"round {number} of {rounds} done" + ("" if number else " (warm-up)"))
        results = [result(work.name, work.unit, work.op, samples[work.name]) for work in works]
        return [one for one in results if one.median]

    def _start(self, system: systems.System) -> None:
        try:
            system.start()
        except systems.LeftOut as error:
            self.left_out.append(f"{system.name}: {error}")
        except (HsmError, OSError) as error:
            self.failures.append(f"{system.name}: {error}")
        else:
            self._running[system.name] = system
            self.versions[system.name] = system.version()
            return
        self.say((self.left_out + self.failures)[-1])
        system.stop()

    def _do(self, work: type[Work], name: str) -> Sample | None:
        """One sample; None when this system cannot do this work."""
        system = self._running.get(name)
        if system is None or (name, work.name) in self._skipped:
            return None
        task = partial(measure, work(system.root, self.sizes), system.pids(), self.drops)
        try:
            return msgspec.convert(run_apart(task, WORK_TIMEOUT_S), Sample)
        except (WorkFailed, OSError) as error:
            self._failed(system, work.name, error)
            return None

    def _failed(self, system: systems.System, work: str, error: Exception) -> None:
        line = f"{system.name}: {work}: {error}"
        self._skipped.add((system.name, work))
        if not mounts.answers(Path(system.root)):
            line += "; it no longer answers and is left out from here on"
            del self._running[system.name]
            system.stop()
        self.failures.append(line)
        self.say(line)

    def stop(self) -> None:
        """End all systems."""
        for system in self._running.values():
            system.stop()
        self._running.clear()
