"""When a rule will match next is when it does, and not before."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from property.test_policy_selection import NOW_NS, conditions, files, load
from support.namespaces import File, fill

from hsmfs.daemon.facts import facts_in
from hsmfs.daemon.policyexplain import at_moment, explain, next_match
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.memory import MemoryStore

STEP_NS = 7 * 86_400 * 10**9


@settings(max_examples=60, deadline=None)
@given(files, conditions)
def test_a_file_matches_when_it_was_said_and_not_before(file: File, condition: str) -> None:
    policy, store = load([condition]), MemoryStore()
    inodes = fill(store, [file])
    with store.snapshot() as reader:
        view = NamespaceView(reader)
        record = view.inode(inodes[file.path])
        assert record is not None
        facts = facts_in(view, file.path, record, NOW_NS)
        (told,) = explain(view, policy, file.path, NOW_NS).rules
    rule = policy.migrate[0]
    assert told.matches is told.decides is rule.matches(facts, NOW_NS)
    if told.matches:
        assert told.next_ns == NOW_NS
        return
    said = next_match(rule, facts, record.heat, NOW_NS)
    assert told.next_ns == said
    if said is not None:
        assert rule.matches(at_moment(facts, record.heat, said), said)
    # In between it never does; heat may be a second late, so that steps are of weeks.
    until = said if said is not None else NOW_NS + 200 * STEP_NS
    at = NOW_NS
    while at < until - 10**9 and at < NOW_NS + 200 * STEP_NS:
        assert not rule.matches(at_moment(facts, record.heat, at), at)
        at += STEP_NS


@settings(max_examples=20, deadline=None)
@given(st.lists(conditions, min_size=1, max_size=4), files)
def test_the_first_rule_that_matches_decides(rules: list[str], file: File) -> None:
    policy, store = load(rules), MemoryStore()
    fill(store, [file])
    with store.snapshot() as reader:
        told = explain(NamespaceView(reader), policy, file.path, NOW_NS)
    deciding = [rule.name for rule in told.rules if rule.decides]
    matching = [rule.name for rule in told.rules if rule.matches]
    assert deciding == matching[:1]
