"""Is what a cut left a prefix of what was done, and is all there that was synced?

The engine commits operations in order, so each worker's directory must look as
after the first k of his operations, with k not before the last operation that
was finished when an answered sync began (whoever called it: a sync of anything
commits everything before it), and the k of all workers must fit each other in
time. The data of a file may be ahead of its name and other facts: after its
last own sync that was answered it may be any mix of what was written since.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from support.crashes import Cut, Entry, Worker
from support.cutmodel import Model, Shape, shape_of
from support.trees import Tree, tree_of


def check_survivors(workers: Sequence[Worker], roots: Sequence[bytes], cut: Cut) -> None:
    """Raises AssertionError with the first thing that must not be."""
    logs = [[entry for entry in worker.log if entry.start_s < cut.end_s] for worker in workers]
    synced_s = max(
        (entry.start_s for log in logs for entry in log if entry.is_promise(cut)), default=0.0
    )
    possible = []
    for log, root in zip(logs, roots, strict=True):
        tree = tree_of(root)
        matching = _matching(log, shape_of(tree), _finished(log, synced_s))
        possible.append(_with_data(log, tree, matching, cut))
    for earlier, possible_earlier in zip(logs, possible, strict=True):
        for later, possible_later in zip(logs, possible, strict=True):
            _check_order(earlier, max(possible_earlier), later, min(possible_later))


def _finished(log: list[Entry], at_s: float) -> int:
    return sum(entry.end_s is not None and entry.end_s < at_s for entry in log)


def _matching(log: list[Entry], shape: Shape, least: int) -> list[int]:
    """How many operations may have been done, to look as it does."""
    model = Model()
    found = []
    for done in range(len(log) + 1):
        if done >= least and model.shape() == shape:
            found.append(done)
        if done == least:
            promised = model.shape()
        if done < len(log):
            model.apply(done, log[done].operation)
    assert found, (
        f"no prefix of {least} to {len(log)} operations looks like this; against {least}:\n"
        + _difference(promised, shape)
        + "\nthen came\n"
        + "\n".join(f"{entry.operation!r:.120}" for entry in log[least:])
    )
    return found


def _difference(expected: Shape, shape: Shape) -> str:
    return "\n".join(
        f"{path!r}: expected {expected.get(path)}, found {shape.get(path)}"
        for path in sorted(expected.keys() | shape.keys())
        if expected.get(path) != shape.get(path)
    )


def _with_data(log: list[Entry], tree: Tree, matching: list[int], cut: Cut) -> list[int]:
    """Those after which files have what they had at their last sync, or what was written since.

    Several may match that give the same names to different files: two alike
    that are exchanged.
    """
    whole = Model()
    synced: dict[int, int] = {}
    names = {}
    for index, entry in enumerate(log):
        names[index] = dict(whole.names) if index in matching else {}
        if entry.operation[0] == "fsync" and entry.is_promise(cut):
            synced[whole.names[entry.operation[1]]] = index
        whole.apply(index, entry.operation)
    names[len(log)] = whole.names
    problems = {done: _problem(whole, synced, tree, names[done]) for done in matching}
    fit = [done for done, problem in problems.items() if not problem]
    assert fit, (
        "\n".join(f"after {done} of {len(log)}: {problem}" for done, problem in problems.items())
        + "\nthe last were\n"
        + "\n".join(
            f"{entry.operation!r:.120}" for entry in log[min(matching) - 9 : max(matching) + 1]
        )
    )
    return fit


def _problem(whole: Model, synced: dict[int, int], tree: Tree, names: dict[str, int]) -> str:
    for path, node in tree.items():
        if not stat.S_ISREG(node.mode):
            continue
        number = names[os.fsdecode(path)[2:]]
        versions = whole.nodes[number].versions
        last = synced.get(number, -1)
        old = [data for index, data in versions if index < last][-1:]
        allowed = old + [data for index, data in versions if index >= last]
        problem = _unexplained(node.content, allowed)
        if problem:
            return f"{path!r}, synced by operation {last}: {problem}"
    return ""


def _unexplained(content: bytes, versions: list[bytes]) -> str:
    """Empty if each byte is one of a version's; zero where a version has none yet."""
    if content in versions:
        return ""
    least, most = min(map(len, versions)), max(map(len, versions))
    if not least <= len(content) <= most:
        return f"{len(content)} bytes, expected {least} to {most}"
    for offset, byte in enumerate(content):
        fits = any(data[offset : offset + 1] == bytes([byte]) for data in versions)
        if not fits and not (byte == 0 and offset >= least):
            return f"byte {offset} of {len(content)} is {byte}; versions have {least} to {most}"
    return ""


def _check_order(earlier: list[Entry], kept: int, later: list[Entry], least: int) -> None:
    """What was over before something began that was kept, must be kept too."""
    if least == 0:
        return
    begun_s = later[least - 1].start_s
    lost = [entry for entry in earlier[kept:] if entry.end_s is not None and entry.end_s < begun_s]
    assert not lost, (
        f"{len(lost)} operations are lost that were done before others which are there: "
        f"{lost[0].operation!r:.120}"
    )
