"""What a policy says of one file, and what it would do to all.

Both open the stores for reading only: nothing here could change anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hsmfs.config import Config
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogproof import read_catalog
from hsmfs.daemon.policy.rules import Policy
from hsmfs.daemon.policyexplain import RuleTold, Told, explain
from hsmfs.daemon.policyplan import Fill, Plan, Planner, RulePlan
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.output import moment_words, print_json, print_table, say, size_words

SECOND_NS: Final = 10**9
BURN_BYTES_S: Final = 27_000_000
"""An estimate, as for recalls: what a drive burns, and as much again to prove it."""


@contextmanager
def opened(path: str, map_bytes: int) -> Iterator[LmdbStore]:
    """A store, for reading only."""
    store = LmdbStore(Path(path), map_bytes, read_only=True)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def namespace_of(config: Config) -> Iterator[NamespaceView]:
    """A snapshot of the namespace."""
    with (
        opened(config.namespace.path, config.namespace.map_bytes) as store,
        store.snapshot() as reader,
    ):
        yield NamespaceView(reader)


def fills_of(config: Config, view: NamespaceView) -> dict[str, Fill]:
    """How full the first tier is, by the same count as in hsmfs; others hold nothing yet."""
    tier, facts = config.tier[0], os.statvfs(config.tier[0].path)
    total, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
    if tier.capacity_bytes:
        return {tier.name: Fill(view.bulk.counters().cached, tier.capacity_bytes)}
    return {tier.name: Fill(total - free, max(0, total - tier.reserve_bytes))}


def make_plan(config: Config, policy: Policy) -> Plan:
    """What a run would do now."""
    with (
        opened(config.catalog.path, config.catalog.map_bytes) as store,
        namespace_of(config) as view,
    ):
        catalog: Catalog = read_catalog(config, store)
        return Planner(policy, catalog).plan(view, time.time_ns(), fills_of(config, view))


# -- dry run -------------------------------------------------------------------------


def show_plan(plan: Plan, disc_price: float | None, *, files: bool, json: bool) -> None:
    """Print it."""
    if json:
        print_json(
            {
                "rules": [_rule_json(rule, plan, disc_price, files=files) for rule in plan.rules],
                "blank_discs": plan.blanks,
                "warnings": plan.warnings(),
            }
        )
        return
    print_table(
        ("rule", "does", "to", "files", "bytes", "discs", "drive hours", "cost", "kept", "waits"),
        [_rule_row(rule, plan, disc_price) for rule in plan.rules],
        right=("files", "bytes", "discs", "drive hours", "cost", "kept"),
        empty="the policy has no rule that moves data",
    )
    for rule in plan.rules if files else []:
        for item in rule.files:
            say(f"{rule.name}: /{os.fsdecode(item.path)}")
    for warning in plan.warnings():
        say(f"warning: {warning}")
    say("nothing was changed")


def _cost(rule: RulePlan, plan: Plan, disc_price: float | None) -> float | None:
    known = disc_price is not None and (plan.disc_bytes or not rule.files)
    return round(rule.discs * disc_price, 2) if known and disc_price is not None else None


def _drive_s(rule: RulePlan, plan: Plan) -> float:
    """Burning and proving all copies."""
    if rule.kind != "migrate" or not plan.disc_bytes or not rule.bytes:
        return 0.0
    copies = rule.discs / -(-rule.bytes // plan.disc_bytes)
    return round(2 * copies * rule.bytes / BURN_BYTES_S, 1)


def _rule_row(rule: RulePlan, plan: Plan, disc_price: float | None) -> list[Any]:
    cost = _cost(rule, plan, disc_price)
    discs = rule.discs if plan.disc_bytes or rule.kind == "release" else None
    return [
        rule.name,
        rule.kind,
        rule.place,
        len(rule.files),
        size_words(rule.bytes),
        discs,
        f"{_drive_s(rule, plan) / 3600:.2f}",
        None if cost is None else f"{cost:.2f}",
        rule.refused,
        rule.waits,
    ]


def _rule_json(
    rule: RulePlan, plan: Plan, disc_price: float | None, *, files: bool
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "kind": rule.kind,
        "name": rule.name,
        "line": rule.line,
        "place": rule.place,
        "files": len(rule.files),
        "bytes": rule.bytes,
        "discs": rule.discs if plan.disc_bytes or rule.kind == "release" else None,
        "drive_seconds": _drive_s(rule, plan),
        "cost": _cost(rule, plan, disc_price),
        "kept": rule.refused,
        "waits": rule.waits,
    }
    if files:
        told["paths"] = ["/" + os.fsdecode(item.path) for item in rule.files]
    return told


# -- explain -------------------------------------------------------------------------


def explain_path(config: Config, policy: Policy, path: bytes) -> Told:
    """What the rules say now."""
    with namespace_of(config) as view:
        return explain(view, policy, path, time.time_ns())


def show_told(told: Told, path: bytes, *, json: bool) -> None:
    """Print it."""
    if json:
        print_json(_told_json(told))
        return
    if told.path != path:
        say(f"judged by its name /{os.fsdecode(told.path)}")
    facts = told.facts
    say(f"/{os.fsdecode(told.path)}: {facts.state}, {size_words(facts.size)}, heat {facts.heat:g}")
    for rule in told.rules:
        say(f"line {rule.line}: {rule.kind} {rule.name!r}: {_verdict(rule, told)}")
        for one in rule.conditions:
            value = f", it is {one.value}" if one.value else ""
            say(f"    {'yes' if one.holds else 'no '}  {one.condition}{value}")
    if told.pinned:
        say("pinned by hand: it is not released")


def _verdict(rule: RuleTold, told: Told) -> str:
    if rule.decides:
        so = "matches and decides"
        if rule.kind == "migrate" and told.facts.state != "resident":
            so += f", but the file is {told.facts.state} already"
        return f"{so}; {rule.waits}" if rule.waits else so
    if rule.matches:
        return "matches, but an earlier rule decides"
    if rule.next_ns is None:
        return "does not match, and waiting will not change that"
    return f"does not match; will on {moment_words(rule.next_ns / SECOND_NS)} if nothing happens"


def _told_json(told: Told) -> dict[str, Any]:
    return {
        "path": "/" + os.fsdecode(told.path),
        "state": told.facts.state,
        "pinned": told.pinned,
        "rules": [
            {
                "kind": rule.kind,
                "name": rule.name,
                "line": rule.line,
                "matches": rule.matches,
                "decides": rule.decides,
                "waits": rule.waits,
                "next": None if rule.next_ns is None else rule.next_ns / SECOND_NS,
                "conditions": [
                    {"condition": one.condition, "value": one.value, "holds": one.holds}
                    for one in rule.conditions
                ],
            }
            for rule in told.rules
        ],
    }
