"""The program: what it refuses, how it ends, what a crash leaves."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

PORT_ANY = 0


def metrics_of(system) -> str:
    transport = httpx.HTTPTransport(uds=str(system.run_dir / "hsmfs-metrics.sock"))
    with httpx.Client(transport=transport, base_url="http://hsmfs") as client:
        reply = client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain")
    return reply.text


def value(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(name + " ")]
    return float(line.split()[-1])


def edit(system, old: str, new: str) -> None:
    text = system.config.read_text()
    assert old in text
    system.config.write_text(text.replace(old, new))


def must_refuse(system, status: int, *words: str) -> None:
    code, said = system.run_to_end()
    assert code == status, said
    assert "Traceback" not in said
    for word in words:
        assert word in said
    assert not os.path.ismount(system.mnt)


def test_an_unknown_key_is_refused(system):
    edit(system, "reserve_bytes", "reserve_byte")
    must_refuse(system, 2, "reserve_byte")


def test_a_wrong_type_is_refused(system):
    edit(system, "reserve_bytes = 1048576", 'reserve_bytes = "much"')
    must_refuse(system, 2, "reserve_bytes")


def test_a_missing_configuration_file_is_refused(system):
    system.config.unlink()
    must_refuse(system, 2, "hsmfs.toml")


def test_a_missing_tier_is_refused(system):
    (system.dir / "tier").rmdir()
    must_refuse(system, 2, str(system.dir / "tier"), "mkdir")


def test_a_tier_that_is_a_file_is_refused(system):
    (system.dir / "tier").rmdir()
    (system.dir / "tier").write_text("")
    must_refuse(system, 2, "directory")


def test_two_tiers_on_one_path_are_refused(system):
    (system.dir / "other").symlink_to("tier")
    second = f'[[tier]]\nname = "two"\npath = "{system.dir}/other"\n[fuse]'
    edit(system, "[fuse]", second)
    must_refuse(system, 2, "one", "other")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs mount(2)")
def test_a_read_only_tier_is_refused(system):
    tier = system.dir / "tier"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", tier], check=True)
    try:
        must_refuse(system, 2, str(tier), "read-only")
    finally:
        subprocess.run(["umount", tier], check=True)


def test_a_missing_mount_point_is_refused(system):
    system.mnt.rmdir()
    must_refuse(system, 1, str(system.mnt), "mkdir -p")


def test_a_mount_point_with_files_is_refused(system):
    (system.mnt / "precious").write_text("x")
    must_refuse(system, 1, "not empty", "precious")
    assert (system.mnt / "precious").read_text() == "x"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs mount(2)")
def test_a_busy_mount_point_is_refused(system):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", system.mnt], check=True)
    try:
        code, said = system.run_to_end()
    finally:
        subprocess.run(["umount", system.mnt], check=True)
    assert code == 1
    assert "busy" in said
    assert "tmpfs" in said


def test_a_second_run_of_one_system_is_refused(fs):
    first, fs.process = fs.process, None
    code, said = fs.run_to_end()
    fs.process = first
    first.stdout.close()
    assert code == 1
    assert f"process id {first.pid}" in said
    (fs.mnt / "f").write_text("the first still works")


def test_a_run_path_too_long_for_sockets_is_refused(system):
    edit(system, f'path = "{system.dir}/run"', f'path = "{system.dir}/{"r" * 90}"')
    must_refuse(system, 1, "run.path", "shorter")


def test_a_taken_metrics_port_is_refused(system):
    with socket.create_server(("127.0.0.1", PORT_ANY)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        edit(system, "[recall]", f'metrics_hsmfs_bind = "{bind}"\n[recall]')
        must_refuse(system, 1, "metrics_hsmfs_bind", bind)


def test_stopping_keeps_everything_and_cleans_up(fs):
    (fs.mnt / "d").mkdir()
    (fs.mnt / "d" / "f").write_bytes(b"kept")
    assert (fs.run_dir / "hsmfs.pid").read_text() == f"{fs.process.pid}\n"
    assert fs.stop() == 0
    assert not os.path.ismount(fs.mnt)
    assert not (fs.run_dir / "hsmfs.pid").exists()
    fs.start()
    assert (fs.mnt / "d" / "f").read_bytes() == b"kept"


def test_unmounting_ends_the_program(fs):
    (fs.mnt / "f").write_bytes(b"kept")
    command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    subprocess.run([*command, fs.mnt], check=True)
    assert fs.process.wait(timeout=20) == 0
    fs.start()
    assert (fs.mnt / "f").read_bytes() == b"kept"


def test_a_busy_mount_is_detached_when_stopped(fs):
    file = os.open(fs.mnt / "f", os.O_CREAT | os.O_WRONLY)
    os.write(file, b"x" * 100)
    assert fs.stop() == 0
    assert not os.path.ismount(fs.mnt)
    with contextlib.suppress(OSError):  # passthrough goes on, to a file of its own
        os.write(file, b"y")
    fs.start()
    size = (fs.mnt / "f").stat().st_size
    with contextlib.suppress(OSError):
        os.write(file, b"late")
    with contextlib.suppress(OSError):
        os.close(file)
    assert (fs.mnt / "f").stat().st_size == size
    assert (fs.mnt / "f").read_bytes()[:100] == b"x" * 100
    assert (fs.mnt / "f").read_bytes() in (b"x" * 100, b"x" * 100 + b"y")


def test_after_a_kill_the_dead_mount_is_taken_away_and_synced_data_is_there(fs):
    for number in range(20):
        with (fs.mnt / f"f{number}").open("wb") as file:
            file.write(bytes([number]) * 50_000)
            file.flush()
            os.fsync(file.fileno())
    fs.kill()
    with pytest.raises(OSError):
        os.listdir(fs.mnt)
    fs.start()
    for number in range(20):
        assert (fs.mnt / f"f{number}").read_bytes() == bytes([number]) * 50_000


def test_the_service_manager_is_told(system, monkeypatch):
    address = str(system.dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        system.start()
        assert manager.recv(100) == b"READY=1"
        system.stop()
        assert manager.recv(100) == b"STOPPING=1"


def test_metrics_tell_residency_requests_and_errors(fs):
    (fs.mnt / "f").write_bytes(b"x" * 1000)
    with pytest.raises(OSError):
        os.getxattr(fs.mnt / "f", "user.absent")
    text = metrics_of(fs)
    assert value(text, 'hsmfs_files{state="resident"}') == 1
    assert value(text, 'hsmfs_file_bytes{state="resident"}') == 1000
    assert value(text, 'hsmfs_tier_capacity_bytes{tier="one"}') > 0
    assert value(text, "hsmfs_waiting_readers") == 0
    assert value(text, 'hsmfs_requests_total{op="create"}') >= 1
    assert value(text, 'hsmfs_request_errors_total{errno="ENODATA",op="getxattr"}') >= 1
    assert value(text, "hsmfs_reader_wait_seconds_count") == 0
    assert value(text, "hsmfs_hsmd_connected") == 0


def test_metrics_tell_that_hsmd_is_connected(fs, hsmd):
    assert value(metrics_of(fs), "hsmfs_hsmd_connected") == 1
    hsmd.close()
    text = ""
    for _ in range(100):
        text = metrics_of(fs)
        if value(text, "hsmfs_hsmd_connected") == 0:
            break
    assert value(text, "hsmfs_hsmd_connected") == 0


def test_rpc_is_for_the_owner_only(fs):
    assert (fs.run_dir / "hsmfs.sock").stat().st_mode & 0o077 == 0
    assert Path(fs.run_dir / "hsmfs-metrics.sock").is_socket()
