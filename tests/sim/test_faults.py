"""The main job with each fault of the emulated library, at moments of chance (support.mainjob).

No reader gets wrong data, no verified copy is lost, and the work ends, whatever the fault. The
suite runs a few of each kind; ``make test-long`` as many as the roadmap promises, and
``HSMFS_FAULT_RUNS`` another number.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from support.mainjob import KINDS, Counts, counted, fault_of, run_with

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
RUNS = int(os.environ.get("HSMFS_FAULT_RUNS", "500" if LONG else "1"))
FIRST = int(os.environ.get("HSMFS_FAULT_FIRST", "0"))
MEMORY = Path("/dev/shm")

pytestmark = pytest.mark.allow_warnings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory, where there is room: each run makes its discs durable many times."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 1 << 30
    path = MEMORY / f"hsmfs-faults-{os.getpid()}" if roomy else tmp_path_factory.mktemp("faults")
    path.mkdir(exist_ok=True)
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield path
    structlog.configure(**before)
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def counts(place: Path) -> Counts:
    found = counted(place / "counted")
    shutil.rmtree(place / "counted")
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_main_job_ends_well_with_one_fault(
    kind: str, place: Path, counts: Counts, capsys: pytest.CaptureFixture[str]
) -> None:
    struck = again = 0
    failed: list[str] = []
    for seed in range(FIRST, FIRST + RUNS):
        fault, root = fault_of(kind, seed, counts), place / "run"
        try:
            outcome = run_with(root, fault)
            struck += outcome.struck
            again += outcome.asked_again > 0
            assert not outcome.reader_errors, outcome.reader_errors
        except Exception as error:
            failed.append(f"seed {seed}: {fault}\n{type(error).__name__}: {error}")
        finally:
            shutil.rmtree(root, ignore_errors=True)
    with capsys.disabled():
        print(f"\n{kind}: {RUNS} runs, {struck} struck, asked again in {again}", end="")
    assert not failed, f"{len(failed)} of {RUNS} runs:\n" + "\n".join(failed[:3])
