"""hsm fsck on random trees: nothing after any work, crash or start; after random
damage one repair, then nothing that could still be repaired, and no data gone."""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from support.checked import Checked
from support.engines import HEAD, ME

from hsmfs.deferred import Deferred, InlineExecutor
from hsmfs.errors import FsError
from hsmfs.fsck.findings import NEVER_REPAIRED
from hsmfs.namespace.engine import RENAME_EXCHANGE
from hsmfs.namespace.model import Opened
from hsmfs.types import FileVersion

NAMES: Final = [b"a", b"b", b"c", b"d"]
STEPS: Final = ("make", "mkdir", "unlink", "rmdir", "rename", "exchange", "link", "symlink")
MORE: Final = ("write", "truncate", "xattr", "burn", "release", "recall", "open", "wait", "restart")


class Work:
    """Random operations on the engine, errors and all."""

    def __init__(self, checked: Checked, chance: random.Random) -> None:
        self.checked = checked
        self.chance = chance
        self.open: list[int] = []
        self.burned: set[FileVersion] = set()

    @property
    def engine(self):
        return self.checked.bench.engine

    def folder(self) -> int:
        """Some directory."""
        ino = 1
        while self.chance.random() < 0.5:
            try:
                attr = self.engine.lookup(ino, self.chance.choice(NAMES))
            except FsError:
                return ino
            if attr.mode & 0o170000 != 0o040000:
                return ino
            ino = attr.ino
        return ino

    def name(self) -> bytes:
        return self.chance.choice(NAMES)

    def file(self) -> int:
        return self.engine.lookup(self.folder(), self.name()).ino

    def step(self, kind: str) -> None:
        try:
            getattr(self, "do_" + kind)()
        except (FsError, AssertionError):
            return

    def do_make(self) -> None:
        opened, _ = self.engine.create(self.folder(), self.name(), 0o644, os.O_RDWR, ME)
        self.engine.write(opened.fh, 0, self.chance.randbytes(self.chance.randrange(3 * HEAD)))
        self.open.append(opened.fh)

    def do_mkdir(self) -> None:
        self.engine.mkdir(self.folder(), self.name(), 0o755, ME)

    def do_unlink(self) -> None:
        self.engine.unlink(self.folder(), self.name())

    def do_rmdir(self) -> None:
        self.engine.rmdir(self.folder(), self.name())

    def do_rename(self) -> None:
        self.engine.rename(self.folder(), self.name(), self.folder(), self.name())

    def do_exchange(self) -> None:
        places = self.folder(), self.name(), self.folder(), self.name()
        self.engine.rename(*places, RENAME_EXCHANGE)

    def do_link(self) -> None:
        self.engine.link(self.file(), self.folder(), self.name())

    def do_symlink(self) -> None:
        self.engine.symlink(self.folder(), self.name(), b"to", ME)

    def do_write(self) -> None:
        if self.open:
            self.engine.write(self.chance.choice(self.open), 100, b"more" * 50)

    def do_truncate(self) -> None:
        ino = self.file()
        opened = self.engine.open(ino, os.O_RDWR | os.O_TRUNC, ME)
        if isinstance(opened, Deferred):
            opened.then(self.opened_later)  # the next commit makes its new version durable
        else:
            self.open.append(opened.fh)

    def opened_later(self, done: Deferred[Opened]) -> None:
        if done.error is None:
            self.open.append(done.result().fh)

    def do_xattr(self) -> None:
        self.engine.setxattr(self.file(), b"user.x", b"y")

    def do_open(self) -> None:
        while self.open:
            self.engine.release(self.open.pop())

    def version(self) -> tuple[FileVersion, int]:
        record = self.engine.tables.inode(self.file())
        return FileVersion(record.ino, record.data_version), record.size

    def do_burn(self) -> None:
        self.do_open()
        file, size = self.version()
        if not self.engine.claim([file]).result()[0].refused:
            if file not in self.burned:
                self.burned.add(file)
                self.checked.burned(file, size)
            self.checked.count(file)
            self.engine.unclaim([file])

    def do_release(self) -> None:
        self.do_open()
        self.engine.release_data([self.version()[0]], HEAD)

    def do_recall(self) -> None:
        self.engine.recall_begin(self.version()[0])

    def do_wait(self) -> None:
        self.checked.bench.executor.advance(self.chance.choice([0.01, 0.06, 40.0]))

    def do_restart(self) -> None:
        """After a crash: what was not committed is gone."""
        self.open.clear()
        self.checked.bench.executor = InlineExecutor()
        self.checked.bench.reopen()


seeds = st.integers(0, 1 << 32)


@given(seed=seeds, steps=st.lists(st.sampled_from(STEPS + MORE), min_size=5, max_size=60))
def test_nothing_is_found_at_any_moment(seed, steps):
    with tempfile.TemporaryDirectory() as folder:
        checked = Checked(Path(folder) / "tier")
        checked.start()
        work = Work(checked, random.Random(seed))
        for step in steps:
            work.step(step)
            assert checked.check() == [], step
        checked.start()
        assert checked.check() == []
        checked.close()
        assert checked.check() == []


def damaged(checked: Checked, chance: random.Random) -> None:
    """Change, cut, remove or move one item of the store."""
    with checked.bench.store.snapshot() as reader:
        items = [item for item in reader.scan(b"\0", b"\xff") if item[0] != b"Mversion"]
    key, value = chance.choice(items)
    kind = chance.choice(["drop", "cut", "flip", "move", "empty"])
    if kind in ("drop", "move"):
        checked.delete(key)
    if kind == "cut":
        checked.put(key, value[: chance.randrange(len(value) + 1)])
    if kind == "empty":
        checked.put(key, b"")
    if kind == "flip" and value:
        checked.put(key, flipped(value, chance))
    if kind == "move":
        checked.put(key[:1] + flipped(key[1:], chance), value)


def flipped(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


@given(
    seed=seeds, steps=st.lists(st.sampled_from(STEPS + MORE), max_size=40), count=st.integers(1, 6)
)
def test_after_one_repair_nothing_is_left_to_repair(seed, steps, count):
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        checked = Checked(Path(folder) / "tier")
        checked.start()
        work = Work(checked, chance)
        for step in steps:
            work.step(step)
        work.do_open()
        checked.close()
        data = Counter(checked.cached())
        for _ in range(count):
            damaged(checked, chance)
        seen = [finding.kind for finding in checked.check()]
        repaired = checked.check(repair=True)
        assert [finding.kind for finding in repaired] == seen
        left = checked.check()
        assert [found for found in left if found.repair or found.kind not in NEVER_REPAIRED] == []
        assert not data - Counter(checked.cached()), "no byte that was cached is gone"
        checked.tree()
        after = [found for found in checked.check() if found.kind not in NEVER_REPAIRED]
        assert after == [], "the engine works on what was repaired"
