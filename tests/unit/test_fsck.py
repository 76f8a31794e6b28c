"""hsm fsck: each sort of damage is found once, repaired, and gone after that."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from support.checked import DATA, Checked

from hsmfs.errors import CallerError
from hsmfs.namespace import schema
from hsmfs.records import FLAG_XATTRS, InodeRecord
from hsmfs.types import FileVersion, Residency

Damage = Callable[[Checked], object]


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    return Checked(tmp_path / "tier")


def test_a_sound_system_has_no_findings(checked):
    assert checked.check() == []
    assert checked.check(repair=True) == []


def entry_key(checked: Checked, path: str) -> bytes:
    parent, _, name = path.rpartition("/")
    return schema.entry_key(checked.ino[parent], name.encode())


def listed_key(checked: Checked, path: str) -> bytes:
    cookie = schema.ENTRY.unpack(checked.get(entry_key(checked, path)))[2]
    return schema.listed_key(checked.ino[path.rpartition("/")[0]], cookie)


def link_key(checked: Checked, path: str) -> bytes:
    parent, _, name = path.rpartition("/")
    return schema.link_key(checked.ino[path], checked.ino[parent], name.encode())


def with_cookie(checked: Checked, path: str, cookie: int) -> None:
    ino, kind, _ = schema.ENTRY.unpack(checked.get(entry_key(checked, path)))
    checked.put(entry_key(checked, path), schema.ENTRY.pack(ino, kind, cookie))


def same_cookie(checked: Checked) -> None:
    other = schema.ENTRY.unpack(checked.get(entry_key(checked, "stub")))[2]
    checked.delete(listed_key(checked, "resident"))
    with_cookie(checked, "resident", other)


def with_type(checked: Checked, path: str, kind: int) -> None:
    ino, _, cookie = schema.ENTRY.unpack(checked.get(entry_key(checked, path)))
    name = path.rpartition("/")[2].encode()
    checked.put(listed_key(checked, path), schema.LISTED.pack(ino, kind) + name)
    checked.put(entry_key(checked, path), schema.ENTRY.pack(ino, kind, cookie))


def without_name(checked: Checked, path: str) -> None:
    for key in (listed_key, link_key, entry_key):
        checked.delete(key(checked, path))


def add_name(checked: Checked, path: str, parent: int, name: bytes) -> None:
    kind = stat.S_IFMT(checked.record(path).mode)
    ino, cookie = checked.ino[path], 15 + len(name)
    checked.put(schema.entry_key(parent, name), schema.ENTRY.pack(ino, kind, cookie))
    checked.put(schema.listed_key(parent, cookie), schema.LISTED.pack(ino, kind) + name)
    checked.put(schema.link_key(ino, parent, name), b"")


def circle(checked: Checked) -> None:
    """dir is below dir/sub."""
    without_name(checked, "dir")
    add_name(checked, "dir", checked.ino["dir/sub"], b"dir")
    checked.change("", lambda record: links(record, -1))
    checked.change("dir/sub", lambda record: links(record, 1))


def links(record: InodeRecord, step: int) -> None:
    record.nlink += step


def field(name: str, path: str, value: object) -> Damage:
    return lambda checked: checked.change(path, lambda record: setattr(record, name, value))


def meant(name: str, path: str, value: object) -> Damage:
    return lambda checked: checked.reindex(path, lambda record: setattr(record, name, value))


def counters(checked: Checked) -> None:
    value = msgspec.msgpack.decode(checked.get(b"Mcounters"))
    value["files"][0] += 3
    checked.put(b"Mcounters", msgspec.msgpack.encode(value))


def index_key(checked: Checked, path: str) -> bytes:
    record = checked.record(path)
    return schema.index_key(record.state, record.pool, record.heat, record.ino)


def rot(checked: Checked, path: str) -> None:
    checked.put(schema.inode_key(checked.ino[path]), b"rot")


def gone(checked: Checked, path: str) -> None:
    checked.delete(schema.inode_key(checked.ino[path]))


def grow(checked: Checked, path: str) -> None:
    with open(checked.cache_path(path), "ab") as file:
        file.write(b"more")


def numbers(checked: Checked, number: int) -> None:
    checked.put(b"Mnext_ino", b"%d 0 0" % number)


STRAY = 5


def stray(checked: Checked, data: bytes = DATA) -> None:
    """A number that the file system gave away once."""
    path = checked.tier.path(STRAY)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_bytes(data)


def strange(checked: Checked) -> None:
    Path(os.path.dirname(checked.cache_path("resident")), "strange").write_bytes(DATA)


def leftover(checked: Checked, side: str, name: str) -> None:
    Path(checked.tier.root, side, name).write_bytes(DATA)


def unlist_volumes(checked: Checked) -> None:
    checked.put(schema.xattr_key(checked.ino["stub"], schema.VOLUMES_XATTR), b"v1")


def catalog_put(key: bytes, value: bytes) -> Damage:
    return lambda checked: checked.catalog.transact(lambda writer: writer.put(key, value))


def catalog_delete(checked: Checked, prefix: bytes) -> None:
    """The first key with this prefix."""
    with checked.catalog.snapshot() as reader:
        key = next(iter(reader.scan(prefix, prefix + b"\xff")))[0]
    checked.catalog.transact(lambda writer: writer.delete(key))


def no_extent(checked: Checked, path: str) -> None:
    """As if one volume had been burned without the file."""
    with checked.catalog.snapshot() as reader:
        extent = b"E" + checked.ino[path].to_bytes(8, "big")
        key = next(iter(reader.scan(extent, extent + b"\xff")))[0]
        place = next(
            key
            for key, _ in reader.scan(b"Y", b"Z")
            if key.endswith(checked.ino[path].to_bytes(8, "big"))
        )
    for found in (key, place):
        checked.catalog.transact(lambda writer, found=found: writer.delete(found))


def burned_later(checked: Checked) -> None:
    checked.burned(FileVersion(checked.ino["premigrated"], 7), len(DATA))


REPAIRED: dict[str, tuple[Damage, list[str]]] = {
    # meta, journal, keys
    "version missing": (lambda c: c.delete(b"Mversion"), ["meta"]),
    "next_ino too low": (lambda c: numbers(c, 17), ["meta"]),
    "next_ino unreadable": (lambda c: c.put(b"Mnext_ino", b"x"), ["meta"]),
    "next_ino missing": (lambda c: c.delete(b"Mnext_ino"), ["meta"]),
    "starts too low": (lambda c: c.put(b"Mstarts", b"0"), ["meta"]),
    "journal bounds": (lambda c: c.put(b"Mjournal", b"1 2"), ["journal"]),
    "journal record": (lambda c: c.put(schema.journal_key(2), b"\xc1"), ["journal"]),
    "strange key": (lambda c: c.put(b"Zwhat", b"?"), ["unknown-key"]),
    "counters": (counters, ["counters"]),
    "counters unreadable": (lambda c: c.put(b"Mcounters", b"\xc1"), ["counters"]),
    # records
    "record of a file damaged": (lambda c: rot(c, "resident"), ["record"]),
    "record of a file missing": (lambda c: gone(c, "resident"), ["record"]),
    "record of a stub missing": (lambda c: gone(c, "stub"), ["record"]),
    "record of a stub damaged": (lambda c: rot(c, "stub"), ["record"]),
    "record of a directory damaged": (lambda c: rot(c, "dir"), ["record"]),
    "record of a directory missing": (lambda c: gone(c, "dir/sub"), ["record"]),
    "record of a symlink damaged": (lambda c: rot(c, "symlink"), ["record"]),
    "record of a fifo missing": (lambda c: gone(c, "dir/sub/fifo"), ["record"]),
    "root missing": (lambda c: gone(c, ""), ["record"]),
    "root damaged": (lambda c: rot(c, ""), ["record"]),
    "wrong number in a record": (field("ino", "resident", 4711), ["record"]),
    "wrong state in a record": (field("state", "resident", 9), ["record"]),
    "wrong type in a record": (field("mode", "resident", 0), ["record"]),
    "heat that is no number": (field("heat", "resident", float("nan")), ["record"]),
    # names
    "entry value damaged": (lambda c: c.put(entry_key(c, "stub"), b"rot"), ["entry"]),
    "entry missing": (lambda c: c.delete(entry_key(c, "stub")), ["entry"]),
    "entry of another inode": (
        lambda c: c.put(entry_key(c, "dir"), schema.ENTRY.pack(9, *c.entry(1, b"dir")[1:])),
        ["entry"],
    ),
    "record under another number": (
        lambda c: (
            c.put(schema.inode_key(9), c.get(schema.inode_key(c.ino["stub"]))),
            gone(c, "stub"),
        ),
        ["record"],
    ),
    "stub that is all there": (
        lambda c: (
            c.reindex("resident", lambda r: setattr(r, "state", Residency.MIGRATED)),
            None,
        ),
        ["head"],
    ),
    "entry type": (lambda c: with_type(c, "stub", stat.S_IFDIR), ["entry-type"]),
    "entry of the root": (
        lambda c: c.put(
            schema.entry_key(c.ino["dir"], b"r"), schema.ENTRY.pack(1, stat.S_IFDIR, 17)
        ),
        ["entry"],
    ),
    "entry of nothing": (
        lambda c: c.put(
            schema.entry_key(c.ino["dir"], b"x"), schema.ENTRY.pack(9, stat.S_IFREG, 17)
        ),
        ["entry"],
    ),
    "cookie beyond the counter": (
        lambda c: (c.delete(listed_key(c, "stub")), with_cookie(c, "stub", 1 << 40)),
        ["cookie"],
    ),
    "cookie twice": (same_cookie, ["cookie"]),
    "not listed": (lambda c: c.delete(listed_key(c, "stub")), ["listing"]),
    "listed wrongly": (lambda c: c.put(listed_key(c, "stub"), b"\0" * 12 + b"q"), ["listing"]),
    "listed twice": (
        lambda c: c.put(schema.listed_key(1, 17), c.get(listed_key(c, "stub"))),
        ["listing"],
    ),
    "list damaged": (lambda c: c.put(schema.listed_key(1, 17), b"rot"), ["listing"]),
    "link missing": (lambda c: c.delete(link_key(c, "stub")), ["link"]),
    "link of nothing": (lambda c: c.put(schema.link_key(c.ino["stub"], 1, b"no"), b""), ["link"]),
    "link with a value": (lambda c: c.put(link_key(c, "stub"), b"v"), ["link"]),
    "link key damaged": (lambda c: c.put(b"Lrot", b""), ["link"]),
    "nlink of a file": (field("nlink", "resident", 1), ["link-count"]),
    "nlink of a directory": (field("nlink", "dir", 9), ["link-count"]),
    "nlink of the root": (field("nlink", "", 2), ["link-count"]),
    "circle": (circle, ["tree"]),
    "directory with two names": (
        lambda c: add_name(c, "dir/sub", 1, b"x"),
        ["tree"],
    ),
    "file without a name": (lambda c: without_name(c, "stub"), ["nameless"]),
    "directory without a name": (
        lambda c: (without_name(c, "dir"), c.change("", lambda record: links(record, -1))),
        ["nameless"],
    ),
    "name that cannot be": (
        lambda c: (without_name(c, "stub"), add_name(c, "stub", 1, b"a/b")),
        ["entry", "nameless"],
    ),
    # marks
    "mark unreadable": (lambda c: c.put(schema.mark_key(c.ino["stub"]), b"?"), ["mark"]),
    "orphan mark of a named inode": (
        lambda c: c.put(schema.mark_key(c.ino["resident"]), b"o"),
        ["mark"],
    ),
    "mark of a missing inode": (lambda c: c.put(schema.mark_key(4711), b"w"), ["mark"]),
    "doomed mark of a living inode": (
        lambda c: c.put(schema.mark_key(c.ino["resident"]), b"d"),
        ["mark"],
    ),
    # symbolic links, attributes
    "symlink size": (field("size", "symlink", 3), ["symlink"]),
    "target of a file": (
        lambda c: c.put(schema.symlink_key(c.ino["resident"]), b"t"),
        ["symlink"],
    ),
    "target without inode": (lambda c: c.put(schema.symlink_key(9), b"t"), ["record", "nameless"]),
    "attribute without inode": (lambda c: c.put(schema.xattr_key(4711, b"user.x"), b""), ["xattr"]),
    "attribute flag": (
        lambda c: c.change("dir", lambda r: setattr(r, "flags", r.flags & ~FLAG_XATTRS)),
        ["xattr"],
    ),
    # index
    "index key missing": (lambda c: c.delete(index_key(c, "stub")), ["index"]),
    "index key too many": (
        lambda c: c.put(schema.index_key(3, 3, 3, c.ino["stub"]), b""),
        ["index"],
    ),
    "index key of nothing": (lambda c: c.put(schema.index_key(0, 0, 0, 4711), b""), ["index"]),
    # cache
    "size of a resident file": (lambda c: grow(c, "resident"), ["cache-size"]),
    "size of a premigrated file": (lambda c: grow(c, "premigrated"), ["cache-size"]),
    "cache file of an empty file": (lambda c: os.unlink(c.cache_path("empty")), ["cache-file"]),
    "cache file of a premigrated file": (
        lambda c: os.unlink(c.cache_path("premigrated")),
        ["cache-file"],
    ),
    "head missing": (lambda c: os.unlink(c.cache_path("stub")), ["cache-file"]),
    "head short": (lambda c: os.truncate(c.cache_path("stub"), 100), ["head"]),
    "head long": (lambda c: grow(c, "stub"), ["head"]),
    "cache file without inode": (stray, ["stray"]),
    "empty cache file without inode": (lambda c: stray(c, b""), ["stray"]),
    "strange cache file": (strange, ["stray"]),
    "recall of nothing": (lambda c: leftover(c, "recall", "9.1"), ["leftover"]),
    "copy of nothing": (lambda c: leftover(c, "copy", "9"), ["leftover"]),
    "claim with a strange name": (lambda c: leftover(c, "claim", "what"), ["leftover"]),
    "recalling without a mark": (meant("state", "stub", Residency.RECALLING), ["state"]),
    # catalog
    "copies of a premigrated file": (lambda c: no_extent(c, "premigrated"), ["copies"]),
    "copies not counted": (meant("copies", "stub", 0), ["copies"]),
    "size of a stub": (meant("size", "stub", 9999), ["copies"]),
    "version behind the discs": (burned_later, ["version"]),
    "volumes not listed": (unlist_volumes, ["volumes"]),
    "contents missing": (lambda c: catalog_delete(c, b"Yv1"), ["contents"]),
    "contents damaged": (catalog_put(b"Yv1\0rot", b""), ["contents"]),
    "contents elsewhere": (
        lambda c: catalog_put(
            b"Yv1\0" + (99).to_bytes(8, "big") + c.ino["stub"].to_bytes(8, "big"), b"\0\0\0\1"
        )(c),
        ["contents"],
    ),
    "next volume number": (
        lambda c: catalog_put(b"Vs-000009", msgspec.msgpack.encode(volume("s-000009")))(c),
        ["meta"],
    ),
}


def volume(label: str) -> dict[str, str]:
    return {"label": label, "pool": "main"}


@pytest.mark.parametrize("name", REPAIRED)
def test_damage_is_found_once_repaired_and_gone(name, checked):
    damage, expected = REPAIRED[name]
    before = checked.tree()
    assert checked.check() == []
    damage(checked)
    assert checked.kinds() == expected
    assert checked.kinds() == expected, "looking changes nothing"
    assert checked.kinds(repair=True) == expected
    assert checked.check() == []
    after = checked.tree()
    assert checked.check() == [], "the engine agrees with the repairs"
    lost = [path for path in before if path not in after]
    kept = set(after.values())
    for path in lost:
        assert before[path] in kept, f"{path} is gone"


UNREPAIRED: dict[str, tuple[Damage, list[str]]] = {
    "resident data missing": (lambda c: os.unlink(c.cache_path("resident")), ["lost"]),
    "symlink target missing": (lambda c: c.delete(schema.symlink_key(c.ino["symlink"])), ["lost"]),
    "stub with too few copies": (lambda c: no_extent(c, "stub"), ["at-risk"]),
    "stub without copies": (lambda c: (no_extent(c, "stub"), no_extent(c, "stub")), ["lost"]),
    "disc record damaged": (
        catalog_put(b"Kv1-disc", b"\xc1"),
        ["catalog-record", "copies", "at-risk"],
    ),
    "task record damaged": (catalog_put(b"T" + b"\0" * 8, b"\xc1"), ["catalog-record"]),
    "extent damaged": (
        lambda c: catalog_put(b"E" + (9).to_bytes(8, "big") + b"\0\0\0\1v1", b"\xc1")(c),
        ["extent"],
    ),
    "extent missing": (lambda c: catalog_delete(c, b"E"), ["extent", "copies"]),
    "volume missing": (
        lambda c: catalog_delete(c, b"Vv1"),
        ["disc", "extent", "extent", "copies", "at-risk"],
    ),
}
CANNOT = {"lost", "at-risk", "catalog-record", "extent", "disc"}


@pytest.mark.parametrize("name", UNREPAIRED)
def test_what_cannot_be_repaired_stays_told(name, checked):
    damage, expected = UNREPAIRED[name]
    damage(checked)
    assert checked.kinds() == expected
    found = checked.check(repair=True)
    assert [finding.kind for finding in found] == expected
    assert all((finding.repair == "") == (finding.kind in CANNOT) for finding in found)
    assert checked.kinds() == [kind for kind in expected if kind in CANNOT]


def test_a_stray_file_keeps_its_bytes(checked):
    stray(checked)
    checked.check(repair=True)
    assert checked.tree()[f"lost+found/#{STRAY}"] == DATA
    assert not os.path.exists(checked.tier.path(STRAY))


def test_a_rescue_that_was_cut_is_finished(checked):
    stray(checked)
    kept = str(checked.root.parent / "kept")
    os.link(checked.tier.path(STRAY), kept)
    checked.check(repair=True)
    os.rename(kept, checked.tier.path(STRAY))
    assert checked.kinds(repair=True) == ["stray"]
    assert checked.check() == []
    assert [path for path in checked.tree() if "#" in path] == [f"lost+found/#{STRAY}"]


def test_a_directory_comes_back_with_all_that_is_below(checked):
    before = checked.tree()
    without_name(checked, "dir")
    checked.change("", lambda record: links(record, -1))
    checked.check(repair=True)
    after, moved = checked.tree(), f"lost+found/#{checked.ino['dir']}"
    for path, word in before.items():
        assert after[path.replace("dir", moved, 1) if path.startswith("dir") else path] == word


def test_a_missing_premigrated_file_becomes_a_stub(checked):
    os.unlink(checked.cache_path("premigrated"))
    checked.check(repair=True)
    record = checked.record("premigrated")
    assert (record.state, record.copies, record.head_bytes) == (Residency.MIGRATED, 2, 0)


def test_a_changed_premigrated_file_keeps_both_versions(checked):
    """The volumes' data under its name, the cached bytes in lost+found."""
    grow(checked, "premigrated")
    checked.check(repair=True)
    assert checked.record("premigrated").state == Residency.MIGRATED
    tree = checked.tree()
    aside = [path for path in tree if path.startswith("lost+found/")]
    assert [tree[path] for path in aside] == [DATA + b"premigratedmore"]


