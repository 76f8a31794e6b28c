"""The benchmarks themselves: works do what they say, figures are right, data is consistent."""

import fcntl
import os
import stat
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from support.engines import Bench

from hsmfs.errors import CallerError, HsmError
from hsmfs.namespace import schema
from hsmfs.namespace.tables import COUNTERS_KEY, NEXT_INO_KEY, Counters
from hsmfs.records import InodeRecord
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.bench import __main__ as program
from hsmfs.tools.bench import discs, rebuildlibrary, rebuildscale, scale, scaleworks
from hsmfs.tools.bench import generate as generator
from hsmfs.tools.bench.apart import WorkFailed, in_parallel, run_apart
from hsmfs.tools.bench.bigworks import WORKS, RandomWarm, ReadBigCold
from hsmfs.tools.bench.generate import generate
from hsmfs.tools.bench.measure import Sample
from hsmfs.tools.bench.namespacedata import Shape, folders, items
from hsmfs.tools.bench.processcpu import cpu_s, memory_bytes, with_children
from hsmfs.tools.bench.report import cpu_rows, rate_rows, result, rotated
from hsmfs.tools.bench.runner import Runner
from hsmfs.tools.bench.sizes import TINY
from hsmfs.tools.bench.works import CreateEmpty, CreateSmall, Rename, StatWarm, Unlink, Work
from hsmfs.types import Residency

MAP_BYTES = 1 << 30
SHAPE = Shape(files=1000, per_directory=64, large=300, now_ns=1_700_000_000 * 10**9)


def sample(rate: float, cpu_us: float = 0.0) -> Sample:
    """So many operations in one second."""
    return Sample(1.0, rate, 1000, cpu_us * 1000 / 1e6)


# -- figures -----------------------------------------------------------------


def test_medians_and_ratios() -> None:
    one = result(
        "stat", "stats/s", "stat",
        {
            "ext4": [sample(100), sample(90), sample(1000)],
            "mergerfs": [sample(20), sample(10), sample(30)],
            "bindfs": [sample(40)] * 3,
            "native": [sample(60, 10), sample(50, 12), sample(10, 500)],
            "pyfuse3": [sample(5)] * 3,
        },
    )  # fmt: skip
    assert one.median == {"ext4": 100, "mergerfs": 20, "bindfs": 40, "native": 50, "pyfuse3": 5}
    assert one.to_ext4["native"] == 0.5
    assert one.native_to_c == 1.25
    assert one.native_to_pyfuse3 == 10
    assert one.server_cpu_us_per_op["native"] == pytest.approx(12)
    assert "ext4" not in one.server_cpu_us_per_op


def test_systems_that_did_not_take_part_have_no_ratios() -> None:
    one = result("stat", "stats/s", "stat", {"ext4": [], "native": [sample(50)], "bindfs": []})
    assert one.median == {"native": 50}
    assert one.to_ext4 == {} and one.native_to_c is None and one.native_to_pyfuse3 is None
    (row,) = rate_rows([one], ["ext4", "native"])
    assert row == ["stat", "stats/s", "-", "50", "-", "-", "-"]
    (row,) = cpu_rows([one], ["native", "bindfs"])
    assert row == ["stat", "stat", "0.0", "-"]


def test_nobody_is_always_first() -> None:
    orders = [rotated(["a", "b", "c"], number) for number in range(4)]
    assert orders == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"]]
    assert rotated([], 3) == []


def test_scale_table_compares_last_to_first() -> None:
    small, big = scale.Figures(1000, 100), scale.Figures(9000, 900)
    small.start_s, big.start_s = 2.0, 3.0
    shown = {row[0].strip(): row for row in scale.rows([small, big])}
    assert shown["start"][2:] == ["2", "3", "1.50"]
    assert shown["lookup"][2:] == ["-", "-", "-"]


def test_cpu_time_of_a_child_is_seen() -> None:
    spent = run_apart(_spin, 60)
    assert spent >= 0.05


