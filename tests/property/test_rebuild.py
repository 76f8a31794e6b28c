"""A namespace made anew from sets of changes is the one that they were cut from."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.engines import ME, Bench
from support.volumes import SITE, burn, stopped_system

from hsmfs.config import Config
from hsmfs.daemon.namespaceset import write_set
from hsmfs.errors import FsError
from hsmfs.fsck.findings import Summary
from hsmfs.namespace.engine import RENAME_EXCHANGE, SetAttr
from hsmfs.namespace.view import NamespaceView
from hsmfs.store.interface import KVStore
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.fsckcommand import findings
from hsmfs.tools.rebuild.run import rebuild

names = st.sampled_from([b"a", b"b", "名".encode(), b"\xff"])
paths = st.lists(names, min_size=1, max_size=3).map(tuple)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["mkdir", "mknod", "unlink", "rmdir", "chmod", "xattr", "fifo"]), paths
        ),
        st.tuples(st.sampled_from(["link", "rename", "exchange", "symlink"]), paths, paths),
        st.tuples(st.just("cut"), st.integers(0, 2)),
    ),
    max_size=40,
)


class Source:
    """An engine that is changed, and the volumes that its changes are burned to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bench = Bench(root / "source")
        self.untils = [0]
        self.images: list[Path] = []

    def at(self, path: tuple[bytes, ...]) -> int:
        ino = 1
        for name in path:
            ino = self.bench.engine.lookup(ino, name).ino
        return ino

    def run(self, step: tuple[Any, ...]) -> None:
        engine, word, path = self.bench.engine, step[0], step[1]
        match word:
            case "mkdir":
                engine.mkdir(self.at(path[:-1]), path[-1], 0o755, ME)
            case "mknod":
                engine.mknod(self.at(path[:-1]), path[-1], stat.S_IFREG | 0o644, 0, ME)
            case "fifo":
                engine.mknod(self.at(path[:-1]), path[-1], stat.S_IFIFO | 0o640, 0, ME)
            case "unlink":
                engine.unlink(self.at(path[:-1]), path[-1])
            case "rmdir":
                engine.rmdir(self.at(path[:-1]), path[-1])
            case "chmod":
                engine.setattr(self.at(path), SetAttr(mode=0o1711, uid=7, gid=8), None, ME)
            case "xattr":
                engine.setxattr(self.at(path), b"user.\xe4", b"\0v")
            case "symlink":
                engine.symlink(self.at(path[:-1]), path[-1], b"/".join(step[2]), ME)
            case "link":
                engine.link(self.at(path), self.at(step[2][:-1]), step[2][-1])
            case _:
                flags = RENAME_EXCHANGE if word == "exchange" else 0
                new = step[2]
                engine.rename(self.at(path[:-1]), path[-1], self.at(new[:-1]), new[-1], flags)

    def cut(self, back: int) -> None:
        """A volume with the changes since the last one, or one of those before."""
        self.bench.engine.syncfs().result()
        since = self.untils[max(0, len(self.untils) - 1 - back)]
        out, number = self.root / "set", len(self.images) + 1
        with self.bench.store.snapshot() as reader:
            header = write_set(reader, since, SITE, number, out)
        self.untils.append(header.until)
        image = self.root / f"D{number}.img"
        own = {b"namespace.jsonl.gz": out.read_bytes()}
        burn(image, f"{SITE}-{number:06d}", [], own, created_ns=number)
        self.images.append(image)


def tree(store: KVStore) -> dict[bytes, Any]:
    """Every name with its inode and attributes."""
    found: dict[bytes, Any] = {}
    with store.snapshot() as reader:
        view = NamespaceView(reader)
        root = view.inode(1)
        assert root is not None
        for path, record in [(b"", root), *view.walk(1, b"")]:
            found[path] = (
                record.ino,
                record.mode,
                record.uid,
                record.gid,
                record.nlink,
                record.size,
                record.atime_ns,
                record.mtime_ns,
                record.ctime_ns,
                view.xattrs(record.ino),
                view.symlink(record.ino),
            )
    return found


def rebuilt(config: Config, images: list[Path]) -> tuple[dict[bytes, Any], bool]:
    """The tree, and whether all changes were there; fsck finds nothing."""
    _, _, collected, outcome = rebuild(config, images, lambda what, path, why: None)
    assert outcome.lost == 0
    assert [one for one in findings(config, False, None, Summary())] == []
    store = LmdbStore(Path(config.namespace.path), config.namespace.map_bytes, read_only=True)
    try:
        return tree(store), collected.is_complete()
    finally:
        store.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps, st.randoms(use_true_random=False), st.booleans())
def test_sets_in_any_order_make_the_tree(
    tmp_path_factory: Any, todo: list[Any], chance: Any, lose: bool
) -> None:
    source = Source(tmp_path_factory.mktemp("rebuild"))
    for step in todo:
        if step[0] == "cut":
            source.cut(step[1])
            continue
        try:
            source.run(step)
        except FsError:
            continue
    source.cut(0)
    expected = tree(source.bench.store)
    images = list(source.images)
    if lose and len(images) > 1:
        images.remove(chance.choice(images[:-1]))
    chance.shuffle(images)
    config = stopped_system(source.root / "target")
    found, complete = rebuilt(config, images)
    assert complete or lose
    if complete:
        assert found == expected
    else:
        assert found.keys() >= {b""}
    for path in source.root.glob("*.img"):
        os.unlink(path)
