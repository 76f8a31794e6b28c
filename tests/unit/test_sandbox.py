"""Pieces of the sandbox: processes known again, foreign ones left alone, mounts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsmfs.errors import CallerError, HsmError
from hsmfs.tools import mounts
from hsmfs.tools.compare import compare_trees
from hsmfs.tools.output import duration_words, printable, size_words
from hsmfs.tools.processes import Program, Running, start_ticks, wait_until
from hsmfs.tools.sandbox import Options, Sandbox, magazine_slots

WAITS = "import sys, time\nprint('up', flush=True)\ntime.sleep(60)\n"
ENDS = "print('no such disc')\n"
DEAF = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\ntime.sleep(60)\n"
)
MakeProgram = Callable[[str], Program]


@pytest.fixture
def make_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeProgram]:
    """A program of a sandbox that is a few lines of Python."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made: list[Program] = []

    def make(text: str) -> Program:
        (tmp_path / "hsmtestprogram.py").write_text(text)
        program = Program(
            name="hsmtest",
            module="hsmtestprogram",
            config=tmp_path / "hsmfs.toml",
            pid_file=tmp_path / "hsmtest.pid",
            log=tmp_path / "hsmtest.log",
        )
        made.append(program)
        return program

    yield make
    for program in made:
        program.stop(5.0)


def up(program: Program) -> bool:
    return wait_until(lambda: program.log.exists() and "up" in program.log.read_text(), 10.0)


def test_a_started_program_is_known_again_and_stops(make_program: MakeProgram) -> None:
    program = make_program(WAITS)
    process = program.start()
    assert up(program)
    assert program.running() == process
    assert os.getsid(process.pid) != os.getsid(0)
    assert program.stop(5.0) == "stopped"
    assert program.running() is None
    assert program.stop(5.0) == "was not running"


def test_a_program_started_by_hand_is_found(make_program: MakeProgram) -> None:
    program = make_program(WAITS)
    with subprocess.Popen(program.command(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = program.running()
        assert found is not None
        assert found.pid == process.pid
        process.kill()


def test_a_foreign_pid_is_never_ours(make_program: MakeProgram) -> None:
    program = make_program(WAITS)
    program.pid_file.write_text(f"{os.getpid()}\n")
    assert program.running() is None
    assert program.stop(1.0) == "was not running"


@pytest.mark.parametrize("text", ["", "x y", "12", "\0"])
def test_a_damaged_pid_file_means_not_running(make_program: MakeProgram, text: str) -> None:
    program = make_program(WAITS)
    program.pid_file.write_text(text)
    assert program.running() is None


def test_a_program_that_does_not_end_is_killed(make_program: MakeProgram) -> None:
    program = make_program(DEAF)
    program.start()
    assert up(program)
    assert program.stop(0.2).startswith("killed")
    assert program.running() is None


def test_its_last_words_are_in_its_log(make_program: MakeProgram) -> None:
    program = make_program(ENDS)
    try:
        process = program.start()
        assert wait_until(lambda: not process.alive(), 10.0)
        words = program.last_words()
    except HsmError as error:
        words = str(error)
    assert str(program.log) in words
    assert "no such disc" in words


def test_an_exited_child_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    ticks = start_ticks(child.pid)
    assert ticks is not None
    assert wait_until(lambda: not Running(child.pid, ticks).alive(), 10.0)
    child.wait()


def test_a_directory_that_is_no_mount(tmp_path: Path) -> None:
    assert not mounts.is_mounted(tmp_path)
    assert mounts.unmount_lazily(tmp_path)
    assert mounts.is_mounted(Path("/proc"))
    assert mounts.answers(Path("/proc"))


def test_other_peoples_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CallerError, match=r"thesis\.tex"):
        Sandbox(tmp_path).start(Options())
    assert sorted(os.listdir(tmp_path)) == ["thesis.tex"]


@pytest.mark.parametrize("command", ["stop", "health"])
def test_a_directory_without_a_sandbox(tmp_path: Path, command: str) -> None:
    with pytest.raises(CallerError, match="no sandbox"):
        getattr(Sandbox(tmp_path), command)()


@pytest.mark.parametrize(("slots", "size"), [(2, 1), (8, 4), (24, 12), (100, 12)])
def test_there_are_two_magazines_for_two_copies(slots: int, size: int) -> None:
    assert magazine_slots(slots) == size


def test_words_of_sizes_and_times() -> None:
    assert [size_words(n) for n in (0, 999, 1000, 1_234_567, 200_000_000, 10**30)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
        "200 MB",
        "1000000000000 EB",
    ]
    assert [duration_words(s) for s in (4.2, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 5 min"]
    assert printable("a\udce9\x1b") == "a\\xe9\\x1b"


def test_compare_sees_every_difference(tmp_path: Path) -> None:
    for side in ("one", "two"):
        (tmp_path / side).mkdir()
        for name in ("same", "bytes", "time"):
            (tmp_path / side / name).write_bytes(b"x" * 3_000_000)
            os.utime(tmp_path / side / name, ns=(5, 5))
    one, two = tmp_path / "one", tmp_path / "two"
    assert compare_trees(one, two).differences == []
    assert compare_trees(one, two).bytes == 9_000_000
    with (two / "bytes").open("r+b") as file:
        file.seek(2_500_000)
        file.write(b"y")
    os.utime(two / "bytes", ns=(5, 5))
    os.utime(two / "time", ns=(5, 6))
    (two / "more").touch()
    text = "\n".join(compare_trees(one, two).differences)
    assert "bytes: differs within the 1 MiB at offset 2097152" in text
    assert "time: st_mtime_ns 6, not 5" in text
    assert "more: only in" in text
    assert "same" not in text