def _spin() -> float:
    mine = with_children(os.getpid())
    before = cpu_s(mine)
    while time.process_time() < 0.1:
        pass
    return cpu_s(mine) - before


def test_memory_of_this_process() -> None:
    found = memory_bytes(os.getpid())
    assert 0 < found["RssAnon"] <= found["VmRSS"] <= found["VmHWM"] + found["VmRSS"]


# -- work apart --------------------------------------------------------------


def test_work_apart_gives_values_and_errors() -> None:
    assert run_apart(lambda: {"a": [1, 2]}, 60) == {"a": [1, 2]}
    with pytest.raises(WorkFailed, match="ENOENT: No such file or directory: /none/such"):
        run_apart(lambda: os.stat("/none/such"), 60)
    with pytest.raises(WorkFailed, match="was killed"):
        run_apart(lambda: os.kill(os.getpid(), 9), 60)


def test_work_that_hangs_is_ended() -> None:
    with pytest.raises(WorkFailed, match="no end after 0 s"):
        run_apart(lambda: time.sleep(600), 0.2)


def test_a_parallel_job_that_fails_is_told() -> None:
    with pytest.raises(WorkFailed, match="parallel"):
        run_apart(lambda: in_parallel([lambda: None, lambda: os._exit(3)]), 60)


# -- works -------------------------------------------------------------------


@pytest.mark.parametrize("kind", WORKS, ids=lambda kind: kind.name)
def test_every_work_does_what_it_says(kind: type[Work], tmp_path: Path) -> None:
    for _ in range(2):
        work = kind(str(tmp_path), TINY)
        work.prepare()
        work.run()
        work.verify()
        assert work.ops > 0 and work.amount > 0


def test_names_of_works_differ() -> None:
    assert len({work.name for work in WORKS}) == len(WORKS)


def test_works_notice_what_was_not_done(tmp_path: Path) -> None:
    create = CreateSmall(str(tmp_path), TINY)
    create.prepare()
    create.run()
    os.truncate(create.paths[3], 5)
    with pytest.raises(WorkFailed, match="expected 8 files of 100000 bytes"):
        create.verify()
    unlink = Unlink(str(tmp_path), TINY)
    unlink.prepare()
    with pytest.raises(WorkFailed, match="files left: found 8, expected 0"):
        unlink.verify()
    rename = Rename(str(tmp_path), TINY)
    rename.prepare()
    with pytest.raises(WorkFailed, match="found others"):
        rename.verify()


def test_short_reads_are_noticed(tmp_path: Path) -> None:
    big = ReadBigCold(str(tmp_path), TINY)
    big.prepare()
    os.truncate(big.path, 4096)
    big.run()
    with pytest.raises(WorkFailed, match="bytes read: found 4096"):
        big.verify()
    places = RandomWarm(str(tmp_path), TINY)
    places.prepare()
    os.truncate(places.path, 0)
    with pytest.raises(WorkFailed, match="bytes read"):
        places.run()


def test_systems_that_are_missing_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/none/such")
    said: list[str] = []
    runner = Runner(tmp_path, TINY, said.append)
    runner.drops = False
    try:
        results = runner.run([CreateEmpty, StatWarm], ["ext4", "bindfs"], 2)
    finally:
        runner.stop()
    assert runner.left_out == said[:1] and not runner.failures
    assert "bindfs is not installed; as root: apt-get install bindfs" in said[0]
    assert [one.work for one in results] == ["create empty", "stat warm"]
    assert all(len(one.rounds["ext4"]) == 2 and "bindfs" not in one.median for one in results)


def test_a_work_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    class Broken(CreateEmpty):
        name = "broken"

        def run(self) -> None:
            os.rmdir("/none/such")

    runner = Runner(tmp_path, TINY, lambda line: None)
    runner.drops = False
    results = runner.run([Broken, CreateEmpty], ["ext4"], 1)
    runner.stop()
    assert [one.work for one in results] == ["create empty"]
    assert len(runner.failures) == 1 and "ext4: broken: ENOENT" in runner.failures[0]


