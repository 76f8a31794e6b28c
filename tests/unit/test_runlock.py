"""One program of a sort for each run directory."""

from __future__ import annotations

import os

import pytest

from hsmfs import runlock
from hsmfs.errors import CallerError


def refused(program, directory, *words):
    with pytest.raises(CallerError) as caught, program(directory, "hsmd", *words):
        pass
    return str(caught.value)


def test_held_and_given_back(tmp_path):
    with runlock.only_one(tmp_path, "hsmd"):
        assert runlock.holder(tmp_path, "hsmd") == os.getpid()
        with runlock.only_one(tmp_path, "hsmfs"):
            pass
        said = refused(runlock.only_one, tmp_path, lambda: 0.0)
        assert f"hsmd runs already with process id {os.getpid()};" in said
        assert "hsmd runs" in refused(runlock.at_rest, tmp_path)
    assert runlock.holder(tmp_path, "hsmd") == 0
    with runlock.at_rest(tmp_path, "hsmd"):
        assert "hsm fsck works" in refused(runlock.only_one, tmp_path, lambda: 0.0)
    with runlock.only_one(tmp_path, "hsmd"):
        pass


@pytest.mark.parametrize("text", ["", "x", "999999999\n"])
def test_the_process_id_of_a_crashed_run(tmp_path, text):
    (tmp_path / "hsmd.pid").write_text(text)
    assert runlock.holder(tmp_path, "hsmd") == 0
    with runlock.only_one(tmp_path, "hsmd"):
        assert runlock.holder(tmp_path, "hsmd") == os.getpid()


def test_it_waits_for_one_that_ends(tmp_path):
    with runlock.only_one(tmp_path, "hsmd"):
        asked = []

        def wait_s() -> float:
            asked.append(True)
            return 10.0 if len(asked) < 3 else 0.0

        with pytest.raises(CallerError), runlock.only_one(tmp_path, "hsmd", wait_s):
            pass
        assert len(asked) == 3


def test_a_lock_file_that_cannot_be_opened(tmp_path):
    (tmp_path / "hsmd.lock").mkdir()
    assert "Is a directory" in refused(runlock.only_one, tmp_path)
