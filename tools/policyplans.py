"""What a policy says of one file, and what it would do to all.

Both open the stores for reading only: nothing here could change anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from hsmfs.accesslog import read_log
from hsmfs.config import Config
from hsmfs.daemon.catalog import Catalog
from hsmfs.daemon.catalogproof import read_catalog
from hsmfs.daemon.policy.rules import Policy
from hsmfs.daemon.policyexplain import RuleTold, Told, explain
from hsmfs.daemon.policyplan import Fill, Plan, Planner, RulePlan, disc_bytes_of
from hsmfs.daemon.whatif import Site, happened, replay
from hsmfs.errors import CallerError
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.output import (
    duration_words,
    moment_words,
    print_json,
    print_table,
    say,
    size_words,
)
from hsmfs.types import Residency

SECOND_NS: Final = 10**9
DISC_BYTES: Final = 25_000_000_000
"""Where no disc was looked at yet."""
TOLD_BY_LOG: Final = ("opens", "recalls", "recalled_bytes")
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


# -- what if -------------------------------------------------------------------------


def compare(
    config: Config, policies: dict[str, Policy], trace: Path, drives: int
) -> dict[str, Any]:
    """The log's own tale and that of each policy, as plain values."""
    events = np.concatenate(list(read_log(trace)))
    if not len(events):
        raise CallerError(f"{trace}: found no access in the log, expected some; let it run a while")
    events = events[np.argsort(events["time_ns"], kind="stable")]
    with (
        opened(config.catalog.path, config.catalog.map_bytes) as store,
        namespace_of(config) as view,
    ):
        known = disc_bytes_of(read_catalog(config, store))
        ((tier, fill),) = fills_of(config, view).items()
        inodes = np.unique(events["ino"])
        records = view.bulk.records(inodes)
        there = (records["state"] < Residency.MIGRATED) & (records["nlink"] > 0)
        other = max(0, view.bulk.counters().cached - int(records["size"][there].sum()))
        site = Site(tier, fill.capacity_bytes, drives, known or DISC_BYTES, other)
        told = {name: replay(view, rules, events, site) for name, rules in policies.items()}
    return {
        "from": int(events["time_ns"][0]) / SECOND_NS,
        "until": int(events["time_ns"][-1]) / SECOND_NS,
        "happened": asdict(happened(events)),
        **{name: asdict(outcome) for name, outcome in told.items()},
    }


def show_comparison(found: dict[str, Any], *, json: bool) -> None:
    """Print it."""
    if json:
        print_json(found)
        return
    names = [name for name in found if name not in ("from", "until")]
    say(f"accesses from {moment_words(found['from'])} to {moment_words(found['until'])}")
    rows: list[list[Any]] = []
    for what in found["happened"]:
        values = [found[name][what] for name in names]
        if "happened" in names and what not in TOLD_BY_LOG:
            values[names.index("happened")] = None
        shown = [_shown(what, value) for value in values]
        rows.append([what.replace("_", " ").removesuffix(" bytes").removesuffix(" s"), *shown])
    print_table(("", *names), rows, right=tuple(names))


def _shown(what: str, value: Any) -> Any:
    if value is None:
        return None
    if what.endswith("_bytes"):
        return size_words(value)
    return duration_words(value) if what.endswith("_s") else value


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
