"""Random cuts of a mounted hsmfs under a stream of operations with fsyncs.

The cuts (kill, copy between two writes, loss of power) are described in
``support/crashes.py``, what must be left in ``support/survivors.py``. After
each cut ``hsm fsck`` finds nothing to repair: what was under way when the cut
came is marked as such, and settled by the next start.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from fuse.conftest import System, made_system
from support.crashes import (
    Cut,
    Disk,
    Worker,
    disk,
    family,
    opened,
    signal_all,
    stopped,
    wait_gone,
)
from support.survivors import check_survivors

from hsmfs.configload import load
from hsmfs.fsck.findings import Summary
from hsmfs.tools import fsckcommand

pytestmark = pytest.mark.fuse
SESSIONS: Final = ("pyfuse3", "native")
ROUNDS: Final = int(os.environ.get("HSMFS_CRASH_ROUNDS", "25"))
ROUNDS_LONG: Final = 500
WORKERS: Final = 2
RUN_MIN_S: Final = 0.05
RUN_MAX_S: Final = 0.4
STORES: Final = ("namespace", "tier")


class Victim:
    """A system whose stores are on a disk that can lose its power, where that is possible."""

    def __init__(self, directory: Path, system: System, session: str, stores: Disk | None) -> None:
        self.dir = directory
        self.system = system
        self.session = session
        self.disk = stores
        self.stores = stores.path if stores else system.dir
        self.rounds = 0
        for name in STORES:
            (self.stores / name).mkdir(exist_ok=True)
        self.configure(system, self.stores)

    def configure(self, system: System, stores: Path) -> None:
        system.configure(fuse=f'session = "{self.session}"')
        text = system.config.read_text()
        for name in STORES:
            text = text.replace(f'"{system.dir}/{name}"', f'"{stores}/{name}"')
        system.config.write_text(text)

    def start_workers(self, chance: random.Random) -> list[Worker]:
        """Each in a fresh directory, whose name is durable."""
        for old in self.system.mnt.iterdir():
            shutil.rmtree(old)
        self.rounds += 1
        roots = [self.system.mnt / f"{self.rounds}.{number}" for number in range(WORKERS)]
        for root in roots:
            root.mkdir()
        with opened(self.system.mnt, os.O_RDONLY) as fd:
            os.fsync(fd)
        return [Worker(root, random.Random(chance.random())) for root in roots]

    # -- cuts ------------------------------------------------------------------------

    def kill(self, chance: random.Random) -> Cut:
        """hsmfs alone or with its helpers, in any order."""
        assert self.system.process is not None
        pid = self.system.process.pid
        pids = family(pid)
        victims = chance.sample(pids, len(pids)) if chance.random() < 0.5 else [pid]
        begin_s = time.monotonic()
        signal_all(victims, signal.SIGKILL)
        self.system.process.communicate()
        cut = Cut(begin_s, time.monotonic())
        wait_gone(pids)
        return cut

    def lose_power(self, chance: random.Random) -> Cut:
        """The disk first; what hsmfs does after that reaches nothing."""
        if self.disk is None:
            return self.kill(chance)
        cut = self.disk.lose_power()
        self.kill(chance)
        return cut

    def check_copy(self, chance: random.Random, workers: list[Worker]) -> None:
        """Stop all, copy the stores, go on; a second hsmfs on the copy has a prefix."""
        assert self.system.process is not None
        copy = self.dir / "copy"
        copy.mkdir()
        with made_system(copy) as second:
            pids = family(self.system.process.pid)
            with copier(self.stores, copy) as go, stopped(chance.sample(pids, len(pids))) as cut:
                go()
            self.configure(second, copy)
            check_fsck(second)
            second.start()
            check_survivors(workers, [own_root(second, worker) for worker in workers], cut)
            assert second.stop() == 0
            check_fsck(second)
        shutil.rmtree(copy)

    def revive(self) -> None:
        """Switch on what was cut."""
        if self.disk is not None:
            # The dead mount keeps cache files open, and so the disk busy.
            subprocess.run(["umount", "-l", str(self.system.mnt)], check=True)
            self.disk.power_on()
        check_fsck(self.system)
        self.system.start()


@contextmanager
def copier(source: Path, target: Path) -> Iterator[Callable[[], None]]:
    """Yields what copies the stores.

    Its process is made before hsmfs is stopped: a child inherits the files of
    the workers, and its close of them would wait for hsmfs, we for the child.
    """
    script = 'read go && for name; do cp -a "$source/$name/." "$target/$name" || exit 1; done'
    variables = {**os.environ, "source": str(source), "target": str(target)}
    with subprocess.Popen(
        ["sh", "-c", script, "sh", *STORES], env=variables, stdin=subprocess.PIPE
    ) as process:

        def copy() -> None:
            process.communicate(b"go\n")
            assert process.returncode == 0

        yield copy


def own_root(system: System, worker: Worker) -> bytes:
    return os.fsencode(system.mnt / worker.root.name)


def check_fsck(system: System) -> None:
    """A system at rest has nothing to repair."""
    config = load(system.config)
    with fsckcommand.stopped(config):
        found = list(fsckcommand.findings(config, False, None, Summary()))
    assert not found, "\n".join(map(str, found))


@pytest.fixture(params=SESSIONS)
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Victim]:
    """A mounted system to be cut."""
    if request.param == "native":
        pytest.importorskip("hsmfs.session.native")
    with ExitStack() as stack:
        stores = stack.enter_context(disk(tmp_path)) if Disk.is_possible() else None
        (tmp_path / "system").mkdir()
        system = stack.enter_context(made_system(tmp_path / "system"))
        victim = Victim(tmp_path, system, request.param, stores)
        system.start()
        yield victim


def cut_again_and_again(victim: Victim, rounds: int) -> None:
    """Kills, copies and losses of power in turn, on one namespace that lives on."""
    for number in range(rounds):
        chance = random.Random(number)
        workers = victim.start_workers(chance)
        time.sleep(chance.uniform(RUN_MIN_S, RUN_MAX_S))
        if number % 3 == 1:
            victim.check_copy(chance, workers)
            time.sleep(chance.uniform(0.0, RUN_MIN_S))
        cut = victim.lose_power(chance) if number % 3 == 2 else victim.kill(chance)
        for worker in workers:
            worker.join()
        victim.revive()
        roots = [own_root(victim.system, worker) for worker in workers]
        check_survivors(workers, roots, cut)
    assert victim.system.stop() == 0
    check_fsck(victim.system)


def test_nothing_synced_is_lost_and_order_is_kept(victim: Victim) -> None:
    cut_again_and_again(victim, ROUNDS)


@pytest.mark.long
def test_the_same_many_times(victim: Victim) -> None:
    cut_again_and_again(victim, ROUNDS_LONG)
