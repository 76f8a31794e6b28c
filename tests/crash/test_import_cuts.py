"""An import, and the end of one, cut at each step of hsmd: it is finished, or nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.importsystem import DISC, STEPS_MAX, System

from hsmfs.daemon.catalogrecords import DiscState
from hsmfs.errors import CallerError, FsError
from hsmfs.store.memory import MemoryStore


@pytest.mark.parametrize("both", [False, True], ids=["hsmd", "both"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_import_cut_at_each_step(after: bool, both: bool, tmp_path: Path) -> None:
    whole = 0
    for step in range(1, STEPS_MAX):
        system = System(tmp_path / str(step))
        ended = system.run(system.bring_in, step, after)
        system.restart(both=both)
        if system.label:
            whole += system.is_whole()
        else:
            assert system.is_gone()
        assert system.leaves_no_files()
        if ended:
            break
    else:
        raise AssertionError("it has no end")
    assert whole >= 5  # begin, two batches with their places, end


@pytest.mark.parametrize("both", [False, True], ids=["hsmd", "both"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_its_end_cut_at_each_step(after: bool, both: bool, tmp_path: Path) -> None:
    gone = 0
    for step in range(1, STEPS_MAX):
        system = System(tmp_path / str(step))
        assert system.run(system.bring_in, -1, False)
        ended = system.run(system.forget, step, after)
        system.restart(both=both)
        gone += system.is_whole() if system.label else system.is_gone()
        assert system.leaves_no_files()
        if ended:
            break
    else:
        raise AssertionError("it has no end")
    assert gone >= 5


def test_what_hsmfs_refuses_is_taken_back(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.bench.make(b"old", b"a file has the name")

    async def work() -> None:
        with pytest.raises(CallerError, match="is not imported: ENOTDIR"):
            await system.bring_in()

    assert system.run(work, -1, False)
    assert system.catalog.volumes == {}
    assert system.catalog.discs[DISC].state == DiscState.FOREIGN
    with pytest.raises(FsError):
        system.bench.attr(b"new")


def test_a_lost_catalog_gets_its_places_back(tmp_path: Path) -> None:
    system = System(tmp_path)
    assert system.run(system.bring_in, -1, False)
    system.store = MemoryStore()
    system.start()
    assert system.label == ""
    assert system.run(system.bring_in, -1, False)
    assert system.is_whole()
