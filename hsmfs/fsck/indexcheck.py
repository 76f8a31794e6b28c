"""Table C and the counters: what only sums up the inodes; the last of the checks."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from hsmfs.fsck.findings import Finding, Kind
from hsmfs.fsck.subject import Subject, decoded
from hsmfs.namespace import schema
from hsmfs.namespace.quotas import PROJECTS_MAX, QUOTAS_KEY, Usage
from hsmfs.namespace.tables import COUNTERS_KEY, Counters
from hsmfs.records import DTYPE
from hsmfs.types import Residency

INDEX_KEY_BYTES = 1 + schema.INDEX.size


def check_index(subject: Subject) -> Iterator[Finding]:
    """Each regular file stands once, where its record says."""
    for key, value in subject.work.scan(b"C", b"D"):
        ino = schema.INDEX.unpack_from(key, 1)[3] if len(key) == INDEX_KEY_BYTES else 0
        record = subject.record(ino)
        right = record is not None and stat.S_ISREG(record.mode)
        if right and record is not None:
            right = key == schema.index_key(record.state, record.pool, record.heat, ino)
        if not right:
            subject.work.delete(key)
            if ino not in subject.rebuilt:
                found, expected = f"index key {key[1:].hex()}", "what the record says"
                yield subject.finding(Kind.INDEX, ino, found, expected, "removed")
        elif value:
            subject.work.put(key, b"")
            yield subject.finding(Kind.INDEX, ino, "a value in the index", "none", "emptied")
    for items in subject.work.chunks(b"I", b"J"):
        records = np.frombuffer(b"".join(value for _, value in items), dtype=DTYPE)
        files = records[records["mode"] & 0o170000 == stat.S_IFREG]
        fields = (files[name].tolist() for name in ("ino", "state", "pool", "heat"))
        for ino, state, pool, heat in zip(*fields, strict=True):
            key = schema.index_key(state, pool, heat, ino)
            if subject.work.get(key) is None:
                subject.work.put(key, b"")
                yield subject.finding(
                    Kind.INDEX, ino, "not in the policy index", "once in it", "written"
                )


def check_counters(subject: Subject) -> Iterator[Finding]:
    """Files and bytes by state, counted anew."""
    counted = _counted(subject)
    value = subject.work.get(COUNTERS_KEY)
    stored = decoded(value) if value is not None else Counters()
    if stored == counted:
        return
    subject.work.put(COUNTERS_KEY, msgspec.msgpack.encode(counted))
    if stored is not None and (
        not subject.is_delta_known or _sum(stored, subject.delta) == counted
    ):
        return  # they were right before the repairs
    yield subject.finding(
        Kind.COUNTERS, 0, _words(stored), _words(counted), "counted anew", "counters"
    )


def check_quotas(subject: Subject) -> Iterator[Finding]:
    """What trees with a quota hold, counted anew."""
    value = subject.work.get(QUOTAS_KEY)
    if value is None:
        return
    try:
        stored = msgspec.msgpack.decode(value, type=dict[int, Usage])
    except msgspec.MsgspecError:
        # Records keep their numbers: no tree gets one that is in use.
        stored = {number: Usage(0) for number in _held(subject)}
    counted = {number: Usage(usage.ino) for number, usage in stored.items()}
    for number, (size, files) in _held(subject).items():
        if number in counted:
            counted[number].bytes, counted[number].files = size, files
    right = msgspec.msgpack.encode(counted)
    if right == value:
        return
    subject.work.put(QUOTAS_KEY, right)
    if not subject.summary.found:  # else repairs may have changed what there is
        found, expected = f"usage {value!r}", f"{right!r}"
        yield subject.finding(Kind.COUNTERS, 0, found, expected, "counted anew", "quotas")


def _held(subject: Subject) -> dict[int, tuple[int, int]]:
    """Bytes and inodes by number of the tree."""
    sizes: Any = np.zeros(PROJECTS_MAX + 1, np.uint64)
    files: Any = np.zeros(PROJECTS_MAX + 1, np.int64)
    for items in subject.work.chunks(b"I", b"J"):
        records = np.frombuffer(b"".join(value for _, value in items), dtype=DTYPE)
        records = records[records["project"] > 0]
        files += np.bincount(records["project"], minlength=PROJECTS_MAX + 1)
        regular = records[records["mode"] & 0o170000 == stat.S_IFREG]
        np.add.at(sizes, regular["project"], regular["size"])
    return {int(number): (int(sizes[number]), int(files[number])) for number in files.nonzero()[0]}


def _counted(subject: Subject) -> Counters:
    counters, inodes = Counters(), 0
    for items in subject.work.chunks(b"I", b"J"):
        records = np.frombuffer(b"".join(value for _, value in items), dtype=DTYPE)
        inodes += len(records)
        files = records[records["mode"] & 0o170000 == stat.S_IFREG]
        for state in Residency:
            _add(counters, state, files[files["state"] == state])
    counters.inodes = inodes - 1  # the root is not counted
    return counters


def _add(counters: Counters, state: Residency, files: Any) -> None:
    sizes = files["size"]
    counters.files[state] += len(files)
    counters.bytes[state] += int(sizes.sum(dtype=np.uint64))
    if state in (Residency.MIGRATED, Residency.RECALLING):
        sizes = np.minimum(sizes, files["head_bytes"])
    counters.cached += int(sizes.sum(dtype=np.uint64))


def _sum(stored: Counters, delta: Counters) -> Counters:
    return Counters(
        [a + b for a, b in zip(stored.files, delta.files, strict=True)],
        [a + b for a, b in zip(stored.bytes, delta.bytes, strict=True)],
        stored.cached + delta.cached,
        stored.inodes + delta.inodes,
    )


def _words(counters: Counters | None) -> str:
    if counters is None:
        return "none that can be read"
    return (
        f"files {counters.files}, bytes {counters.bytes}, cached {counters.cached}, "
        f"inodes {counters.inodes}"
    )
