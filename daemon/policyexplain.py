"""Why a rule takes a file or not, and when it will."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from hsmfs.daemon.facts import facts_in
from hsmfs.daemon.policy.conditions import Explained, Leaf
from hsmfs.daemon.policy.facts import FACTS, FactKind, Facts
from hsmfs.daemon.policy.rules import FileRule, Policy
from hsmfs.daemon.policyplan import why_waits
from hsmfs.errors import CallerError
from hsmfs.heat import HALF_LIFE_S, heat_now
from hsmfs.namespace.view import NamespaceView
from hsmfs.records import FLAG_PINNED, InodeRecord

SECOND_NS: Final = 10**9
TIME_NS_MAX: Final = 2**63 - 1
KINDS: Final = ("migrate", "demote", "pin", "retain", "recall_ahead", "limit")


@dataclass(frozen=True, slots=True)
class RuleTold:
    """One rule about one file."""

    kind: str
    name: str
    line: int
    matches: bool
    decides: bool
    """The first of its kind that matches."""
    waits: str
    conditions: list[Explained]
    next_ns: int | None
    """When it will match, if nothing happens to the file; None: not by waiting."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a policy says of a file."""

    path: bytes
    """The name by which rules judge the file."""
    facts: Facts
    pinned: bool
    """By hand."""
    rules: list[RuleTold]


def explain(view: NamespaceView, policy: Policy, path: bytes, now_ns: int) -> Told:
    """All rules about the file at a path; CallerError where there is none."""
    ino = view.lookup_path(path)
    record = view.inode(ino) if ino is not None else None
    if record is None or record.mode & 0o170000 != 0o100000:
        raise CallerError(f"/{path.decode('utf-8', 'replace')}: found no regular file there")
    judged = next(iter(view.paths_of(record.ino)), path)
    facts = facts_in(view, judged, record, now_ns)
    told: list[RuleTold] = []
    for kind in KINDS:
        told += _of_kind(kind, getattr(policy, kind), facts, record, now_ns)
    told.sort(key=lambda rule: rule.line)
    return Told(judged, facts, bool(record.flags & FLAG_PINNED), told)


def _of_kind(
    kind: str, rules: Iterable[FileRule], facts: Facts, record: InodeRecord, now_ns: int
) -> list[RuleTold]:
    told, decided = [], False
    for rule in rules:
        matches = rule.matches(facts, now_ns)
        pace = getattr(rule, "pace", None)
        told.append(
            RuleTold(
                kind.replace("_", "-"),
                rule.name,
                rule.line,
                matches,
                matches and not decided,
                why_waits(pace, now_ns) if pace is not None else "",
                rule.explain(facts, now_ns),
                now_ns if matches else next_match(rule, facts, record.heat, now_ns),
            )
        )
        decided = decided or matches
    return told


def next_match(rule: FileRule, facts: Facts, score: float, now_ns: int) -> int | None:
    """The first moment from now at which the rule matches, if nothing happens to the file.

    The answer of a condition changes only when an age or the heat passes a limit.
    """
    leaves = list(_leaves(rule))
    moments = sorted({at for leaf in leaves for at in _changes(leaf, facts, score, now_ns)})
    for at_ns in moments:
        if rule.matches(at_moment(facts, score, at_ns), at_ns):
            return at_ns
    return None


def at_moment(facts: Facts, score: float, now_ns: int) -> Facts:
    """The same file at another moment: its heat has decayed."""
    return msgspec.structs.replace(facts, heat=heat_now(score, now_ns))


def _leaves(rule: FileRule) -> Iterable[Leaf]:
    nodes = [rule.condition.tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Leaf):
            yield node
        else:
            nodes += node.parts


def _changes(leaf: Leaf, facts: Facts, score: float, now_ns: int) -> list[int]:
    """Moments after now around which a comparison may change."""
    if not leaf.fact:
        return []
    fact = FACTS[leaf.fact]
    if fact.kind is FactKind.DURATION:
        assert fact.number is not None
        at_ns = int(fact.number(facts)) + int(leaf.limit)
        found = [at_ns, at_ns + 1]
    elif fact.kind is FactKind.NUMBER and score > 0.0 and leaf.limit > 0:
        at_ns = round((score - math.log2(leaf.limit)) * HALF_LIFE_S * SECOND_NS)
        # The heat is a number of finite precision: a second beside is surely beyond it.
        found = [at_ns, at_ns + SECOND_NS]
    else:
        return []
    return [at for at in found if now_ns < at < TIME_NS_MAX]
