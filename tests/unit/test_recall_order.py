"""In which order requests of a volume are read, and what the scheduler is told of them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.daemon.busyshare import SPAN_S, BusyShare
from hsmfs.daemon.catalogrecords import ExtentRecord
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.recallqueue import Request, VolumeQueue, Waiter
from hsmfs.daemon.scheduler import Priority, Rules
from hsmfs.types import FileVersion, Inode

RULES = Rules()
LINES = st.lists(
    st.tuples(
        st.integers(0, 20),  # offset
        st.sampled_from(["reader 1", "reader 2", "job 1", "job 2", "background"]),
        st.floats(0.0, 1_000.0),
        st.sampled_from([None, 5_000.0, 9_000.0]),  # deadline of a job
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda line: line[0],
)
Line = tuple[int, str, float, float | None]


def request(number: int, line: Line) -> Request:
    offset, who, since_s, deadline_s = line
    extent = ExtentRecord(
        offset=offset * 1_000, size=10, xxh3_128="", sha256="", chunks=[], path=""
    )
    made = Request(FileVersion(Inode(number + 2), 1), "", {"v": extent}, "v", since_s)
    if who.startswith("reader"):
        uid = int(who.split()[1])
        made.waiters[uid] = Waiter("", uid, uid, "")
        return made
    job = Job(number, "recall", user="uid 1" if who == "job 1" else who)
    job.priority = Priority.BACKGROUND if who == "background" else Priority.BULK
    if deadline_s is not None:
        job.deadline_s = deadline_s
    made.jobs.append(job)
    return made


@given(LINES, st.integers(0, 21_000))
def test_one_load_serves_all_class_by_class_in_the_order_of_the_disc(
    lines: list[Line], start: int
) -> None:
    queue = VolumeQueue()
    requests = [request(number, line) for number, line in enumerate(lines)]
    for one in requests:
        queue.put(one)
    position, served = start, []
    while (one := queue.after(position, "disc")) is not None:
        position = one.extent.offset + 1
        queue.drop(one)
        served.append(one)
    assert sorted(map(id, served)) == sorted(map(id, requests))
    assert [one.priority for one in served] == sorted(one.priority for one in served)
    for priority in Priority:
        offsets = [one.extent.offset for one in served if one.priority == priority]
        falls = sum(later < before for before, later in pairwise(offsets))
        assert falls <= 1, "once from where the drive is to the end, once from the start"


@given(LINES)
def test_the_scheduler_is_told_classes_users_and_deadlines(lines: list[Line]) -> None:
    queue = VolumeQueue()
    requests = [request(number, line) for number, line in enumerate(lines)]
    for one in requests:
        queue.put(one)
    demand = queue.demand("v", ("disc",), RULES)
    best = min(one.priority for one in requests)
    assert demand.priority == best
    assert demand.since_s == min(one.since_s for one in requests if one.priority == best)
    for share in demand.shares:
        theirs = [one for one in requests if one.user == share.user]
        assert share.files == len(theirs)
        assert share.since_sum_s == pytest.approx(sum(one.since_s for one in theirs))
    assert sum(share.files for share in demand.shares) == len(requests)
    latest = [one.since_s + RULES.patience_s(one.priority) for one in requests]
    latest += [RULES.urgent_before_s(one.deadline_s) for one in requests]
    assert demand.urgent_s == pytest.approx(min(latest))


def test_what_a_user_reads_and_recalls_by_hand_is_one_share() -> None:
    queue = VolumeQueue()
    queue.put(request(0, (0, "reader 1", 1.0, None)))
    queue.put(request(1, (1, "job 1", 2.0, None)))
    (share,) = queue.demand("v", (), RULES).shares
    assert (share.user, share.files) == ("uid 1", 2)


def test_how_busy_the_robot_was_fades() -> None:
    share = BusyShare()
    assert share.of(0.0) == 0.0
    for step in range(2_000):
        share.add(5.0, step * 10.0)
    assert share.of(20_000.0) == pytest.approx(0.5, abs=0.02)
    assert share.of(20_000.0 + SPAN_S) == pytest.approx(0.5 / 2.718, abs=0.02)
