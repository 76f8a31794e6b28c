"""The audit log: any change of any byte is found, and told by the entry's number."""

from __future__ import annotations

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from hsmfs.namespace.audit import NONE, AuditLog, Fault, digest, head_of, is_whole, verify
from hsmfs.namespace.wormrows import HEAD_KEY, Head, entry_key

TEXT = st.text(max_size=20)
FACTS = st.lists(
    st.dictionaries(st.sampled_from(("path", "by", "why")), TEXT), min_size=1, max_size=8
)


class Rows(dict):
    """A store."""

    put = dict.__setitem__


def written(facts: list[dict[str, str]]) -> Rows:
    rows = Rows()
    for number, some in enumerate(facts):
        # Each time with a new start, which finds its place again.
        AuditLog(rows).append("settle", number * 7, number * 5, number, **some)
    return rows


def faults(rows: Rows) -> list[Fault]:
    items = sorted((item for item in rows.items() if item[0][:1] == b"A"), reverse=True)
    head = head_of(rows.get(HEAD_KEY))
    found = list(verify(items, head))
    assert bool(found) != is_whole(items[::-1], head)
    return found


@settings(max_examples=60)
@given(FACTS)
def test_what_was_written_is_right(facts: list[dict[str, str]]) -> None:
    rows = written(facts)
    assert faults(rows) == []
    number = len(facts)
    assert head_of(rows[HEAD_KEY]) == Head(number, digest(rows[entry_key(number)]))


@settings(max_examples=60)
@given(FACTS, st.data())
def test_any_byte_of_an_entry(facts: list[dict[str, str]], data: st.DataObject) -> None:
    rows = written(facts)
    number = data.draw(st.integers(1, len(facts)))
    entry = bytearray(rows[entry_key(number)])
    at = data.draw(st.integers(0, len(entry) - 1))
    entry[at] ^= data.draw(st.integers(1, 255))
    rows[entry_key(number)] = bytes(entry)
    told = [one.number for one in faults(rows)]
    assert told[0] == number
    assert set(told) <= {number, number - 1}


@settings(max_examples=60)
@given(FACTS, st.data())
def test_any_byte_of_a_key(facts: list[dict[str, str]], data: st.DataObject) -> None:
    rows = written(facts)
    number = data.draw(st.integers(1, len(facts)))
    key = bytearray(entry_key(number))
    key[data.draw(st.integers(1, 8))] ^= data.draw(st.integers(1, 255))
    entry = rows.pop(entry_key(number))
    overwritten = bytes(key) in rows
    rows[bytes(key)] = entry
    told = {one.number for one in faults(rows)}
    assert number in told or overwritten
    assert told


@settings(max_examples=60)
@given(FACTS, st.data())
def test_any_byte_of_the_head(facts: list[dict[str, str]], data: st.DataObject) -> None:
    rows = written(facts)
    head = bytearray(rows[HEAD_KEY])
    head[data.draw(st.integers(0, len(head) - 1))] ^= data.draw(st.integers(1, 255))
    rows[HEAD_KEY] = bytes(head)
    assert faults(rows)


@settings(max_examples=60)
@given(FACTS, st.data())
def test_entries_cut_out_and_put_in(facts: list[dict[str, str]], data: st.DataObject) -> None:
    rows = written(facts)
    first = data.draw(st.integers(1, len(facts)))
    last = data.draw(st.integers(first, len(facts)))
    cut = {number: rows.pop(entry_key(number)) for number in range(first, last + 1)}
    assert first in [one.number for one in faults(rows)]
    if last < len(facts):
        rows[entry_key(first)] = cut[last]
        if first != last:
            assert first in [one.number for one in faults(rows)]
    else:
        rows[entry_key(len(facts) + 1)] = cut[last]
        assert faults(rows)


@settings(max_examples=60)
@given(FACTS)
def test_all_written_anew_is_another_head(facts: list[dict[str, str]]) -> None:
    """Who can write everything cannot make the head that was printed or burned."""
    rows, forged = written(facts), written([*facts[:-1], {**facts[-1], "why": "forged"}])
    if rows != forged:
        assert rows[HEAD_KEY] != forged[HEAD_KEY]


def test_the_rule_needs_no_program_of_ours() -> None:
    rows = written([{"path": "a"}, {"path": "b"}])
    prev = NONE
    for number in (1, 2):
        entry = rows[entry_key(number)]
        assert f'"prev":"{prev}"'.encode() in entry
        prev = hashlib.sha256(entry).hexdigest()
