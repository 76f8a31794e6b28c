"""What hsmfs does for hsm adopt: records for files that have their second name already."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.engines import Bench, now

from hsmfs.errors import FsError
from hsmfs.namespace.adoption import UNFINISHED, UNFINISHED_STOP, Adoption
from hsmfs.namespace.model import Limit
from hsmfs.rpc.adoptmessages import (
    ADOPT_ITEMS_MAX,
    AdoptAttr,
    AdoptBegin,
    AdoptBlock,
    AdoptEnd,
    AdoptItem,
    AdoptLook,
    AdoptMade,
    AdoptMake,
    AdoptName,
    AdoptNumbers,
)

FOLDER = AdoptAttr(stat.S_IFDIR | 0o750, 5, 6, 0, 4096, 8, 1, 2, 3, b"", [])


def file_attr(size: int, **more: Any) -> AdoptAttr:
    facts: dict[str, Any] = {
        "mode": stat.S_IFREG | 0o640,
        "uid": 7,
        "gid": 8,
        "rdev": 0,
        "size": size,
        "blocks": -(-size // 512),
        "atime_ns": 11,
        "mtime_ns": -12,
        "btime_ns": 13,
        "target": b"",
        "xattrs": [],
    }
    return AdoptAttr(**(facts | more))


def begin(target: bytes = b"top", files: int = 1, size: int = 0) -> AdoptBegin:
    return AdoptBegin(b"/old", 99, target, FOLDER, files, size)


class Adopting:
    """A bench with an adoption on it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.told: list[tuple[int, bytes]] = []
        self.adoption = Adoption(bench.engine, self.told.extend)

    def numbers(self) -> AdoptBlock:
        return now(self.adoption.numbers(AdoptNumbers()))

    def link(self, number: int, data: bytes) -> None:
        """The command's part: the second name."""
        path = Path(self.bench.engine.tier.path(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def make(self, *items: AdoptItem) -> AdoptMade:
        answer = self.adoption.make(AdoptMake(list(items)))
        while not answer.done:
            self.bench.executor.advance(0.01)
        return now(answer)

    def unfinished(self) -> int:
        return len(list(self.bench.engine.tables.kv.scan(UNFINISHED, UNFINISHED_STOP)))


def item(name: bytes, number: int, attr: AdoptAttr, folder: bytes = b"") -> AdoptItem:
    return AdoptItem(AdoptName(folder, name), number, False, attr)


@pytest.fixture
def adopting(tmp_path: Path) -> Adopting:
    return Adopting(Bench(tmp_path / "cache"))


def refusal(number: int, call: Any, *args: Any) -> str:
    with pytest.raises(FsError) as caught:
        now(call(*args))
    assert caught.value.errno == number
    return caught.value.why


def test_records_are_as_the_inodes_were(adopting: Adopting) -> None:
    engine = adopting.bench.engine
    assert not now(adopting.adoption.begin(begin())).resumed
    block = adopting.numbers()
    adopting.link(block.start, b"data")
    link = file_attr(0, mode=stat.S_IFLNK | 0o777, target=b"to\xff")
    made = adopting.make(
        item(b"sub", 0, FOLDER),
        item(b"f", block.start, file_attr(4, xattrs=[(b"user.a", b"\0")]), b"sub"),
        AdoptItem(AdoptName(b"", b"also f"), block.start, True, file_attr(4)),
        item(b"link", 0, link),
        item(b"fifo", 0, file_attr(0, mode=stat.S_IFIFO | 0o600)),
    )
    assert made.refused == [""] * 5
    top = adopting.bench.attr(b"top")
    assert (top.mode, top.nlink, top.mtime_ns) == (stat.S_IFDIR | 0o750, 3, 2)
    sub = engine.lookup(top.ino, b"sub")
    attr = engine.lookup(sub.ino, b"f")
    assert attr[2:6] == (stat.S_IFREG | 0o640, 2, 7, 8)
    assert (attr.atime_ns, attr.mtime_ns, attr.btime_ns) == (11, -12, 13)
    assert engine.lookup(top.ino, b"also f").ino == attr.ino == block.start
    assert adopting.bench.content(attr.ino) == b"data"
    assert engine.getxattr(attr.ino, b"user.a") == b"\0"
    assert engine.readlink(engine.lookup(top.ino, b"link").ino) == b"to\xff"
    assert (sub.ino, b"f") in adopting.told
    now(adopting.adoption.end(AdoptEnd(True)))
    assert adopting.unfinished() == 0
    assert engine.status().states[0].bytes == 4


def test_a_crash_removes_second_names_without_records(adopting: Adopting) -> None:
    now(adopting.adoption.begin(begin()))
    block = adopting.numbers()
    adopting.link(block.start, b"kept")
    adopting.link(block.start + 1, b"cut")
    adopting.make(item(b"f", block.start, file_attr(4)))
    adopting.bench.reopen()
    engine = adopting.bench.engine
    assert os.path.exists(engine.tier.path(block.start))
    assert not os.path.exists(engine.tier.path(block.start + 1))
    again = Adopting(adopting.bench)
    assert now(again.adoption.begin(begin())).resumed
    found = again.adoption.look(AdoptLook([AdoptName(b"", b"f"), AdoptName(b"no", b"f")])).found
    assert [one.ino for one in found] == [block.start, 0]
    assert again.numbers().start >= block.stop


def test_who_goes_away_gives_numbers_back(adopting: Adopting) -> None:
    now(adopting.adoption.begin(begin()))
    block = adopting.numbers()
    adopting.link(block.start, b"left behind")
    adopting.adoption.abandon()
    assert not os.path.exists(adopting.bench.engine.tier.path(block.start))
    assert refusal(errno.EPROTO, adopting.adoption.numbers, AdoptNumbers())
    assert now(adopting.adoption.begin(begin())).resumed
    assert adopting.unfinished() == 1


def test_an_abandoned_batch_is_still_made_whole(adopting: Adopting) -> None:
    now(adopting.adoption.begin(begin()))
    block = adopting.numbers()
    items = []
    for number in range(block.start, block.start + 120):
        adopting.link(number, b"x")
        items.append(item(b"f%d" % number, number, file_attr(1)))
    answer = adopting.adoption.make(AdoptMake(items))
    adopting.adoption.abandon()
    while not answer.done:
        adopting.bench.executor.advance(0.01)
    assert now(answer).refused == [""] * 120
    assert all(os.path.exists(adopting.bench.engine.tier.path(one.number)) for one in items)
    assert adopting.bench.engine.status().states[0].files == 120


def test_what_is_refused_changes_nothing(adopting: Adopting) -> None:
    now(adopting.adoption.begin(begin()))
    block = adopting.numbers()
    strange = file_attr(0, xattrs=[(b"user.hsm.pin", b"1")])
    foreign = file_attr(0, xattrs=[(b"btrfs.compression", b"z")])
    made = adopting.make(
        item(b"not given", block.stop + 5, file_attr(1)),
        item(b"x" * 256, block.start, file_attr(1)),
        item(b"..", block.start, file_attr(1)),
        item(b"f", block.start, file_attr(1), b"missing"),
        item(b"g", block.start, strange),
        item(b"h", block.start, foreign),
        item(b"bad acl", block.start, file_attr(0, xattrs=[(b"system.posix_acl_access", b"x")])),
    )
    words = ["EPROTO", "ENAMETOOLONG", "EINVAL", "ENOENT", "ENOTSUP", "ENOTSUP", "EINVAL"]
    assert [why.split(":")[0] for why in made.refused] == words
    assert adopting.bench.engine.status().states[0].files == 0
    many = AdoptMake([item(b"f", 0, FOLDER)] * (ADOPT_ITEMS_MAX + 1))
    assert refusal(errno.E2BIG, adopting.adoption.make, many)
    assert refusal(errno.EEXIST, adopting.adoption.begin, begin(b"other"))


def test_all_of_it_must_fit(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "a", quotas=(Limit("/q", 100, 3),))
    adopting = Adopting(bench)
    assert "quota of /q" in refusal(errno.EDQUOT, adopting.adoption.begin, begin(b"q/t", 3, 101))
    assert "quota of /q" in refusal(errno.EDQUOT, adopting.adoption.begin, begin(b"q/t", 4, 1))
    now(adopting.adoption.begin(begin(b"q/t", 2, 100)))
    full = Adopting(Bench(tmp_path / "b", capacity_bytes=1000))
    assert "capacity_bytes" in refusal(errno.ENOSPC, full.adoption.begin, begin(size=1001))
    assert refusal(errno.ENOENT, full.adoption.begin, begin(b"no/t"))
    assert full.unfinished() == 0
