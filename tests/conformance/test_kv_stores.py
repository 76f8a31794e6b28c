"""One suite for every store behind the KV interface."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsmfs.store.interface import KVStore, Writer
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.store.memory import MemoryStore

MAKERS: dict[str, Callable[[Path], KVStore]] = {
    "memory": lambda path: MemoryStore(),
    "lmdb": lambda path: LmdbStore(path, map_bytes=1 << 20),
}


@pytest.fixture(params=MAKERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KVStore]:
    made = MAKERS[request.param](tmp_path / "store")
    yield made
    made.close()


def fill(store: KVStore, *keys: bytes) -> None:
    store.transact(lambda writer: [writer.put(key, b"v" + key) for key in keys])


def keys(store: KVStore, *args: object, **options: object) -> list[bytes]:
    with store.snapshot() as reader:
        return [key for key, _ in reader.scan(*args, **options)]  # type: ignore[arg-type]


def test_what_was_put_is_there(store: KVStore) -> None:
    fill(store, b"a", b"b")
    with store.snapshot() as reader:
        assert reader.get(b"a") == b"va"
        assert reader.get_many([b"b", b"c"]) == [b"vb", None]


def test_scans_are_half_open_ordered_and_bounded(store: KVStore) -> None:
    fill(store, b"c", b"a", b"b", b"d")
    assert keys(store, b"a", b"d") == [b"a", b"b", b"c"]
    assert keys(store, b"a", b"d", reverse=True) == [b"c", b"b", b"a"]
    assert keys(store, b"a", b"z", limit=2) == [b"a", b"b"]
    assert keys(store, b"b", b"z", reverse=True, limit=1) == [b"d"]
    assert keys(store, b"d", b"a") == []
    assert keys(store, b"x", b"y", reverse=True) == []


def test_a_transaction_sees_itself_and_is_undone_by_an_error(store: KVStore) -> None:
    fill(store, b"a")

    def fail(writer: Writer) -> None:
        writer.put(b"b", b"1")
        assert writer.get(b"b") == b"1"
        assert writer.delete(b"a")
        assert not writer.delete(b"zz")
        raise RuntimeError("undo")

    with pytest.raises(RuntimeError):
        store.transact(fail)
    assert keys(store, b"a", b"z") == [b"a"]


def test_a_snapshot_does_not_change(store: KVStore) -> None:
    fill(store, b"a")
    with store.snapshot() as reader:
        fill(store, b"b")
        assert [key for key, _ in reader.scan(b"a", b"z")] == [b"a"]
    assert keys(store, b"a", b"z") == [b"a", b"b"]


def test_a_store_may_grow_beyond_its_first_size(store: KVStore) -> None:
    store.transact(lambda w: [w.put(b"k%05d" % i, bytes(4000)) for i in range(1000)])
    assert store.stat().entries == 1000


def test_lmdb_is_read_by_another_process_while_it_is_written(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "s")
    fill(store, b"a")
    script = (
        "import sys; from pathlib import Path; from hsmfs.store.lmdbstore import LmdbStore\n"
        "s = LmdbStore(Path(sys.argv[1]), read_only=True)\n"
        "for line in sys.stdin:\n"
        "    with s.snapshot() as r: print(r.get(line.strip().encode()), flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdin and reader.stdout
        for key in ("a", "b"):
            fill(store, key.encode())
            print(key, file=reader.stdin, flush=True)
            assert reader.stdout.readline().strip() == f"b'v{key}'"
        reader.stdin.close()
    store.close()
