"""What rules choose by columns is what explaining them says file by file."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.namespaces import File, fill

from hsmfs.daemon.candidates import Candidates
from hsmfs.daemon.facts import facts_in
from hsmfs.daemon.packing import Found
from hsmfs.daemon.policy.evaluate import Names, Policy, load_policy
from hsmfs.daemon.policy.facts import Facts
from hsmfs.daemon.selection import coldest, migrate_files, release_order
from hsmfs.heat import heated
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.memory import MemoryStore
from hsmfs.types import Residency

NOW_NS = 1_700_000_000 * 10**9
DAY_NS = 86_400 * 10**9
NAMES = Names((), {"ann": 1, "bob": 2}.get, {"staff": 3}.get)
FEW, MANY = 25, 700
FILES_OF_ONE = 15
"""Files of each example: MANY examples are 10,000 files and as many policies' rules."""

names = st.sampled_from(["a", "b", "ab.dcm", "x.JPG", "\u00e4", "a.tar.gz", "**", "\\"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
times = st.sampled_from([0, 1, -(1 << 63), (1 << 63) - 1, NOW_NS, NOW_NS + DAY_NS]) | st.integers(
    -30, 900
).map(lambda days: NOW_NS - days * DAY_NS)
scores = st.sampled_from([0.0, -1.0]) | st.integers(-900, 5).map(
    lambda days: heated(0.0, NOW_NS + days * DAY_NS)
)
files = st.builds(
    File,
    path=paths.map(str.encode),
    size=st.sampled_from([0, 1023, 1024, 2**20, 2**40, 2**59]) | st.integers(0, 5000),
    atime_ns=times,
    mtime_ns=times,
    ctime_ns=times,
    uid=st.integers(0, 3),
    gid=st.integers(0, 3),
    heat=scores,
    state=st.sampled_from([Residency.RESIDENT] * 4 + [Residency.PREMIGRATED]),
    copies=st.integers(0, 3),
    tier=st.integers(0, 1),
    pool=st.integers(0, 2),
    xattrs=st.dictionaries(st.just(b"user.p"), st.sampled_from([b"x", b"xy", b""]), max_size=1),
)
patterns = st.lists(
    st.sampled_from(["**", "*", "a", "b", "a*", "*.dcm", "?", "[ab]*", "**a", "\\\\*\\\\*"]),
    min_size=1,
    max_size=4,
).map("/".join)
signs = st.sampled_from(["<", "<=", ">", ">="])
comparisons = st.one_of(
    st.tuples(
        st.sampled_from(["age", "atime_age", "mtime_age", "ctime_age"]),
        signs,
        st.sampled_from(["0s", "1d", "30d", "400d", "900000y"]),
    ),
    st.tuples(
        st.just("size"), st.sampled_from(["<", "<=", ">", "=", "!="]),
        st.sampled_from(["0", "1KiB", "1MiB", "9000000TiB", "524288TiB"]),
    ),
    st.tuples(st.just("heat"), signs, st.sampled_from(["0", "0.5", "1", "0.001", "2", "0.25"])),
    st.tuples(st.sampled_from(["uid", "gid", "copies"]), st.just("="), st.sampled_from("0123")),
    st.tuples(st.just("owner"), st.sampled_from(["=", "!="]), st.sampled_from(["ann", "bob"])),
    st.tuples(st.just("group"), st.sampled_from(["=", "!="]), st.just("staff")),
    st.tuples(st.just("tier"), st.sampled_from(["=", "!="]), st.sampled_from(["ssd", "raid"])),
    st.tuples(st.just("state"), st.sampled_from(["=", "!="]), st.just("resident")),
    st.tuples(st.just("path"), st.just("~"), patterns.map('"/{}"'.format)),
    st.tuples(st.just("path"), st.sampled_from(["=", "!="]), st.sampled_from(['"/a"', '"/a/b"'])),
    st.tuples(st.just("name"), st.just("~"), st.sampled_from(['"a*"', '"?"', '"*.dcm"'])),
    st.tuples(st.just("name"), st.just("!="), st.just('"b"')),
    st.tuples(st.just("mime"), st.just("~"), st.sampled_from(['"image/*"', '"*/*zip"'])),
    st.tuples(
        st.just('xattr "user.p"'), st.sampled_from(["=", "!=", "~"]),
        st.sampled_from(['"x"', '""', '"x*"']),
    ),
).map(" ".join).filter(lambda text: not text.endswith('~ ""'))  # fmt: skip
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        inner.map("not ({})".format),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' and '.join(parts)})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' or '.join(parts)})"),
    ),
    max_leaves=6,
)
policies = st.lists(conditions, min_size=1, max_size=4)


def load(rules: list[str]) -> Policy:
    lines = [f"migrate m{n} to p when {condition}" for n, condition in enumerate(rules)]
    return load_policy("\n".join(["pool p { copies 1 }", *lines]), "p", ("ssd", "raid"), None,
                       names=NAMES)  # fmt: skip


