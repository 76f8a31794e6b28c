"""mount.hsmfs: by hand, by mount(8) and /etc/fstab, for root and for users."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from fuse.conftest import made_system
from support.mountspaces import AS_NOBODY, NOBODY, Space, space

from hsmfs.session.mounting import mounted_at
from hsmfs.tools import mounthelper

HELPER = [sys.executable, "-m", "hsmfs.tools.mounthelper"]
TIMEOUT_S = 60.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs mount(2)")


def helper(system, *words, target=None, source=None):
    command = [*HELPER, source or system.config, target or system.mnt, *words]
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def pid_of(system) -> int:
    return int((system.run_dir / "hsmfs.pid").read_text())


def wait_gone(pid: int) -> None:
    """It is no child of ours."""
    with contextlib.suppress(ProcessLookupError), open(os.pidfd_open(pid)) as process:
        ready, _, _ = select.select([process], [], [], TIMEOUT_S)
        assert ready, f"process {pid} does not end"


@pytest.fixture
def background(system):
    """Whatever hsmfs a test leaves in the background is ended."""
    yield system
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        pid = pid_of(system)
        os.kill(pid, signal.SIGTERM)
        wait_gone(pid)


def options_at(path: Path, column: int = 5) -> set[str]:
    """Of the mount; in the last column those of the file system."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == str(path):
            return set(words[column].split(","))
    return set()


@pytest.mark.parametrize("session", ["native", "pyfuse3"])
def test_it_returns_when_the_mount_is_served(background, session):
    system = background
    system.configure(fuse=f'session = "{session}"\noptions = ["noexec", "sync"]')
    done = helper(system, "-o", "rw,noatime,exec,_netdev,x-systemd.requires=srv.mount")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    there = mounted_at(system.mnt)
    assert (there.fs_type, there.source) == ("fuse.hsmfs", str(system.config))
    assert options_at(system.mnt) == {"rw", "nosuid", "nodev", "noatime"}
    assert "sync" in options_at(system.mnt, -1)
    (system.mnt / "f").write_text("kept")
    pid = pid_of(system)
    assert os.getsid(pid) == pid
    subprocess.run(["umount", system.mnt], check=True)
    again = helper(system, "-o", "ro")
    assert (again.returncode, again.stderr) == (0, "")
    assert (system.mnt / "f").read_text() == "kept"
    with pytest.raises(OSError, match="Read-only"):
        (system.mnt / "g").write_text("")
    subprocess.run(["umount", system.mnt], check=True)
    wait_gone(pid)
    assert "ready" in (system.run_dir / "hsmfs.log").read_text()


def test_ro_of_the_configuration_stays_though_mount_says_rw(background):
    system = background
    system.configure(fuse='options = ["ro"]')
    assert helper(system, "-o", "rw,nosuid").returncode == 0
    assert "ro" in options_at(system.mnt)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("context=system_u:object_r:tmp_t:s0", ["context=", "security labels", "remove it"]),
        ('rw,context="a,b"', ["option 'context=a,b'"]),
        ("noatme", ["unknown option 'noatme'", "did you mean 'noatime'?"]),
        ("nonempty", ["nonempty", "an empty directory"]),
        ("uid=7", ["uid=7", "owners of their own"]),
        ("attr_timeout=1", ["fuse.attr_timeout_s"]),
    ],
)
def test_options_that_cannot_be_taken(system, options, words):
    done = helper(system, "-o", options)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert not os.path.ismount(system.mnt)


def test_sloppy_drops_unknown_options_and_fake_only_checks(system):
    assert helper(system, "-sfnv", "-t", "hsmfs", "-o", "whatever,context=a").returncode == 0
    assert helper(system, "-f", "-o", "whatever").returncode == 1
    assert not (system.run_dir / "hsmfs.pid").exists()


