"""The access log, and its replay through policies against a plain model."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.engines import ME, Bench, now
from support.namespaces import File, fill

from hsmfs.accesslog import DTYPE, HEADER, MAGIC, READ, SEGMENT_BYTES, WRITE, AccessLog, read_log
from hsmfs.clock import ManualClock
from hsmfs.daemon.policy.evaluate import Facts, Policy, load_policy
from hsmfs.daemon.whatif import DAY_NS, Site, happened, replay
from hsmfs.deferred import InlineExecutor
from hsmfs.errors import CallerError
from hsmfs.heat import heat_now, heated
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.memory import MemoryStore
from hsmfs.types import Residency

START_NS = 1_700_000_000 * 10**9
OLD = 8
SITE = Site("ssd", 200_000, 2, 100_000)
RULES = """
pool "main" { copies 2; head 0 }
migrate "cold" to "main" when age > 2d and path ~ "/a/**"
migrate "large" to "main" when size > 9kB
release "room" from tier "ssd" when tier.used > 60% until tier.used < 40%
pin "kept" when name ~ "*3"
"""


@dataclass
class Kept:
    """One file of the model."""

    path: bytes
    ino: int
    size: int
    atime_ns: int = 0
    mtime_ns: int = 0
    heat: float = 0.0
    state: Residency = Residency.RESIDENT
    exists: bool = True

    def facts(self, now_ns: int) -> Facts:
        return Facts(
            self.path, self.path.rpartition(b"/")[2], self.size, self.atime_ns, self.mtime_ns,
            self.mtime_ns, 0, 0, heat_now(self.heat, now_ns), self.state.word,
            2 * (self.state != Residency.RESIDENT), self.ino,
        )  # fmt: skip


def lived(policy: Policy, files: list[Kept], opens: list[tuple[int, int, int]]) -> np.ndarray:
    """What would have been recorded of these opens (time, file, kind), one step after another."""
    (rule,) = policy.release
    events, day_ns = [], opens[0][0]

    def used() -> int:
        return sum(f.size for f in files if f.exists and f.state != Residency.MIGRATED)

    high = rule.start_fraction * SITE.capacity_bytes
    low = rule.stop_fraction * SITE.capacity_bytes
    start = high
    for time_ns, number, kind in opens:
        while time_ns >= day_ns:
            for file in files:
                resident = file.exists and file.state == Residency.RESIDENT
                if resident and policy.migrate_rule_for(file.facts(day_ns), day_ns):
                    file.state = Residency.PREMIGRATED
            day_ns += DAY_NS
        file = files[number]
        file.exists = True
        events.append((time_ns, file.ino, file.size, 0, kind, file.state, 0))
        if file.state == Residency.MIGRATED:
            file.state = Residency.PREMIGRATED
        if kind == WRITE:
            file.state, file.mtime_ns = Residency.RESIDENT, time_ns
        file.atime_ns = time_ns
        file.heat = heated(file.heat, time_ns)
        if used() > start:
            free = [
                facts for f in files if f.exists and f.state == Residency.PREMIGRATED
                for facts in [f.facts(time_ns)] if not policy.is_pinned(facts, time_ns)
            ]  # fmt: skip
            inodes = {f.ino: f for f in files}
            for facts in rule.ordered(free):
                if used() < low:
                    break
                inodes[facts.ino].state = Residency.MIGRATED
            start = max(high, used() + (high - low) / 10)
    return np.array(events, dtype=DTYPE)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_the_policy_in_force_predicts_what_happened(seed: int) -> None:
    chance = random.Random(seed)
    made = [
        File(b"%s/f%d" % (chance.choice([b"a", b"b"]), n), size=chance.randint(1000, 12_000),
             mtime_ns=START_NS - chance.randint(0, 5) * DAY_NS,
             btime_ns=0 if n < OLD else START_NS + 1)
        for n in range(40)
    ]  # fmt: skip
    store = MemoryStore()
    inodes = fill(store, made)
    # What a file was before its first event is not known: some are there from the beginning,
    # when nothing is released yet, the others are made later.
    times = sorted(chance.randint(1, 40 * DAY_NS) for _ in range(400))
    opens = [(START_NS + n, n, READ) for n in range(OLD)]
    opens += [
        (START_NS + at, chance.randrange(len(made)), chance.choice([READ, READ, READ, WRITE]))
        for at in times
    ]
    files = [
        Kept(file.path, inodes[file.path], file.size, file.mtime_ns, file.mtime_ns,
             exists=n < OLD)
        for n, file in enumerate(made)
    ]  # fmt: skip
    policy = load_policy(RULES, "p", ("ssd",), None)
    events = lived(policy, files, opens)
    with store.snapshot() as reader:
        outcome = replay(NamespaceView(reader), policy, events, SITE)
        lazy = RULES.replace("60%", "99%")
        other = replay(NamespaceView(reader), load_policy(lazy, "p", ("ssd",), None), events, SITE)
    real = happened(events)
    assert (outcome.opens, outcome.recalls) == (real.opens, real.recalls)
    assert outcome.recalled_bytes == real.recalled_bytes
    assert outcome.loads <= outcome.recalls and other.recalls <= outcome.recalls
    assert outcome.cache_max_bytes <= sum(file.size for file in made)


def test_opens_are_recorded(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "cache")
    log = AccessLog(tmp_path / "access", 1 << 28, bench.clock, bench.executor)
    bench.engine.ops.on_open = log.note
    stub = bench.stub(b"a", b"x" * 5000)
    plain = bench.make(b"b", b"y")
    bench.clock.advance(5)
    for ino, flags in ((stub.ino, os.O_RDONLY), (plain.ino, os.O_RDWR)):
        bench.engine.release(now(bench.engine.open(ino, flags, ME)).fh)
    log.close()
    (found,) = read_log(tmp_path / "access")
    assert found[["ino", "size", "kind", "state"]].tolist() == [
        (stub.ino, 5000, READ, Residency.MIGRATED),
        (plain.ino, 1, WRITE, Residency.RESIDENT),
    ]
    assert set(found["time_ns"].tolist()) == {bench.clock.now_ns()}


def test_segments_are_bounded_and_cut_records_are_left_out(tmp_path: Path) -> None:
    log = AccessLog(tmp_path, 2 * SEGMENT_BYTES, ManualClock(), InlineExecutor())
    many = np.zeros(SEGMENT_BYTES // DTYPE.itemsize, dtype=DTYPE)
    for number in range(4):
        many["ino"] = number
        log.write(many.tobytes())
    assert [int(part["ino"][0]) for part in read_log(tmp_path)] == [2, 3]
    last = sorted(tmp_path.iterdir())[-1]
    with last.open("r+b") as file:
        file.truncate(HEADER.size + 3 * DTYPE.itemsize + 5)
    log.write(many[:2].tobytes())
    assert [len(part) for part in read_log(tmp_path)][-1] == 5


def test_a_log_of_another_version_is_told(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="found no access log"):
        list(read_log(tmp_path))
    (tmp_path / "access-00000001.log").write_bytes(HEADER.pack(MAGIC, 7, 48))
    with pytest.raises(CallerError, match="found version 7 with records of 48 bytes, expected"):
        list(read_log(tmp_path))
    (tmp_path / "access-00000001.log").write_bytes(b"something else, much longer")
    with pytest.raises(CallerError, match="at its beginning, expected"):
        list(read_log(tmp_path))
