"""Group commit against a plain dictionary, with commits under way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.errors import HsmError, TransientError
from hsmfs.store.interface import Writer
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.store.memory import MemoryStore
from hsmfs.store.overlay import RETRY_S, GroupCommit


class Later:
    """An executor whose work is done when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Callable[[], Any], Callable[..., None]]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def submit(self, work: Callable[[], Any], done: Callable[..., None]) -> None:
        self.work.append((work, done))

    def call_later(self, delay_s: float, fn: Callable[[], None]) -> None:
        self.timers.append((delay_s, fn))

    def run(self) -> None:
        if self.work:
            work, done = self.work.pop(0)
            try:
                value, error = work(), None
            except Exception as failure:
                value, error = None, failure
            done(value, error)


names = st.sampled_from([b"a", b"b", b"ba", b"c", b"d", b"da"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), names, st.binary(max_size=3)),
        st.tuples(st.just("delete"), names),
        st.tuples(st.just("flush")),
        st.tuples(st.just("commit")),
        st.tuples(st.just("scan"), names, names, st.booleans(), st.sampled_from([None, 1, 3])),
    ),
    max_size=40,
)


@given(steps)
def test_it_reads_as_a_dictionary_whatever_is_committed(todo: list[Any]) -> None:
    executor, store, model = Later(), MemoryStore(), {}
    kv = GroupCommit(store, executor, 0.05)
    for step in todo:
        match step:
            case ("put", key, value):
                kv.put(key, value)
                model[key] = value
            case ("delete", key):
                assert kv.delete(key) == (model.pop(key, None) is not None)
            case ("flush",):
                kv.flush(lambda error: None)
            case ("commit",):
                executor.run()
            case ("scan", start, stop, reverse, limit):
                wanted = sorted(
                    (item for item in model.items() if start <= item[0] < stop), reverse=reverse
                )
                assert list(kv.scan(start, stop, reverse, limit)) == wanted[:limit]
        assert all(kv.get(key) == model.get(key) for key in (b"a", b"b", b"ba", b"c"))
    while executor.work:
        executor.run()
    kv.close()
    with store.snapshot() as reader:
        assert dict(reader.scan(b"", b"\xff")) == model


def test_all_that_wait_share_one_commit() -> None:
    executor, store = Later(), MemoryStore()
    kv, done = GroupCommit(store, executor, 0.05), []
    kv.put(b"a", b"1")
    for number in range(3):
        kv.flush(lambda error, n=number: done.append((n, error)))
    kv.put(b"b", b"2")
    assert len(executor.work) == 1 and done == []
    executor.run()
    assert done[0] == (0, None)
    while executor.work:
        executor.run()
    assert [number for number, _ in done] == [0, 1, 2]
    with store.snapshot() as reader:
        assert reader.get(b"b") == b"2"


@pytest.mark.allow_warnings
def test_a_commit_that_fails_is_told_and_tried_again() -> None:
    executor, store = Later(), MemoryStore()
    kv, told = GroupCommit(store, executor, 0.05), []
    real, failing = store.transact, [True]

    def transact(fn: Callable[[Writer], Any]) -> Any:
        if failing:
            raise TransientError("disk full")
        return real(fn)

    store.transact = transact  # type: ignore[method-assign]
    kv.put(b"a", b"1")
    kv.flush(told.append)
    executor.run()
    assert isinstance(told[0], HsmError)
    assert kv.get(b"a") == b"1"
    kv.put(b"b", b"2")
    later: list[HsmError | None] = []
    failing.clear()
    kv.flush(later.append)
    executor.run()
    with store.snapshot() as reader:
        assert reader.get(b"a") == b"1"
        assert reader.get(b"b") is None and later == []
    next(fn for delay, fn in executor.timers if delay == RETRY_S)()
    executor.run()
    with store.snapshot() as reader:
        assert reader.get(b"b") == b"2" and later == [None]


class Failing:
    """Makes the commits of a store fail while ``full`` is set."""

    def __init__(self, store: MemoryStore) -> None:
        self.full = True
        self._real = store.transact
        store.transact = self.transact  # type: ignore[method-assign]

    def transact(self, fn: Callable[[Writer], Any]) -> Any:
        if self.full:
            raise TransientError("disk full")
        return self._real(fn)


@pytest.mark.allow_warnings
def test_after_a_failed_commit_nothing_is_called_durable_that_is_not() -> None:
    executor, store = Later(), MemoryStore()
    kv, disk = GroupCommit(store, executor, 0.05), Failing(store)
    kv.put(b"a", b"1")
    first: list[HsmError | None] = []
    kv.flush(first.append)
    executor.run()
    assert isinstance(first[0], HsmError)
    second: list[HsmError | None] = []
    kv.flush(second.append)
    assert None not in second
    executor.run()
    assert len(second) == 1 and isinstance(second[0], HsmError), "who waits is told, not held"
    disk.full = False
    third: list[HsmError | None] = []
    kv.flush(third.append)
    executor.run()
    assert third == [None]
    with store.snapshot() as reader:
        assert reader.get(b"a") == b"1"


@pytest.mark.allow_warnings
def test_failures_do_not_multiply_the_tries() -> None:
    executor, store = Later(), MemoryStore()
    kv, disk = GroupCommit(store, executor, 0.05), Failing(store)
    for number in range(20):
        kv.put(b"%d" % number, b"")
        kv.flush(lambda error: None)
        executor.run()
    retries = [fn for delay, fn in executor.timers if delay == RETRY_S]
    assert len(retries) == 1
    disk.full = False
    retries[0]()
    kv.flush(lambda error: None)
    while executor.work:
        executor.run()
    assert kv.pending_changes == 0 and store.stat().entries == 20


def test_a_commit_that_comes_after_the_close_changes_nothing() -> None:
    """A worker that had not begun when the store was closed must not bring old values back."""
    executor, store = Later(), MemoryStore()
    kv = GroupCommit(store, executor, 0.05)
    kv.put(b"a", b"old")
    kv.flush(lambda error: None)
    kv.put(b"a", b"new")
    kv.close()
    executor.run()
    with store.snapshot() as reader:
        assert reader.get(b"a") == b"new"


def test_the_view_outlives_a_map_that_grows(tmp_path: Path) -> None:
    executor, store = Later(), LmdbStore(tmp_path / "s", map_bytes=1 << 20)
    kv = GroupCommit(store, executor, 0.05)
    for batch in range(4):
        kv.put(b"k%d" % batch, b"v")
        for number in range(200):
            kv.put(b"l%d-%d" % (batch, number), bytes(4000))
        kv.flush(lambda error: None)
        assert [key for key, _ in kv.scan(b"k", b"l")] == [b"k%d" % n for n in range(batch + 1)]
        executor.run()
        assert len(list(kv.scan(b"l", b"m"))) == 200 * (batch + 1)
    kv.close()
    store.close()
