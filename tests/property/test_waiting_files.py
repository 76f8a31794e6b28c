"""The packed queue of waiting files against a list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hsmfs.daemon import waiting
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.packing import Found
from hsmfs.daemon.waiting import JobSets, PlannedFor, Waiting, WaitingFiles
from hsmfs.types import FileVersion, Residency

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "pop", "prepend", "join", "let go"]),
        st.integers(0, 40),
        st.booleans(),
    ),
    max_size=120,
)


def found(ino: int) -> Found:
    return Found(b"d/\xff%d" % ino, ino, ino % 3, ino * 10, Residency.RESIDENT)


def facts(one: Waiting) -> tuple[object, ...]:
    return one.item, one.since_s, one.urgent, [job.id for job in one.jobs]


@given(STEPS, st.integers(1, 5))
def test_it_is_a_queue_with_two_ends(steps: list[tuple[str, int, bool]], block: int) -> None:
    before, waiting.BLOCK_FILES = waiting.BLOCK_FILES, block  # type: ignore[misc]
    try:
        check(steps)
    finally:
        waiting.BLOCK_FILES = before  # type: ignore[misc]


def check(steps: list[tuple[str, int, bool]]) -> None:
    sets = JobSets()
    queue, model = WaitingFiles(sets), list[Waiting]()
    jobs = [Job(number, "migrate", files_total=1000) for number in range(1, 4)]
    for number, (what, ino, urgent) in enumerate(steps):
        known = next((one for one in model if one.item.ino == ino), None)
        job = jobs[number % 3]
        for _ in range(7) if what == "append" else ():
            extra = 1000 + number * 10 + _
            one = Waiting(found(extra), float(number), False)
            queue.append(one)
            model.append(Waiting(found(extra), float(number), False))
        if what in ("append", "prepend") and known is None:
            for make in (True, False):
                one = Waiting(found(ino), float(number), urgent, [job] if urgent else [])
                if make:
                    (queue.append if what == "append" else queue.prepend)(one)
                else:
                    model.insert(len(model) if what == "append" else 0, one)
        elif what == "pop" and model:
            assert facts(queue.pop()) == facts(model.pop(0))
        elif what == "join":
            assert queue.join(ino, job, urgent) == (known is not None)
            if known is not None:
                known.urgent = known.urgent or urgent
                known.jobs += [] if job in known.jobs else [job]
        elif what == "let go":
            queue.let_go("why")
            for one in model:
                one.jobs = []
        assert len(queue) == len(model)
        assert queue.bytes == sum(one.item.size for one in model)
        assert queue.urgent == sum(one.urgent for one in model)
        assert (ino in queue) == any(one.item.ino == ino for one in model)
        if model and ino % 4 == 0:  # it opens the first block
            assert queue.oldest_s() == model[0].since_s
    assert [facts(queue.pop()) for _ in list(model)] == [facts(one) for one in model]
    assert sets.keep([]) == 0 and not sets._sets


def test_who_waits_for_planned_files() -> None:
    sets = JobSets()
    planned, one, other = PlannedFor(sets), Job(1, "migrate", 4), Job(2, "policy", 4)
    files = [FileVersion(ino, 7) for ino in range(5)]
    for file in files:
        planned.add(file, [one])
    planned.add(files[1], [other, one])
    planned.add(files[2], [])
    assert len(planned) == 5 and files[4] in planned and FileVersion(4, 8) not in planned
    assert [planned.pop(file) for file in files[:3]] == [[one], [one, other], [one]]
    planned.let_go(((file, b"p") for file in files), "held")
    assert (one.files_failed, one.errors) == (2, ["p: held"] * 2)
    assert len(planned) == 0 and not sets._sets