def test_lost_and_found_that_is_a_file_is_left_alone(checked):
    checked.start()
    checked.bench.make(b"lost+found", b"mine")
    checked.close()
    stray(checked)
    checked.check(repair=True)
    tree = checked.tree()
    assert tree["lost+found"] == b"mine"
    assert tree[f"lost+found.1/#{STRAY}"] == DATA


def test_all_lists_and_links_come_back_from_the_entries(checked):
    before = checked.tree()
    for table in (b"R", b"L"):
        with checked.bench.store.snapshot() as reader:
            keys = [key for key, _ in reader.scan(table, bytes([table[0] + 1]))]
        for key in keys:
            checked.delete(key)
    assert set(checked.kinds(repair=True)) == {"listing", "link"}
    assert checked.check() == []
    assert checked.tree() == before


def test_all_entries_come_back_from_the_lists(checked):
    before = checked.tree()
    with checked.bench.store.snapshot() as reader:
        keys = [key for key, _ in reader.scan(b"D", b"E")]
    for key in keys:
        checked.delete(key)
    assert set(checked.kinds(repair=True)) == {"entry"}
    assert checked.check() == []
    assert checked.tree() == before


def test_work_that_was_cut_is_no_finding(checked):
    """What the next start settles by itself."""
    checked.start()
    bench = checked.bench
    stub = checked.record("stub")
    bench.engine.recall_begin(FileVersion(stub.ino, stub.data_version))
    fh = bench.open(checked.ino["resident"], os.O_RDWR)
    bench.engine.write(fh, 0, b"x" * 50_000)
    bench.engine.unlink(1, b"empty")
    assert checked.check() == []
    bench.reopen()
    checked.close()
    assert checked.check() == []


def test_a_newer_version_is_an_error(checked):
    checked.put(b"Mversion", b"99")
    with pytest.raises(CallerError, match="found version 99"):
        checked.check()


def test_a_newer_catalog_is_an_error(checked):
    catalog_put(b"Mschema", b"99")(checked)
    with pytest.raises(CallerError, match="found schema"):
        checked.check()
