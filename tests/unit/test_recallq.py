"""Ranges that have landed, and who they wake."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hsmfs.deferred import Deferred
from hsmfs.recallq import RangeSet, Recall, Waiter
from hsmfs.types import ByteRange, FileVersion

SIZE = 60
spans = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))


@given(st.lists(spans, max_size=30), st.lists(spans, max_size=30))
def test_a_range_set_is_a_set_of_numbers(added: list[tuple[int, int]], asked: list[object]) -> None:
    ranges, model = RangeSet(), set[int]()
    for start, stop in added:
        ranges.add(start, stop)
        model |= set(range(start, stop))
        found = ranges.ranges()
        assert {n for span in found for n in range(span.start, span.stop)} == model
        assert all(span.start < span.stop for span in found)
        assert all(a.stop < b.start for a, b in itertools.pairwise(found)), "merged"
    for start, stop in asked:  # type: ignore[misc]
        assert ranges.covers(start, stop) == (set(range(start, stop)) <= model)


@given(st.lists(spans, max_size=20), st.lists(spans, max_size=10))
def test_each_reader_is_woken_once_and_not_too_early(
    landing: list[tuple[int, int]], wanted: list[tuple[int, int]]
) -> None:
    recall = Recall(FileVersion(2, 1), SIZE)
    waiters = [Waiter(ByteRange(*span), Deferred(), 0) for span in wanted]
    recall.waiters = list(waiters)
    woken: list[Waiter] = []
    model = set[int]()
    for start, stop in landing:
        recall.landed.add(start, stop)
        model |= set(range(start, stop))
        woken += recall.take_ready()
        for waiter in waiters:
            ready = set(range(waiter.range.start, waiter.range.stop)) <= model
            assert ready == any(waiter is other for other in woken)
    assert len(set(map(id, woken))) == len(woken)
    assert len(recall.take_all()) == len(waiters) - len(woken) and recall.waiters == []