def test_wrong_options_say_what_is_expected(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--systems", "ext4,zfs"], "found 'zfs', expected some of ext4"),
        (["--only", "dance"], "expected words of: create 100 KB"),
        (["--rounds", "0"], "expected 1 or more"),
    ):
        with pytest.raises(SystemExit) as ended:
            program.main(words)
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


# -- generated namespaces ----------------------------------------------------


def test_items_come_in_order_and_agree_with_each_other() -> None:
    made = list(items(SHAPE))
    keys = [key for key, _ in made]
    assert keys == sorted(set(keys))
    table = {key: value for key, value in made}
    inodes = {
        InodeRecord.unpack(value).ino: InodeRecord.unpack(value)
        for key, value in made
        if key[:1] == b"I"
    }
    entries = [(key, value) for key, value in made if key[:1] == b"D"]
    assert len(entries) == len(inodes) - 1 == SHAPE.files + 12
    numbers = {1}
    for key, value in entries:
        parent, name = schema.U64.unpack_from(key, 1)[0], key[9:]
        ino, kind, cookie = schema.ENTRY.unpack(value)
        assert stat.S_IFMT(inodes[ino].mode) == kind
        assert stat.S_ISDIR(inodes[parent].mode)
        assert table[schema.listed_key(parent, cookie)] == schema.LISTED.pack(ino, kind) + name
        assert table[schema.link_key(ino, parent, name)] == b""
        assert not numbers & {ino, cookie}
        numbers |= {ino, cookie}
        if kind == stat.S_IFREG:
            assert table[schema.index_key(0, 0, 0.0, ino)] == b""
    assert sum(key[:1] in (b"R", b"L") for key in keys) == 2 * len(entries)
    assert sum(key[:1] == b"C" for key in keys) == SHAPE.files
    assert int(table[NEXT_INO_KEY]) == max(numbers) + 1
    counters = msgspec.msgpack.decode(table[COUNTERS_KEY], type=Counters)
    assert counters.files == [SHAPE.files, 0, 0, 0] and counters.inodes == len(inodes) - 1


def test_an_engine_works_on_a_generated_namespace(tmp_path: Path) -> None:
    generate(tmp_path / "namespace", MAP_BYTES, SHAPE)
    store = LmdbStore(tmp_path / "namespace", MAP_BYTES)
    bench = Bench(tmp_path / "tier", store=store)
    engine = bench.engine
    assert engine.status().states[Residency.RESIDENT].files == SHAPE.files
    large = engine.lookup(1, b"large")
    names = [name for _, _, _, name in engine.tables.listed(large.ino, 0, 10_000)]
    assert names == [b"f%08d" % number for number in range(300)]
    first = engine.lookup(1, b"d0000000")
    assert engine.lookup(1, b"d0000010").nlink == 2
    assert engine.lookup(first.ino, b"f00000063").size == 0
    engine.unlink(first.ino, b"f00000063")
    engine.rename(first.ino, b"f00000000", large.ino, b"moved", 0)
    made = bench.make(b"new", b"data")
    assert made.ino > max(folder.next_ino for folder in folders(SHAPE)) - 1
    assert engine.status().states[Residency.RESIDENT].files == SHAPE.files
    engine.close()
    store.close()


def test_generated_stubs(tmp_path: Path) -> None:
    shape = Shape(files=10, size=5000, state=Residency.MIGRATED)
    generate(tmp_path / "namespace", MAP_BYTES, shape)
    store = LmdbStore(tmp_path / "namespace", MAP_BYTES)
    bench = Bench(tmp_path / "tier", store=store)
    folder = bench.engine.lookup(1, b"d0000000")
    stub = bench.engine.lookup(folder.ino, b"f00000004")
    assert (stub.size, stub.blocks) == (5000, 0)
    assert bench.state(stub.ino) == "migrated"
    assert bench.engine.tables.counters.cached == 0
    bench.engine.close()
    store.close()