def test_wrong_use(system):
    done = subprocess.run(HELPER, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    other = helper(system, target=system.dir / "tier")
    assert other.returncode == 1
    assert str(system.mnt) in other.stderr
    absent = helper(system, source=system.dir / "absent.toml")
    assert absent.returncode == 1
    assert "no such file" in absent.stderr
    system.config.write_text(system.config.read_text().replace("reserve_bytes", "reserve_byte"))
    wrong = helper(system)
    assert wrong.returncode == 1
    assert f"{system.config}:" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


def test_what_hsmfs_says_is_said_with_the_number_of_a_failed_mount(background):
    system = background
    (system.mnt / "precious").write_text("x")
    done = helper(system)
    assert done.returncode == 32
    assert done.stderr.count("\n") == 1
    assert "not empty" in done.stderr
    (system.mnt / "precious").unlink()
    assert helper(system).returncode == 0
    twice = helper(system)
    assert twice.returncode == 32
    assert f"process id {pid_of(system)}" in twice.stderr
    (system.dir / "tier").rename(system.dir / "gone")
    assert helper(system).returncode == 1


def test_a_program_that_says_nothing(system, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert mounthelper.main([str(system.config), str(system.mnt)]) == 32
    assert f"exit status 1; see {system.run_dir}/hsmfs.log" in capsys.readouterr().err
    monkeypatch.setattr(sys, "executable", str(system.dir / "absent"))
    assert mounthelper.main([str(system.config), str(system.mnt)]) == 2
    assert "cannot start hsmfs" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_it_waits(system, number):
    with (system.dir / "namespace" / "committer.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # hsmfs waits for that in its start
        process = subprocess.Popen(
            [*HELPER, str(system.config), str(system.mnt)], stderr=subprocess.PIPE, text=True
        )
        pid_file = system.run_dir / "hsmfs.pid"
        while not (pid_file.exists() and pid_file.read_text()):
            assert process.poll() is None
        pid = pid_of(system)
        process.send_signal(number)
        _, said = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, said) == (8, "mount.hsmfs: interrupted\n")
        assert not Path(f"/proc/{pid}").exists()
    assert not os.path.ismount(system.mnt)


def test_a_large_log_is_put_aside(background):
    system = background
    log = system.run_dir / "hsmfs.log"
    with log.open("wb") as file:
        file.truncate(mounthelper.LOG_BYTES_MAX + 1)
    assert helper(system).returncode == 0
    assert log.stat().st_size < 10_000
    assert (system.run_dir / "hsmfs.log.1").exists()


# -- by mount(8) -----------------------------------------------------------------------


@pytest.fixture
def inside(system, tmp_path):
    with space(tmp_path / "space") as made:
        made.add_mount_helper()
        yield made


def fstab(inside: Space, system, options: str) -> None:
    inside.write("/etc/fstab", f"{system.config} {system.mnt} hsmfs {options} 0 0\n")


def test_by_fstab(inside, system):
    fstab(inside, system, "defaults,allow_other,noatime,_netdev,nofail,x-systemd.automount")
    assert inside.run("mount", "-a").stderr == ""
    first = pid_of(system)
    assert inside.run("mount", "-a").stderr == ""
    assert pid_of(system) == first, "mount -a knows what is mounted"
    fs_type, source, options = inside.mounted(system.mnt).split()
    assert (fs_type, source) == ("fuse.hsmfs", str(system.config))
    assert "noatime" in options.split(",")
    inside.run("sh", "-c", f"echo hello > {system.mnt}/f")
    inside.run("mount", "-o", "remount,ro", system.mnt)
    refused = inside.run("touch", f"{system.mnt}/g", check=False)
    assert "Read-only" in refused.stderr
    inside.run("mount", "-o", "remount,rw", system.mnt)
    inside.run("touch", f"{system.mnt}/g")
    for number in range(5):  # each waits for the end of the one before
        inside.run("umount", system.mnt)
        assert inside.mounted(system.mnt) == ""
        inside.run("mount", system.mnt)
        assert inside.run("cat", f"{system.mnt}/f").stdout == "hello\n", number
    inside.run("umount", system.config)
    assert inside.mounted(system.mnt) == ""


def test_errors_by_mount8(inside, system):
    fstab(inside, system, "noatme")
    done = inside.run("mount", system.mnt, check=False)
    assert done.returncode == 1
    assert "did you mean 'noatime'?" in done.stderr
    done = inside.run("mount", "-t", "hsmfs", system.config, "/mnt", check=False)
    assert done.returncode == 1
    assert str(system.mnt) in done.stderr
    (system.mnt / "precious").write_text("x")
    done = inside.run("mount", "-t", "hsmfs", system.config, system.mnt, check=False)
    assert done.returncode == 32
    assert "not empty" in done.stderr


def test_in_another_mount_namespace(background):
    system = background
    other = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", "echo there; exec sleep infinity"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        try:
            assert other.stdout.readline() == "there\n"
            done = helper(system, f"-N{other.pid}", "-o", "noatime")
            assert (done.returncode, done.stderr) == (0, "")
            table = Path(f"/proc/{other.pid}/mountinfo")
            assert mounted_at(system.mnt, str(table)).fs_type == "fuse.hsmfs"
            assert not os.path.ismount(system.mnt)
            pid = pid_of(system)
            enter = ["nsenter", "-t", str(other.pid), "-m", "--"]
            subprocess.run([*enter, "umount", str(system.mnt)], check=True)
            wait_gone(pid)
        finally:
            other.kill()
    missing = helper(system, "-N", "/nonexistent")
    assert missing.returncode != 0
    assert "/nonexistent" in missing.stderr


@pytest.fixture
def of_nobody():
    """A system that belongs to a user; not in pytest's directories, which are root's alone."""
    directory = Path(tempfile.mkdtemp(prefix="hsmfs-user-"))
    directory.chmod(0o755)
    try:
        with made_system(directory) as made:
            for path in [directory, *directory.rglob("*")]:
                os.chown(path, NOBODY, NOBODY)
            yield made
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def user_inside(of_nobody, tmp_path):
    """A namespace in which users may mount."""
    with space(tmp_path / "space") as made:
        made.add_mount_helper()
        made.let_users_run_python()
        made.put_device()
        yield made


@pytest.mark.parametrize("session", ["native", "pyfuse3"])
def test_by_a_user(user_inside, of_nobody, session):
    system, inside = of_nobody, user_inside
    system.configure(fuse=f'allow_other = false\nsession = "{session}"')
    fstab(inside, system, "user,noauto")
    done = inside.run(*AS_NOBODY, "mount", system.mnt, check=False)
    log = system.run_dir / "hsmfs.log"
    assert (done.returncode, done.stderr) == (0, ""), log.exists() and log.read_text()
    assert set(inside.mounted(system.mnt).split()[2].split(",")) >= {"nosuid", "nodev", "noexec"}
    inside.run(*AS_NOBODY, "sh", "-c", f"echo mine > {system.mnt}/f; cat {system.mnt}/f")
    denied = inside.run("cat", f"{system.mnt}/f", check=False)
    assert "Permission denied" in denied.stderr, "only for who mounted, without allow_other"
    # A crash: the next mount takes the dead one away, by fusermount3 too.
    inside.run(*AS_NOBODY, "sync", f"{system.mnt}/f")
    inside.run("kill", "-KILL", pid_of(system))  # its number inside
    inside.run(*AS_NOBODY, "mount", system.mnt)
    inside.run(*AS_NOBODY, "cat", f"{system.mnt}/f")
    inside.run(*AS_NOBODY, "fusermount3", "-u", system.mnt)
    assert inside.mounted(system.mnt) == ""
    text = log.read_text()
    if session == "native":
        assert text.count("passthrough is off") == 2, "once for each start"
        assert "CAP_SYS_ADMIN" in text
    assert "bug:" not in text


def test_allow_other_by_a_user_needs_fuse_conf(user_inside, of_nobody):
    system, inside = of_nobody, user_inside
    fstab(inside, system, "user,noauto")
    done = inside.run(*AS_NOBODY, "mount", system.mnt, check=False)
    assert done.returncode == 32
    assert "user_allow_other" in done.stderr
    assert done.stderr.count("\n") == 1
    inside.write("/etc/fuse.conf", "user_allow_other\n")
    inside.run(*AS_NOBODY, "mount", system.mnt)
    inside.run("ls", system.mnt)
    inside.run(*AS_NOBODY, "fusermount3", "-u", system.mnt)
