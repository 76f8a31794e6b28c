"""The main job on the real programs: migrate, release, recall, people, faults."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support.sandboxes import BIN, Sandbox, differing, write_files

pytestmark = pytest.mark.fuse
DISC = "20000000"


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "2", "--slots", "8", "--disc-bytes", DISC)
    try:
        yield sandbox
    finally:
        sandbox.stop()


def test_stubs_have_two_copies_in_different_magazines_and_come_back(box: Sandbox) -> None:
    made = write_files(box.mnt / "study", 40, 1_000_000)
    os.link(box.mnt / "study" / "f0001", box.mnt / "hard")
    made[str(box.mnt / "hard")] = made[str(box.mnt / "study" / "f0001")]
    before = {path: os.stat(path) for path in made}
    box.migrate_and_release()
    files = box.files()
    assert len(files) == 40
    assert {f["state"] for f in files} == {"migrated"}
    assert {f["copies"] for f in files} == {2}
    assert {tuple(f["magazines"]) for f in files} == {("M01", "M02")}
    cached = subprocess.check_output(["du", "-sB1", str(box.root / "cache")]).split()[0]
    assert int(cached) < 0.15 * sum(map(len, made.values()))
    assert not differing(made)
    after = {path: os.stat(path) for path in made}
    for path, facts in before.items():
        now = after[path]
        assert (facts.st_mtime_ns, facts.st_mode, facts.st_nlink) == (
            now.st_mtime_ns,
            now.st_mode,
            now.st_nlink,
        )


def test_discs_are_read_by_seven_zip(box: Sandbox, tmp_path: Path) -> None:
    made = write_files(box.mnt / "a" / "b", 20, 500_000)
    box.migrate_and_release()
    images = sorted((box.root / "library" / "discs").iterdir())
    assert len(images) == 2
    for image in images:
        out = tmp_path / image.name
        subprocess.run(["7z", "x", "-y", f"-o{out}", str(image)], check=True, capture_output=True)
        for path, data in made.items():
            assert (out / Path(path).relative_to(box.mnt)).read_bytes() == data


def test_recall_of_everything_loads_each_disc_at_most_once(box: Sandbox) -> None:
    write_files(box.mnt / "s", 50, 1_500_000)
    box.migrate_and_release()
    before = {disc["barcode"]: disc["loads"] for disc in box.discs()}
    box.hsm("recall", "-r", "--wait", str(box.mnt))
    assert all(disc["loads"] - before[disc["barcode"]] <= 1 for disc in box.discs())
    assert {f["state"] for f in box.files()} == {"premigrated"}


def test_a_changed_file_is_resident_again_and_its_old_copy_is_dead(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 3, 200_000)
    box.migrate_and_release()
    path = next(iter(made))
    with open(path, "r+b") as file:
        file.seek(100_000)
        file.write(b"new")
    data = bytearray(made[path])
    data[100_000:100_003] = b"new"
    assert Path(path).read_bytes() == data
    assert os.getxattr(path, "user.hsm.state") == b"resident"
    box.migrate_and_release()
    assert Path(path).read_bytes() == data


def test_pinned_files_stay(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 2, 200_000)
    first = next(iter(made))
    os.setxattr(first, "user.hsm.pin", b"1")
    box.hsm("migrate", "-r", "--wait", str(box.mnt))
    box.hsm("release", "-r", "--wait", str(box.mnt), check=False)
    assert os.getxattr(first, "user.hsm.state") == b"premigrated"


def test_the_last_magazine_outside_makes_a_task_and_the_reader_waits(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 4, 400_000)
    box.migrate_and_release()
    for magazine in ("M01", "M02"):
        box.hsm("magazine", "export", magazine, "--wait")
    path = next(iter(made))
    reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
    try:
        task = box.until(lambda: [t for t in box.hsm("tasks")["tasks"] if t["waiting"]])[0]
        assert task["magazine"] in ("M01", "M02")
        assert os.path.basename(path) in task["waiting"][0]["path"]
        assert b"magazine" in os.getxattr(path, "user.hsm.recall")
        assert reader.poll() is None
        box.hsm("magazine", "import", task["magazine"], "--wait")
        out, _ = reader.communicate(timeout=60)
    finally:
        reader.kill()
        reader.wait()
    assert out == made[path]
    box.until(lambda: box.hsm("tasks")["tasks"] == [])


def test_ctrl_c_ends_a_waiting_reader_at_once(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 1, 400_000)
    box.migrate_and_release()
    for magazine in ("M01", "M02"):
        box.hsm("magazine", "export", magazine, "--wait")
    reader = subprocess.Popen(["cat", next(iter(made))], stdout=subprocess.DEVNULL)
    box.until(lambda: box.hsm("tasks")["tasks"])
    reader.send_signal(signal.SIGINT)
    assert reader.wait(timeout=10) == -signal.SIGINT


def test_a_stub_read_without_hsmd_ends_with_etimedout(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 2, 400_000)
    box.migrate_and_release()
    box.stop()
    box.configure("recall_timeout_s = 600.0", "recall_timeout_s = 1.0")
    box.start()
    box.kill("hsmd", signal.SIGTERM)
    resident = box.mnt / "new"
    resident.write_bytes(b"works")
    assert resident.read_bytes() == b"works"
    with pytest.raises(OSError) as caught:
        Path(next(iter(made))).read_bytes()
    assert caught.value.errno == errno.ETIMEDOUT
    box.start()
    assert not differing(made)


def test_work_goes_on_with_the_other_drive_when_one_fails_for_good(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 30, 1_000_000)
    box.faults({"device": "drive0", "op": "any", "sense": [4, 0x44, 0]})
    box.migrate_and_release()
    assert not differing(made)
    status = box.hsm("status")
    (dead,) = [drive for drive in status["drives"] if drive["name"] == "drive0"]
    assert dead["errors"] > 0 and dead["note"]
    if dead["state"] == "quarantined":
        assert "04/44/00" in dead["note"]


def test_a_damaged_disc_is_noticed_by_nobody_but_the_operator(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 2, 3_000_000)
    box.migrate_and_release()
    first = next(disc for disc in box.discs() if disc["state"] == "verified")
    box.faults({"device": first["barcode"], "op": "read", "lba_from": 900, "sense": [3, 0x11, 5]})
    assert not differing(made)
    damaged = next(disc for disc in box.discs() if disc["barcode"] == first["barcode"])
    assert damaged["read_errors"] > 0


def test_a_disc_that_is_not_blank_is_never_written_over(box: Sandbox) -> None:
    box.stop()
    image = box.root / "library" / "discs" / "HSM00001.img"
    image.write_bytes(os.urandom(2048 * 64))
    (box.root / "library" / "closed" / "HSM00001").touch()
    before = image.read_bytes()
    box.start()
    made = write_files(box.mnt / "s", 3, 300_000)
    box.migrate_and_release()
    assert image.read_bytes() == before
    assert {d["barcode"]: d["state"] for d in box.discs()}["HSM00001"] == "foreign"
    assert not differing(made)


def test_a_full_library_says_so_and_the_files_stay(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 120, 1_000_000)
    done = box.hsm("migrate", "-r", "--wait", str(box.mnt), check=False)
    assert done["state"] in ("partial", "failed")
    assert any("blank" in why for why in done["errors"])
    assert any("blank" in task["text"] for task in box.hsm("tasks")["tasks"])
    assert not differing(made)


def test_the_end_of_a_large_file_is_served_before_its_middle(box: Sandbox) -> None:
    box.stop()
    library = box.root / "library" / "library.json"
    state = json.loads(library.read_text())
    state["timing"] = dict(move_s=0.1, load_s=0.1, seek_s=0.0, read_bytes_s=4e6, write_bytes_s=1e9)
    library.write_text(json.dumps(state))
    box.configure('speed = "instant"', 'speed = "realistic"')
    box.start()
    data = os.urandom(16_000_000)
    path = box.mnt / "large"
    path.write_bytes(data)
    path_small = box.mnt / "small"
    path_small.write_bytes(b"x" * 10)
    box.migrate_and_release(path)
    script = (
        "import os,sys,time; f=open(sys.argv[1],'rb',buffering=0); t=time.time();"
        "n=os.fstat(f.fileno()).st_size; d=os.pread(f.fileno(),1000,n-1000); a=time.time()-t;"
        "f.seek(0); r=b''.join(iter(lambda: f.read(1<<20),b'')); b=time.time()-t;"
        "assert r[-1000:]==d and len(r)==n; print(a/b)"
    )
    out = subprocess.check_output([sys.executable, "-c", script, str(path)], timeout=60)
    assert float(out) < 0.6
    assert path.read_bytes() == data


@pytest.mark.parametrize("program", ["hsmd", "hsmfs"])
def test_killed_while_it_works_it_goes_on_by_itself(box: Sandbox, program: str) -> None:
    made = write_files(box.mnt / "s", 40, 600_000, sync=True)
    box.hsm("migrate", "-r", str(box.mnt), check=False)
    time.sleep(0.15)
    box.kill(program)
    box.start()
    box.until(lambda: {f["state"] for f in box.files()} == {"premigrated"})
    assert not differing(made)
    images = {d["barcode"] for d in box.discs() if d["state"] == "verified"}
    counted = {v for f in box.files() for v in f["volumes"]}
    assert all(d["volume"] in counted for d in box.discs() if d["barcode"] in images)


def test_a_second_hsmd_is_refused(box: Sandbox) -> None:
    command = [str(BIN / "hsmd"), "--config", str(box.root / "hsmfs.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"hsmd runs already with process id {box.pid('hsmd')}" in done.stderr
    assert done.stderr.count("\n") == 1
    made = write_files(box.mnt / "s", 3, 300_000)
    box.migrate_and_release()
    assert not differing(made)
    box.kill("hsmd")
    box.start()
    assert box.hsm("status")["hsmfs"]["connected"]


def test_a_robot_that_fails_now_and_then_is_worked_around(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 5, 300_000)
    box.faults({"device": "changer", "op": "move", "sense": [5, 0x3B, 0x0D], "count": 2})
    box.migrate_and_release()
    assert not differing(made)


def test_a_stuck_robot_is_told_and_the_files_stay(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 5, 300_000)
    box.faults({"device": "changer", "op": "move", "sense": [4, 0x15, 1]})
    done = box.hsm("migrate", "-r", "--wait", str(box.mnt), check=False)
    assert any("MOVE MEDIUM" in why for why in done["errors"])
    assert box.hsm("status")["library"]["problem"] or box.hsm("status")["alarms"]
    assert not differing(made)
    box.faults()
    box.until(lambda: {f["state"] for f in box.files()} == {"premigrated"})


def test_a_full_cache_gives_enospc_and_loses_nothing(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 5, 300_000)
    box.stop()
    box.configure('name = "cache"', 'name = "cache"\ncapacity_bytes = 3000000')
    box.start()
    with pytest.raises(OSError) as caught:
        write_files(box.mnt / "more", 20, 400_000)
    assert caught.value.errno == errno.ENOSPC
    assert not differing(made)


def test_metrics_of_both_processes(box: Sandbox) -> None:
    write_files(box.mnt / "s", 3, 300_000)
    box.migrate_and_release()
    texts = {}
    for name in ("hsmd.sock", "hsmfs-metrics.sock"):
        transport = httpx.HTTPTransport(uds=str(box.root / "run" / name))
        with httpx.Client(transport=transport) as client:
            texts[name] = client.get("http://local/metrics").text
    assert 'hsmd_drive_state{drive="drive0"' in texts["hsmd.sock"]
    assert "hsmd_burn_seconds_bucket" in texts["hsmd.sock"]
    assert "hsmd_operator_tasks_open 0.0" in texts["hsmd.sock"]
    assert 'state="migrated"' in texts["hsmfs-metrics.sock"]


def test_when_all_copies_are_damaged_the_reader_gets_eio(box: Sandbox) -> None:
    made = write_files(box.mnt / "s", 2, 300_000)
    box.migrate_and_release()
    for image in (box.root / "library" / "discs").iterdir():
        size = image.stat().st_size
        with image.open("r+b") as file:
            file.write(bytes(size))
    with pytest.raises(OSError) as caught:
        Path(next(iter(made))).read_bytes()
    assert caught.value.errno == errno.EIO
    assert {f["state"] for f in box.files()} == {"migrated"}
