"""What loaded rules say about files and tiers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hsmfs.daemon.policy.evaluate import Names, Policy, PoolDefaults, load_policy
from hsmfs.daemon.policy.facts import FACTS, Facts

DAY_NS = 86_400 * 10**9
NAMES = Names((), {"ann": 1000, "bob": 1001}.get, {"staff": 100}.get)
NOW_NS = 1_000 * DAY_NS
DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = """
pool "imaging" { copies 2 spread magazine; burn when full or oldest > 7d; head 64KiB }
migrate "cold studies" to "imaging" when age > 30d and heat < 0.5 and path ~ "/pacs/**"
release "make room" from tier "ssd" when tier.used > 85% until tier.used < 70% order by heat, size desc
pin "new patients" when path ~ "/pacs/today/**"
"""  # noqa: E501


def facts(path: bytes = b"pacs/a/1.dcm", *, age_days: float = 40, **changes: object) -> Facts:
    then = NOW_NS - int(age_days * DAY_NS)
    values: dict[str, object] = {
        "path": path,
        "name": path.rpartition(b"/")[2],
        "size": 1000,
        "atime_ns": then,
        "mtime_ns": then,
        "ctime_ns": then,
        "uid": 1000,
        "gid": 100,
        "heat": 0.25,
        "state": "resident",
        "copies": 0,
        "ino": 7,
    }
    return Facts(**{**values, **changes})  # type: ignore[arg-type]


def load(text: str, magazines: int | None = 2) -> Policy:
    return load_policy(text, "site.policy", ("ssd", "raid"), magazines, names=NAMES)


def holds(condition: str, file: Facts) -> bool:
    return load(f"pin x when {condition}").is_pinned(file, NOW_NS) is not None


def test_the_example_of_the_architecture() -> None:
    policy = load(EXAMPLE)
    pool = policy.pools["imaging"]
    assert (pool.copies, pool.spread, pool.head_bytes) == (2, "magazine", 65536)
    assert (pool.burn_when_full, pool.burn_max_wait_s) == (True, 7 * 86400)
    rule = policy.migrate_rule_for(facts(), NOW_NS)
    assert rule is not None
    assert (rule.name, rule.pool, rule.line) == ("cold studies", "imaging", 3)
    assert policy.migrate_rule_for(facts(age_days=29), NOW_NS) is None
    assert policy.migrate_rule_for(facts(heat=0.5), NOW_NS) is None
    assert policy.migrate_rule_for(facts(b"home/x"), NOW_NS) is None
    pin = policy.is_pinned(facts(b"pacs/today/1.dcm"), NOW_NS)
    assert pin is not None and pin.name == "new patients"
    assert policy.migrate_rule_for(facts(b"pacs/today/1.dcm"), NOW_NS) is rule
    assert policy.is_pinned(facts(), NOW_NS) is None


def test_explain_tells_each_condition_with_its_value() -> None:
    rule = load(EXAMPLE).migrate[0]
    assert rule.explain(facts(b"home/x", age_days=1.5), NOW_NS) == [
        ("age > 30d", "1.5d", False),
        ("heat < 0.5", "0.25", True),
        ('path ~ "/pacs/**"', '"/home/x"', False),
    ]


def test_explain_of_not_tells_what_the_rule_sees() -> None:
    text = 'pin x when not path ~ "/a/*" and not (size > 1KiB or state = migrated) and always'
    assert load(text).pin[0].explain(facts(b"/b", size=1536), NOW_NS) == [
        ('not path ~ "/a/*"', '"/b"', True),
        ("size > 1KiB", "1.5KiB", True),
        ("state = migrated", "resident", False),
        ("always", "", True),
    ]


@pytest.mark.parametrize(
    ("condition", "changes", "expected"),
    [
        ("age > 30d", {"mtime_ns": NOW_NS}, False),
        ("age > 30d", {"atime_ns": NOW_NS}, False),
        ("age >= 40d", {}, True),
        ("age > 40d", {}, False),
        ("age < 1s", {"atime_ns": NOW_NS + DAY_NS}, True),
        ("atime_age < 1s", {"atime_ns": NOW_NS}, True),
        ("atime_age < 1s", {"mtime_ns": NOW_NS}, False),
        ("mtime_age < 1m", {"mtime_ns": NOW_NS}, True),
        ("ctime_age < 1h", {"ctime_ns": NOW_NS}, True),
        ("age > 5w", {}, True),
        ("age > 0.1y", {}, True),
        ("age > 0.2y", {}, False),
        ("size > 1kB", {"size": 1001}, True),
        ("size > 1KiB", {"size": 1024}, False),
        ("size >= 1.5KiB", {"size": 1536}, True),
        ("size = 0", {"size": 0}, True),
        ("size != 0B", {"size": 0}, False),
        ("size >= 1GiB", {"size": 2**30}, True),
        ("size < 1TB", {"size": 10**12}, False),
        ("heat >= 0.25", {}, True),
        ("uid = 1000 and gid != 100", {}, False),
        ("copies < 1", {}, True),
        ("owner = ann", {}, True),
        ("owner != bob", {}, True),
        ('owner = "bob"', {}, False),
        ("group = staff", {}, True),
        ("tier = raid", {}, False),
        ("tier = ssd", {}, True),
        ("tier != ssd", {"tier": 1}, True),
        ("residency = resident", {}, True),
        ('mime = "application/dicom"', {}, True),
        ('mime ~ "image/*"', {"name": b"a.JPG"}, True),
        ('mime ~ "image/*"', {"name": b".jpg"}, False),
        ('mime = "application/gzip"', {"name": b"a.tar.gz"}, True),
        ('mime != "application/octet-stream"', {"name": b"a.\xff"}, False),
        ('xattr "user.p" = "x"', {"xattrs": {b"user.p": b"x"}}, True),
        ('xattr "user.p" = ""', {}, True),
        ('xattr "user.p" ~ "x*"', {"xattrs": {b"user.p": b"xy"}}, True),
        ('xattr "user.p" != "x"', {}, True),
        ("state = recalling", {"state": "recalling"}, True),
        ("state != resident", {}, False),
        ('name ~ "*.dcm"', {}, True),
        ('name = "1.dcm"', {}, True),
        ('name != "1.dcm"', {}, False),
        ('path = "/pacs/a/1.dcm"', {}, True),
        ('path = "/pacs/a/1.dcm"', {"path": b"/pacs/a/1.dcm"}, True),
        ('path ~ "/pacs/**"', {"path": b"/pacs/a/1.dcm"}, True),
        ('path ~ "**/\\xff*"', {"path": b"a/\xff\xfe"}, True),
        ('path ~ "**/\u00e4?"', {"path": "a/\u00e4\u00f6".encode()}, True),
        ("always", {}, True),
        ("not always", {}, False),
        ("not always or always", {}, True),
        ("not (always or always)", {}, False),
        ("always or always and not always", {}, True),
        ("(always or always) and not always", {}, False),
        ("not not always", {}, True),
    ],
)
def test_conditions(condition: str, changes: dict[str, object], expected: bool) -> None:
    assert holds(condition, facts(**changes)) is expected  # type: ignore[arg-type]


def test_the_first_rule_that_matches_decides() -> None:
    policy = load(
        "migrate small to a when size < 1MiB; migrate rest to b when always\n"
        "pool a { copies 1 } pool b { copies 1 }"
    )
    first, second = policy.migrate
    assert policy.migrate_rule_for(facts(), NOW_NS) is first
    assert policy.migrate_rule_for(facts(size=2**20), NOW_NS) is second
    assert first.matches(facts(), NOW_NS) and second.matches(facts(), NOW_NS)


def test_a_pool_that_says_little_gets_the_defaults() -> None:
    defaults = PoolDefaults(burn_max_wait_s=60.0, head_bytes=4096)
    text = "pool p { copies 1 } pool q { copies 1; burn when full; head 0 }"
    policy = load_policy(text, "p", set(), None, defaults)
    p, q = policy.pools["p"], policy.pools["q"]
    assert (p.spread, p.burn_when_full, p.burn_max_wait_s) == ("magazine", True, 60.0)
    assert p.head_bytes == 4096
    assert (q.burn_when_full, q.burn_max_wait_s, q.head_bytes) == (True, None, 0)


def test_burn_by_age_only() -> None:
    pool = load("pool p { copies 1; burn when oldest > 0s }").pools["p"]
    assert (pool.burn_when_full, pool.burn_max_wait_s) == (False, 0.0)


def test_more_copies_than_magazines_pass_while_these_are_unknown() -> None:
    assert load("pool p { copies 9 }", magazines=None).pools["p"].copies == 9


def test_watermarks_have_hysteresis() -> None:
    rule = load(EXAMPLE).release_rule_for("ssd")
    assert rule is not None
    assert [rule.should_start(used) for used in (0.7, 0.85, 0.86)] == [False, False, True]
    assert [rule.should_stop(used) for used in (0.86, 0.70, 0.69)] == [False, False, True]
    assert load(EXAMPLE).release_rule_for("raid") is None


def test_release_goes_in_the_order_of_the_rule_and_then_by_inode() -> None:
    rule = load(EXAMPLE).release[0]
    files = [
        facts(heat=2.0, size=9, ino=1),
        facts(heat=1.0, size=5, ino=3),
        facts(heat=1.0, size=5, ino=2),
        facts(heat=1.0, size=9, ino=4),
    ]
    assert [file.ino for file in rule.ordered(files)] == [4, 2, 3, 1]


@pytest.mark.parametrize(
    ("order", "inodes"),
    [("age", [1, 2]), ("age asc", [1, 2]), ("age desc", [2, 1]), ("", [2, 1]), ("copies", [1, 2])],
)
def test_release_by_age(order: str, inodes: list[int]) -> None:
    text = "release r from tier ssd when tier.used > 80% until tier.used < 60%"
    rule = load(f"{text} order by {order}" if order else text).release[0]
    files = [facts(age_days=1, ino=1), facts(age_days=9, ino=2)]
    assert [file.ino for file in rule.ordered(files)] == inodes


def test_long_conditions_do_not_exhaust_the_stack() -> None:
    condition = " or ".join(f"uid = {number}" for number in range(1000))
    assert holds(condition, facts(uid=999))
    assert not holds(condition, facts(uid=1000))


def test_an_empty_policy_does_nothing() -> None:
    policy = load("# nothing yet\n")
    assert policy.migrate_rule_for(facts(), NOW_NS) is None
    assert (policy.pools, policy.release, policy.pin) == ({}, (), ())


def test_the_examples_of_the_manual_load() -> None:
    blocks = re.findall(r"```policy\n(.*?)```", (DOCS / "policy.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        load(block)


def test_the_manual_names_every_fact() -> None:
    manual = (DOCS / "policy.md").read_text()
    assert [name for name in FACTS if f"| `{name}` |" not in manual] == []


def test_a_rule_has_hours_rates_and_bounds() -> None:
    text = (
        "pool p { copies 1 } migrate m to p when always between 20:00 and 06:00 at most 300/m "
        "at most 1MiB/s at most 7 at once suspend at 20% migrate n to p when always"
    )
    rule, plain = load(text).migrate
    pace = rule.pace
    assert (pace.files_per_s, pace.bytes_per_s, pace.at_once, pace.errors) == (5, 2**20, 7, 0.2)
    minutes = (0, 359, 360, 1199, 1200, 1439)
    assert [pace.is_open(minute) for minute in minutes] == [True, True, False, False, True, True]
    assert pace.window is not None
    assert [pace.window.wait_minutes(minute) for minute in minutes] == [0, 0, 840, 1, 0, 0]
    assert all(plain.pace.is_open(minute) for minute in minutes)
    assert (plain.pace.at_once, plain.pace.errors) == (0, 0.1)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "pin a when age > 30d and age < 10d",
            "line 1: rule 'a' can never match: age > 30d and age < 10d",
        ),
        (
            "pin a when size > 3B\npin b when (size > 4B or size = 9B) and uid = 3",
            "line 2: rule 'b' decides for no file: rule 'a' of line 1 matches all that it does",
        ),
        (
            'pin a when path ~ "/a/**"\npin b when path ~ "/a/b*/**"',
            "line 2: rule 'b' decides for no file: rule 'a' of line 1 matches all that it does",
        ),
        (
            'pin a when name ~ "*.dcm"\npin b when name = "x.dcm"',
            "line 2: rule 'b' decides for no file: rule 'a' of line 1 matches all that it does",
        ),
        (
            "pool p { copies 1 } migrate m to p when state = migrated",
            "line 1: rule 'm' can never match: only files in state resident are migrated",
        ),
        (
            "release r from tier ssd when tier.used > 50% until tier.used < 5%",
            "line 1: rule 'r' releases nearly everything that is on discs: it goes on until tier "
            "'ssd' is filled by less than 5%",
        ),
    ],
)
def test_what_is_probably_not_meant_is_told(text: str, warning: str) -> None:
    assert load(text).warnings == (warning,)


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE,
        "pin a when size > 3B\npin b when size >= 3B",
        "pin a when size > 3B and uid != 4\npin b when size > 3B",
        'pin a when path ~ "/a/*"\npin b when path ~ "/a/b/*"',
        'pin a when not path ~ "/a/**"\npin b when path ~ "/b/**"',
        "pin a when owner = ann\npin b when owner != ann",
        "pin a when " + " and ".join(f"(uid = {n} or gid = {n})" for n in range(20)),
    ],
)
def test_rules_that_may_all_decide_are_left_alone(text: str) -> None:
    assert load(text).warnings == ()


def test_what_is_not_carried_out_is_said() -> None:
    text = (
        "demote d from tier ssd to tier raid when always\nretain r for 30y when always\n"
        "recall-ahead a when always\nlimit l recalls when always at most 1/s"
    )
    policy = load(text)
    assert policy.retain[0].period_s == 30 * 365 * 86400
    assert [line.split(":")[0] for line in policy.not_carried_out()] == [
        "line 1",
        "line 2",
        "line 4",
    ]


def test_care_of_discs_is_said_by_pool_or_by_the_defaults() -> None:
    defaults = PoolDefaults(parity=1, scrub_s=1000.0, scrub_percent=25.0)
    text = (
        "pool p { copies 3; offsite 1; parity 2; scrub every 2y sample 10%; "
        "reclaim when dead > 70% } "
        "pool q { copies 1 } pool r { copies 2; scrub never; parity 0; offsite 0 } "
        "pool s { copies 1; scrub every 30d }"
    )
    pools = load_policy(text, "p", {"ssd"}, None, defaults).pools
    p, q, r, s = (pools[name] for name in "pqrs")
    assert (p.offsite, p.parity, p.scrub_s, p.scrub_percent, p.reclaim_dead) == (
        1,
        2,
        2 * 365 * 86400,
        10.0,
        0.7,
    )
    assert (q.offsite, q.parity, q.scrub_s, q.scrub_percent, q.reclaim_dead) == (
        0,
        1,
        1000.0,
        25.0,
        None,
    )
    assert (r.scrub_s, r.parity, r.offsite) == (0.0, 0, 0)
    assert (s.scrub_s, s.scrub_percent) == (30 * 86400, 25.0)
