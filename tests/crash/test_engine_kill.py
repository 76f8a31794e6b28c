"""SIGKILL at random moments: what was fsynced is there, in order, and counted."""

from __future__ import annotations

import random
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.engines import ME, Bench, now

from hsmfs.namespace.view import NamespaceView
from hsmfs.store.lmdbstore import LmdbStore

WORKER = """
import os, sys, random, hashlib, threading, queue, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from support.engines import ME, now
from hsmfs.cache.tier import CacheTier
from hsmfs.clock import SystemClock
from hsmfs.namespace.engine import Engine
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.store.overlay import GroupCommit

class Threads:
    def __init__(self): self.done = queue.Queue(); self.timers = []
    def submit(self, work, done):
        def run():
            try: result = (work(), None)
            except Exception as error: result = (None, error)
            self.done.put(lambda: done(*result))
        threading.Thread(target=run, daemon=True).start()
    def call_later(self, delay_s, fn): self.timers.append((time.monotonic() + delay_s, fn))
    def run_soon(self, fn): self.done.put(fn)
    def turn(self):
        due = [t for t in self.timers if t[0] <= time.monotonic()]
        self.timers = [t for t in self.timers if t not in due]
        for _, fn in due: fn()
        try: self.done.get(timeout=0.001)()
        except queue.Empty: pass

executor = Threads()
kv = GroupCommit(LmdbStore(Path(sys.argv[1])), executor, 0.01)
engine = Engine(kv, CacheTier("t", Path(sys.argv[2])), SystemClock(), executor)
chance, number = random.Random(int(sys.argv[4])), 0
while True:
    number += 1
    name = b"%s-%d" % (sys.argv[4].encode(), number)
    opened, attr = engine.create(1, name, 0o644, os.O_RDWR, ME)
    data = chance.randbytes(chance.randint(0, 50000))
    now(engine.write(opened.fh, 0, data))
    synced = engine.fsync(opened.fh, False)
    if chance.random() < 0.5:
        while not synced.done: executor.turn()
        engine.release(opened.fh)
        final = name + b".renamed"
        if chance.random() < 0.5:
            engine.rename(1, name, 1, final)
            flushed = engine.syncfs()
            while not flushed.done: executor.turn()
            name = final
        print(name.decode(), hashlib.sha1(data).hexdigest(), flush=True)
    elif chance.random() < 0.5:
        engine.unlink(1, name)
    executor.turn()
"""


@pytest.mark.parametrize("seed", range(4))
def test_what_was_fsynced_survives_a_kill(tmp_path: Path, seed: int) -> None:
    import hashlib

    support = str(Path(__file__).parent.parent)
    bench = Bench(tmp_path / "cache", store=LmdbStore(tmp_path / "ns"))
    bench.engine.close()
    bench.store.close()
    promised: dict[str, str] = {}
    for round_number in range(2):
        words = [str(tmp_path / "ns"), str(tmp_path / "cache"), support]
        command = [sys.executable, "-c", WORKER, *words, f"{seed}{round_number}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            first = worker.stdout.readline()
            time.sleep(random.Random(seed).uniform(0.0, 0.4))
            worker.kill()
            lines = [first, *worker.stdout]
        words_of = [line.split() for line in lines if line.endswith("\n")]
        promised.update(words for words in words_of if len(words) == 2)
    store = LmdbStore(tmp_path / "ns")
    again = Bench(tmp_path / "cache", store=store)
    for name, digest in promised.items():
        content = again.content(again.attr(name.encode()).ino)
        assert hashlib.sha1(content).hexdigest() == digest
    now(again.engine.syncfs())
    _check_consistency(store, again)
    again.engine.close()
    store.close()


def _check_consistency(store: LmdbStore, bench: Bench) -> None:
    """Counters are those of a scan; every cache file has its inode and the reverse."""
    with store.snapshot() as reader:
        view = NamespaceView(reader)
        files = [record for _, record in view.walk(1, b"") if stat.S_ISREG(record.mode)]
        assert list(reader.scan(b"O", b"P")) == []
        assert {r.ino for r in view.files_in_state(0)} == {record.ino for record in files}
    counters = bench.engine.tables.counters
    assert counters.files[0] == len(files)
    assert counters.bytes[0] == sum(record.size for record in files)
    on_disk = {path.name: path.stat().st_size for path in bench.root.rglob("*") if path.is_file()}
    known = {f"{record.ino:x}": record.size for record in files}
    assert known.items() <= on_disk.items()
    assert ME.uid == 0
