"""The same random operations on hsmfs and on ext4: results, errors and trees are the same.

A hypothesis state machine draws them and shrinks what fails. An operation runs
first on hsmfs and then on ext4, as root or as one of two other users; the
outcome is what it returned together with what stat(2) says after it, or the
errno. Whole trees are compared now and then, and at the end of each example.

Left out, as they may differ: the size of directories, where holes are (data
read through SEEK_DATA is compared), time stamps that the system sets, and
opening of device nodes (the mount has ``nodev``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from fuse.conftest import System, made_system
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from support import syscalls
from support.operations import Operation, operations, umasks, users
from support.sides import ROOT, Side, User
from support.trees import differences, tree_of

pytestmark = pytest.mark.fuse
SESSIONS: Final = ("pyfuse3", "native")
STEPS_PER_EXAMPLE: Final = 100
EXAMPLES_FACTOR: Final = 2
"""Examples for each of the profile's: 2 x 50 of 100 steps are 10,000 in CI."""
TREE_EVERY_STEPS: Final = int(os.environ.get("HSMFS_TREE_EVERY", "25"))
PHASES: Final = (
    (Phase.reuse, Phase.generate, Phase.shrink)
    if os.environ.get("HSMFS_SHRINK")
    else (Phase.reuse, Phase.generate)
)
"""Shrinking takes minutes for each of several failures: on request only."""
LAST_SHOWN: Final = 8
UNSUPPORTED: Final = errno.errorcode[errno.EOPNOTSUPP]
LACKING: Final = {"pyfuse3": ("fallocate", "tmpfile"), "native": ()}
"""What a session cannot do: the binding has no handlers for it."""
FAR: Final = 1 << 43


def is_beyond_binding(operation: Operation) -> bool:
    """What the binding gets wrong: both flags of setxattr(2) at once; set-id
    bits go before a write that fails because it is too far."""
    name, *arguments = operation
    return (name == "setxattr" and arguments[-1] == 3) or (
        name == "pwrite" and arguments[-1] >= FAR
    )


class Pair:
    """A directory on a mounted hsmfs and one on ext4."""

    def __init__(self, system: System, ext4: Path, session: str) -> None:
        self.roots = (system.mnt, ext4)
        self.lacking = LACKING[session]
        self._numbers = count()

    def fresh(self) -> tuple[Path, Path]:
        """Two new directories that everybody may use."""
        name = f"{next(self._numbers)}"
        made = tuple(root / name for root in self.roots)
        for path in made:
            path.mkdir()
            path.chmod(0o777)
            for inner in ("d", "d/e", "e"):
                (path / inner).mkdir()
                (path / inner).chmod(0o777)
            for inner in ("a", "d/a", "e/b"):
                (path / inner).write_bytes(b"content of " + inner.encode())
                (path / inner).chmod(0o666)
        return made[0], made[1]


class SameAsExt4(RuleBasedStateMachine):
    """Operations on both sides, one after another."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair
        self.paths = pair.fresh()
        self.sides = [
            Side(os.open(path, os.O_PATH | os.O_DIRECTORY), bool(pair.lacking))
            for path in self.paths
        ]
        self.steps = 0
        self.last: list[str] = []

    @rule(user=users, umask=umasks, operation=operations)
    def step(self, user: User, umask: int, operation: Operation) -> None:
        """One operation."""
        if self.pair.lacking and is_beyond_binding(operation):
            return
        ours = self._do(0, user, umask, operation)
        if operation[0] in self.pair.lacking and ours == UNSUPPORTED:
            self._skip(operation)
            return
        theirs = self._do(1, user, umask, operation)
        assert ours == theirs, f"hsmfs: {ours!r:.300}; ext4: {theirs!r:.300}"
        self.steps += 1
        self.last = [*self.last[1 - LAST_SHOWN :], f"{operation[:2]!r:.80} -> {ours!r:.120}"]
        if self.steps % TREE_EVERY_STEPS == 0:
            self._compare()

    def _do(self, side: int, user: User, umask: int, operation: Operation) -> Any:
        user = user if os.geteuid() == 0 else User(os.geteuid(), os.getegid(), ())
        return self.sides[side].do(user, umask, *operation)

    def _skip(self, operation: Operation) -> None:
        """Only hsmfs closed the file of a slot; do the same on ext4."""
        if operation[0] == "tmpfile":
            self._do(1, ROOT, 0, ("close", operation[1]))

    def _compare(self) -> None:
        trees = [tree_of(os.fsencode(path)) for path in self.paths]
        assert trees[0] == trees[1], "\n".join(
            ["hsmfs / ext4", *differences(*trees), "the last were", *self.last]
        )

    def teardown(self) -> None:
        try:
            self._compare()
        finally:
            for side, path in zip(self.sides, self.paths, strict=True):
                side.close_all()
                os.close(side.directory)
                shutil.rmtree(path)


@pytest.fixture(params=SESSIONS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """One mount for all examples of a session."""
    if request.param == "native":
        pytest.importorskip("hsmfs.session.native")
    (tmp_path / "ext4").mkdir()
    with made_system(tmp_path) as system:
        system.configure(fuse=f'session = "{request.param}"')
        system.start()
        _ask_for_fallocate(system.mnt)
        yield Pair(system, tmp_path / "ext4", request.param)


def _ask_for_fallocate(mnt: Path) -> None:
    """So that the kernel knows whether there is such a handler: it takes set-id
    bits before it asks for the first time (fs/fuse/file.c, ``fuse_file_fallocate``)."""
    path = mnt / "asked"
    with path.open("wb") as file, contextlib.suppress(OSError):
        syscalls.fallocate(file.fileno(), 0, 0, 1)
    path.unlink()


def test_random_operations_are_the_same(pair: Pair) -> None:
    current = settings.default
    assert current is not None
    run_state_machine_as_test(
        lambda: SameAsExt4(pair),
        settings=settings(
            current,
            max_examples=EXAMPLES_FACTOR * current.max_examples,
            stateful_step_count=STEPS_PER_EXAMPLE,
            phases=PHASES,
        ),
    )
