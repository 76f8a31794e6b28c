"""One suite for every store behind the KV interface."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from hsmfs.errors import CallerError
from hsmfs.store.interface import KEY_BYTES_MAX, KVStore, Writer
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


def test_deletions_and_empty_values(store: KVStore) -> None:
    fill(store, b"a", b"b")
    store.transact(lambda writer: writer.put(b"e", b""))
    assert store.transact(lambda writer: (writer.delete(b"a"), writer.delete(b"a"))) == (
        True,
        False,
    )
    with store.snapshot() as reader:
        assert reader.get(b"a") is None and reader.get(b"e") == b""
    assert keys(store, b"a", b"z") == [b"b", b"e"]


def test_bounds_of_scans_need_not_exist(store: KVStore) -> None:
    fill(store, b"b", b"d", b"f")
    assert keys(store, b"a", b"e") == [b"b", b"d"]
    assert keys(store, b"a", b"e", reverse=True) == [b"d", b"b"]
    assert keys(store, b"b", b"f", reverse=True) == [b"d", b"b"]
    assert keys(store, b"c", b"c") == []
    assert keys(store, b"a", b"z", limit=0) == []
    assert keys(store, b"g", b"z", reverse=True, limit=5) == []


@pytest.mark.parametrize("key", [b"", bytes(KEY_BYTES_MAX + 1)], ids=["empty", "too long"])
def test_keys_out_of_bounds_are_refused_and_nothing_stays(store: KVStore, key: bytes) -> None:
    def put(writer: Writer) -> None:
        writer.put(b"a", b"1")
        writer.put(key, b"1")

    with pytest.raises((ValueError, lmdb.BadValsizeError)):
        store.transact(put)
    assert keys(store, b"a", b"z") == []
    fill(store, b"k" * KEY_BYTES_MAX)
    assert keys(store, b"a", b"z") == [b"k" * KEY_BYTES_MAX]


def test_a_transaction_scans_its_own_changes(store: KVStore) -> None:
    fill(store, b"a", b"c")

    def change(writer: Writer) -> list[bytes]:
        writer.put(b"b", b"1")
        writer.delete(b"c")
        return [key for key, _ in writer.scan(b"a", b"z")]

    assert store.transact(change) == [b"a", b"b"]


def test_writers_in_threads_take_turns(store: KVStore) -> None:
    def add(writer: Writer) -> None:
        writer.put(b"n", b"%d" % (int(writer.get(b"n") or b"0") + 1))

    def work() -> None:
        for _ in range(20):
            store.transact(add)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.snapshot() as reader:
        assert reader.get(b"n") == b"80"


def test_a_backup_while_in_use_is_a_store_of_its_own(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "s")
    fill(store, b"a", b"b")
    with store.snapshot() as reader:
        store.backup(tmp_path / "copy")
        fill(store, b"c")
        assert reader.get(b"c") is None
    copy = LmdbStore(tmp_path / "copy")
    assert keys(copy, b"a", b"z") == [b"a", b"b"] and keys(store, b"c", b"d") == [b"c"]
    copy.close()
    store.close()
    again = LmdbStore(tmp_path / "s", read_only=True)
    assert keys(again, b"a", b"z") == [b"a", b"b", b"c"]
    with pytest.raises(lmdb.Error):
        fill(again, b"d")
    again.close()


def test_a_directory_without_a_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="no usable store"):
        LmdbStore(tmp_path / "nothing", read_only=True)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"no store" * 2000)
    with pytest.raises(CallerError, match="no usable store"):
        LmdbStore(tmp_path / "bad")


def test_a_map_that_another_process_has_grown_is_followed(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "s", map_bytes=1 << 20)
    fill(store, b"a")
    script = (
        "import sys; from pathlib import Path; from hsmfs.store.lmdbstore import LmdbStore\n"
        "s = LmdbStore(Path(sys.argv[1]), map_bytes=1 << 20, read_only=True)\n"
        "for line in sys.stdin:\n"
        "    with s.snapshot() as r: print(len(list(r.scan(b'a', b'z'))), flush=True)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "s")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin and reader.stdout
        for count in (1, 1001):
            if count > 1:
                store.transact(lambda w: [w.put(b"k%05d" % i, bytes(4000)) for i in range(1000)])
            print(file=reader.stdin, flush=True)
            assert int(reader.stdout.readline()) == count
        reader.stdin.close()
    store.close()