def test_a_namespace_in_use_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "namespace"
    generate(path, MAP_BYTES, Shape(files=3))
    with pytest.raises(CallerError, match="found 4 files and directories, expected none"):
        generate(path, MAP_BYTES, Shape(files=3))
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis").touch()
    with pytest.raises(CallerError, match="'thesis', which is no part of a store"):
        generate(tmp_path / "papers", MAP_BYTES, Shape(files=3))
    with pytest.raises(CallerError, match="expected large <= files"):
        generate(tmp_path / "other", MAP_BYTES, Shape(files=3, large=4))


def test_a_running_system_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "hsmfs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CallerError, match="stop it first"):
            generator.check_stopped(tmp_path)
    generator.check_stopped(tmp_path)


def test_generate_without_configuration_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generator.main([str(tmp_path / "none.toml"), "--files", "3"]) == 1
    assert "generate: " in capsys.readouterr().err


def test_parts_of_the_scale_test_share_no_file() -> None:
    shape = Shape(files=4000, large=400)
    places = scaleworks.Places("/m", shape, "seed")
    parts = [set(places.files(part, 50)) for part in range(scaleworks.PARTS)]
    assert all(len(part) == 50 for part in parts)
    assert len(set.union(*parts)) == 50 * scaleworks.PARTS
    assert places.files(3, 1_000_000_000)


# -- discs -------------------------------------------------------------------


def test_discs_are_measured_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    words = ["--tiny", "--only", "disc", "--dir", str(tmp_path), "--json", str(out)]
    assert program.main(words) in (0, 3)
    found = msgspec.json.decode(out.read_bytes())["discs"]
    assert set(found["rounds"]) >= {"all hashes", "all hashes, to a file", "one copy", "300 files"}
    for failure in found["failures"]:
        assert "is not installed" in failure
    two = found["rounds"]["two copies"][0]
    assert 1.0 <= two["read_per_byte"] < 1.2  # plans and proofs are read too
    assert two["hashed_per_byte"] == 1.0
    bars = {bar["name"]: bar for bar in found["bars"]}
    assert "two copies: processor over that of one copy" in bars
    assert bars["300 files: memory, MB"]["bar"] == 150
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    assert "what is asked for" in capsys.readouterr().out


def test_bars_are_least_or_most() -> None:
    results = discs.DiscResults()
    results.bars = [
        discs.Bar("rate", 1.2, 1.0, True),
        discs.Bar("rate", 0.9, 1.0, True),
        discs.Bar("memory", 149.0, 150.0, False),
        discs.Bar("memory", 151.0, 150.0, False),
    ]
    assert [row[3] for row in discs.bar_rows(results)] == ["yes", "NO", "yes", "NO"]


# -- rebuild -----------------------------------------------------------------------


def test_rebuilt_namespaces_are_compared(tmp_path: Path) -> None:
    found = rebuildscale.measure(tmp_path, 2500, 3)
    # Names and links of files and directories, inodes of both and the root.
    assert (found.files, found.volumes, found.compared) == (2500, 3, 3 * 2503 + 1)
    assert found.cpu_s > 0 and found.peak_bytes > 1 << 20


def test_a_library_is_rebuilt_and_compared(tmp_path: Path) -> None:
    found = rebuildlibrary.measure(tmp_path, 24)
    assert (found.files, found.volumes, found.compared) == (600, 12, 3 * 612 + 1)


def test_a_difference_is_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    generate(one, MAP_BYTES, SHAPE)
    generate(other, MAP_BYTES, replace(SHAPE, uid=7))
    with pytest.raises(HsmError, match="inode: found"):
        rebuildscale.compare(one, other)
    generate(tmp_path / "less", MAP_BYTES, replace(SHAPE, files=999))
    with pytest.raises(HsmError, match="table b'D'"):
        rebuildscale.compare(one, tmp_path / "less")
