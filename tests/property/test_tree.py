"""The tree against a model of nested dictionaries, errno by errno."""

from __future__ import annotations

import errno
import stat
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.engines import ME, Bench

from hsmfs.errors import FsError
from hsmfs.namespace.engine import RENAME_EXCHANGE, RENAME_NOREPLACE

names = st.sampled_from([b"a", b"b", b"c"])
paths = st.lists(names, min_size=1, max_size=3).map(tuple)
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["mkdir", "mknod", "unlink", "rmdir"]), paths),
        st.tuples(st.just("link"), paths, paths),
        st.tuples(
            st.just("rename"), paths, paths, st.sampled_from([0, RENAME_NOREPLACE, RENAME_EXCHANGE])
        ),
        st.tuples(st.just("crash")),
    ),
    max_size=30,
)
Node = dict[bytes, Any] | list[int]
"""A directory, or a file (a list with its link count, shared by its links)."""


class Refused(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


class Model:
    def __init__(self) -> None:
        self.root: dict[bytes, Any] = {}

    def find(self, path: tuple[bytes, ...]) -> Any:
        node: Any = self.root
        for name in path:
            if not isinstance(node, dict):
                raise Refused(errno.ENOTDIR)
            if name not in node:
                raise Refused(errno.ENOENT)
            node = node[name]
        return node

    def parent(self, path: tuple[bytes, ...]) -> dict[bytes, Any]:
        node = self.find(path[:-1])
        if not isinstance(node, dict):
            raise Refused(errno.ENOTDIR)
        return node

    def add(self, path: tuple[bytes, ...], node: Node) -> None:
        parent = self.parent(path)
        if path[-1] in parent:
            raise Refused(errno.EEXIST)
        parent[path[-1]] = node

    def mkdir(self, path: tuple[bytes, ...]) -> None:
        self.add(path, {})

    def mknod(self, path: tuple[bytes, ...]) -> None:
        self.add(path, [1])

    def unlink(self, path: tuple[bytes, ...]) -> None:
        parent = self.parent(path)
        node = self.find(path)
        if isinstance(node, dict):
            raise Refused(errno.EISDIR)
        node[0] -= 1
        del parent[path[-1]]

    def rmdir(self, path: tuple[bytes, ...]) -> None:
        parent = self.parent(path)
        node = self.find(path)
        if not isinstance(node, dict):
            raise Refused(errno.ENOTDIR)
        if node:
            raise Refused(errno.ENOTEMPTY)
        del parent[path[-1]]

    def link(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        node = self.find(old)
        self.parent(new)
        if isinstance(node, dict):
            raise Refused(errno.EPERM)
        self.add(new, node)
        node[0] += 1

    def rename(self, old: tuple[bytes, ...], new: tuple[bytes, ...], flags: int) -> None:
        source, target = self.parent(old), self.parent(new)
        node = self.find(old)
        if isinstance(node, dict) and new[: len(old)] == old and new != old:
            raise Refused(errno.EINVAL)
        there = target.get(new[-1])
        if flags == RENAME_EXCHANGE:
            self._exchange(source, old, target, new, node, there)
            return
        if there is not None:
            if flags == RENAME_NOREPLACE:
                raise Refused(errno.EEXIST)
            if there is node:
                return
            self._replace(node, there)
        del source[old[-1]]
        target[new[-1]] = node

    @staticmethod
    def _replace(node: Node, there: Any) -> None:
        if isinstance(node, dict):
            if not isinstance(there, dict):
                raise Refused(errno.ENOTDIR)
            if there:
                raise Refused(errno.ENOTEMPTY)
        elif isinstance(there, dict):
            raise Refused(errno.EISDIR)
        else:
            there[0] -= 1

    @staticmethod
    def _exchange(source: Any, old: Any, target: Any, new: Any, node: Any, there: Any) -> None:
        if there is None:
            raise Refused(errno.ENOENT)
        if isinstance(there, dict) and old[: len(new)] == new and old != new:
            raise Refused(errno.EINVAL)
        source[old[-1]], target[new[-1]] = there, node


class Real:
    """The same words on the engine."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def at(self, path: tuple[bytes, ...]) -> int:
        ino = 1
        for name in path:
            ino = self.bench.engine.lookup(ino, name).ino
        return ino

    def run(self, step: tuple[Any, ...]) -> None:
        engine = self.bench.engine
        match step:
            case ("mkdir", path):
                engine.mkdir(self.at(path[:-1]), path[-1], 0o755, ME)
            case ("mknod", path):
                engine.mknod(self.at(path[:-1]), path[-1], stat.S_IFREG | 0o644, 0, ME)
            case ("unlink", path):
                engine.unlink(self.at(path[:-1]), path[-1])
            case ("rmdir", path):
                engine.rmdir(self.at(path[:-1]), path[-1])
            case ("link", old, new):
                engine.link(self.at(old), self.at(new[:-1]), new[-1])
            case ("rename", old, new, flags):
                source = self.at(old[:-1])
                # The kernel walks the old path to its end before it looks at the new one.
                engine.releasedir(engine.opendir(source))
                engine.rename(source, old[-1], self.at(new[:-1]), new[-1], flags)

    def tree(self, ino: int) -> Any:
        """As the model has it; link counts of files are checked along the way."""
        engine = self.bench.engine
        attr = engine.getattr(ino)
        if not stat.S_ISDIR(attr.mode):
            return [attr.nlink]
        fh = engine.opendir(ino)
        entries = engine.readdir(fh, 0, 1000)
        engine.releasedir(fh)
        found = {name: self.tree(a.ino) for name, _, a in entries if name not in (b".", b"..")}
        assert attr.nlink == 2 + sum(isinstance(node, dict) for node in found.values())
        return found


@given(steps)
def test_the_tree_does_what_the_model_does(tmp_path_factory: Any, todo: list[Any]) -> None:
    bench = Bench(tmp_path_factory.mktemp("tree"))
    model, real = Model(), Real(bench)
    for step in todo:
        if step == ("crash",):
            bench.engine.syncfs().result()
            bench.reopen()
            continue
        expected = actual = 0
        try:
            getattr(model, step[0])(*step[1:])
        except Refused as error:
            expected = error.errno
        try:
            real.run(step)
        except FsError as error:
            actual = error.errno
        assert actual == expected, (
            step,
            errno.errorcode.get(actual),
            errno.errorcode.get(expected),
        )
        assert real.tree(1) == model.root
    bench.engine.tables.settle()
    counters = bench.engine.tables.counters
    files = {id(node): node for node in _files(model.root)}
    assert counters.files[0] == len(files)


def _files(node: Any) -> list[Any]:
    if not isinstance(node, dict):
        return [node]
    return [file for child in node.values() for file in _files(child)]