def agree(found: list[File], rules: list[str]) -> None:
    """Each resident file goes where explaining says, whichever way the candidates are read."""
    policy, store = load(rules), MemoryStore()
    kept: dict[bytes, File] = {}
    for file in found:
        above = [other for other in kept if other.startswith(file.path + b"/")]
        inside = [other for other in kept if file.path.startswith(other + b"/")]
        if not above and not inside:
            kept[file.path] = file
    inodes = fill(store, list(kept.values()))
    with store.snapshot() as reader:
        view = NamespaceView(reader)
        expected: dict[bytes, str] = {}
        for path, file in kept.items():
            if file.state != Residency.RESIDENT:
                continue
            record = view.inode(inodes[path])
            assert record is not None
            rule = policy.migrate_rule_for(facts_in(view, path, record, NOW_NS), NOW_NS)
            if rule is not None:
                expected[path] = rule.name
        candidates = Candidates(view, Residency.RESIDENT)
        walk = [
            pair for pair in view.walk(1, b"") if pair[0] in expected
        ]  # in the order of directories
        for batches in (candidates.all(), candidates.slice(b"", 10**6)[1],
                        [batch for _, batch in candidates.coldest()]):  # fmt: skip
            chosen = migrate_files(policy.migrate, batches, NOW_NS)
            got = {item.path: one.rule.name for one in chosen for item in one.files}
            assert got == expected
            for one in chosen:
                order = [path for path, _ in walk if expected[path] == one.rule.name]
                assert [item.path for item in one.files] == order


@settings(max_examples=FEW, deadline=None)
@given(st.lists(files, min_size=1, max_size=FILES_OF_ONE), policies)
def test_rules_choose_what_explaining_says(found: list[File], rules: list[str]) -> None:
    agree(found, rules)


@pytest.mark.long
@settings(max_examples=MANY, deadline=None)
@given(st.lists(files, min_size=FILES_OF_ONE, max_size=FILES_OF_ONE), policies)
def test_rules_choose_what_explaining_says_of_ten_thousand(
    found: list[File], rules: list[str]
) -> None:
    agree(found, rules)


@settings(max_examples=FEW, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_the_coldest_come_first(seed: int, count: int) -> None:
    chance = random.Random(seed)
    made = [
        File(b"f%d" % n, uid=chance.randint(0, 1), pool=chance.randint(0, 2),
             heat=heated(0.0, NOW_NS - chance.randint(0, 900) * DAY_NS))
        for n in range(200)
    ]  # fmt: skip
    store = MemoryStore()
    inodes = fill(store, made)
    node = load(["uid = 1"]).migrate[0].condition.tree
    with store.snapshot() as reader:
        got = coldest(NamespaceView(reader), Residency.RESIDENT, node, NOW_NS, count).tolist()
    pairs = sorted((file.heat, inodes[file.path]) for file in made if file.uid == 1)
    assert got == [ino for _, ino in pairs[:count]]


orders = st.lists(
    st.tuples(
        st.sampled_from(["heat", "age", "size", "copies", "mtime_age", "uid"]),
        st.sampled_from(["", " desc"]),
    ).map("".join),
    max_size=3,
).map(lambda words: f" order by {', '.join(words)}" if words else "")


@settings(max_examples=4 * FEW, deadline=None)
@given(st.lists(files, max_size=40), orders, st.none() | conditions, st.integers(0, 20_000))
def test_release_goes_in_the_order_of_the_rule(
    found: list[File], order: str, pin: str | None, wanted: int
) -> None:
    kept = {b"f%d" % n: replace(file, path=b"f%d" % n) for n, file in enumerate(found)}
    text = f"release r from tier ssd when tier.used > 8% until tier.used < 6%{order}"
    pins = f"\npin p when {pin}" if pin else ""
    policy, store = load_policy(text + pins, "p", ("ssd", "raid"), None, names=NAMES), MemoryStore()
    inodes = fill(store, list(kept.values()))
    expected: list[Facts] = []
    with store.snapshot() as reader:
        view = NamespaceView(reader)
        for path, file in kept.items():
            record = view.inode(inodes[path])
            assert record is not None
            facts = facts_in(view, path, record, NOW_NS)
            if file.state == Residency.PREMIGRATED and policy.is_pinned(facts, NOW_NS) is None:
                expected.append(facts)
        got, is_whole = release_order(view, policy.release[0], policy.pin, NOW_NS, wanted)
    ordered = [facts.path for facts in policy.release[0].ordered(expected)]
    assert [item.path for item in got] == ordered[: len(got)]
    assert len(got) == len(ordered) if is_whole else _bytes(got) >= wanted


def _bytes(found: list[Found]) -> int:
    return sum(item.size for item in found)
