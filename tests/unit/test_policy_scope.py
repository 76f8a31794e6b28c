"""What a pass of the migrate rules looks at: all at first, then parts and changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.engines import ME, Bench, now
from support.namespaces import File, fill

from hsmfs.daemon import policyrun
from hsmfs.daemon.policy.evaluate import load_policy
from hsmfs.daemon.policyrun import SWEEP_S, Scope
from hsmfs.daemon.selection import migrate_files
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.memory import MemoryStore

RULES = """
pool p { copies 1 }
migrate m to p when path ~ "/new/**" or name ~ "x*"
"""
SLICE = 10


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(policyrun, "SLICE_MIN", SLICE)
    return Bench(tmp_path)


def seen(bench: Bench, scope: Scope, interval_s: float = 1.0) -> tuple[set[bytes], int]:
    """Paths that the rules choose, and how many candidates were looked at."""
    now(bench.engine.syncfs())
    looked = 0
    with bench.store.snapshot() as reader:

        def counted() -> object:
            nonlocal looked
            for batch in scope.batches(NamespaceView(reader), interval_s):
                looked += len(batch)
                yield batch

        rules = load_policy(RULES, "p", (), None).migrate
        chosen = migrate_files(rules, counted(), bench.clock.now_ns())  # type: ignore[arg-type]
    return {item.path for one in chosen for item in one.files}, looked


def test_all_at_first_then_parts(bench: Bench) -> None:
    for number in range(100):
        bench.make(b"f%d" % number, b"")
    bench.make(b"x1", b"data")
    scope = Scope()
    assert seen(bench, scope) == ({b"x1"}, 101)
    found, total, passes = set(), 0, 0
    while total < 101:
        paths, looked = seen(bench, scope)
        assert looked <= SLICE
        found |= paths
        total, passes = total + looked, passes + 1
    assert (found, passes) == ({b"x1"}, 11)


def test_what_changes_is_looked_at_next(bench: Bench) -> None:
    for number in range(100):
        bench.make(b"f%d" % number, b"")
    scope = Scope()
    seen(bench, scope)
    bench.make(b"x1", b"data")
    bench.engine.rename(1, b"f50", 1, b"x2")
    assert {b"x1", b"x2"} <= seen(bench, scope)[0]


def test_what_is_below_a_renamed_directory_has_changed(bench: Bench) -> None:
    attr = bench.engine.mkdir(1, b"old", 0o755, ME)
    for number in range(100):
        bench.make(b"f%d" % number, b"")
    for number in range(3):
        opened, _ = bench.engine.create(attr.ino, b"g%d" % number, 0o644, 1, ME)
        bench.engine.release(opened.fh)
    scope = Scope()
    assert seen(bench, scope)[0] == set()
    bench.engine.rename(1, b"old", 1, b"new")
    paths, looked = seen(bench, scope)
    assert paths == {b"new/g0", b"new/g1", b"new/g2"}
    assert looked <= SLICE + 4


def test_a_large_directory_that_was_renamed_makes_all_change(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policyrun, "BELOW_MAX", 2)
    top = bench.engine.mkdir(1, b"old", 0o755, ME)
    for number in range(30):
        opened, _ = bench.engine.create(top.ino, b"g%d" % number, 0o644, 1, ME)
        bench.engine.release(opened.fh)
    scope = Scope()
    seen(bench, scope)
    bench.engine.rename(1, b"old", 1, b"new")
    assert len(seen(bench, scope)[0]) == 30


def test_a_long_interval_looks_at_its_share_of_an_hour(bench: Bench) -> None:
    for number in range(100):
        bench.make(b"f%d" % number, b"")
    scope = Scope()
    seen(bench, scope)
    assert seen(bench, scope, interval_s=SWEEP_S / 2)[1] == 51


def test_what_was_held_back_is_looked_at_again(bench: Bench) -> None:
    files = [bench.make(b"f%d" % number, b"") for number in range(100)]
    held = bench.make(b"x1", b"data")
    scope = Scope()
    seen(bench, scope)
    scope.later = [held.ino, files[3].ino]
    paths, looked = seen(bench, scope)
    assert (paths, looked) == ({b"x1"}, SLICE + 2)
    assert now(bench.engine.claim([held]))[0].refused == ""


def test_a_journal_without_changes_is_no_reason_to_look_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(policyrun, "SLICE_MIN", SLICE)
    store, scope = MemoryStore(), Scope()
    fill(store, [File(b"f%d" % number) for number in range(100)])
    looked = []
    for _ in range(3):
        with store.snapshot() as reader:
            looked.append(sum(map(len, scope.batches(NamespaceView(reader), 1.0))))
    assert looked == [100, SLICE, SLICE]
