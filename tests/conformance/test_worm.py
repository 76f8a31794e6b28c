"""Write-once trees and holds on real mounts, by each session: what programs may still do."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuse.conftest import SESSIONS, System, made_system
from support.places import OK, content, make_file, opened, outcome
from typer.testing import CliRunner

from hsmfs.errors import FsError
from hsmfs.tools.hsm import make_app

pytestmark = pytest.mark.fuse
SETTLE_S = 2
AT_FDCWD, AT_FOLLOW = -100, 0x400
libc = ctypes.CDLL(None, use_errno=True)


class Worm:
    """A mount with a tree ``archive`` whose files are kept 15 years, and ``short``, 1 s."""

    def __init__(self, system: System, session: str) -> None:
        self.system = system
        self.passes = session == "native" and os.geteuid() == 0
        """Programs write to files outside of trees past hsmfs."""
        self.mnt = system.mnt
        self.top = str(system.mnt / "archive")
        self.short = str(system.mnt / "short")

    def hsm(self, *words: str, status: int = 0) -> Any:
        """The JSON answer of a command."""
        return json.loads(self.run(*words, status=status))

    def run(self, *words: str, status: int = 0) -> str:
        told = ["--config", str(self.system.config), *words, "--json"]
        done = CliRunner().invoke(make_app(words), told)
        assert done.exit_code == status, (words, done.output, done.exception)
        assert isinstance(done.exception, (FsError, SystemExit, type(None))), done.exception
        return done.stdout

    def wait(self, path: str) -> None:
        """Until a file is settled."""
        end_s = time.monotonic() + 30
        while not os.getxattr(path, "user.hsm.retention").startswith(b"settled"):
            assert time.monotonic() < end_s, os.getxattr(path, "user.hsm.retention")
            time.sleep(0.1)


@pytest.fixture(scope="module", params=SESSIONS)
def worm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    directory = tmp_path_factory.mktemp(request.param)
    with made_system(directory) as system:
        system.configure(fuse=f'session = "{request.param}"')
        system.start()
        made = Worm(system, request.param)
        for path, keep in ((made.top, "15y"), (made.short, "1s")):
            os.mkdir(path)
            make_file(f"{path}/before", b"before")
            set_as = ("--settle", f"{SETTLE_S}s", "--keep", keep)
            assert made.hsm("retention", "set", path, *set_as)["files"] == 1
        yield made


def changes(path: str, other: str) -> dict[str, str]:
    """The outcome of each attempt to change a file."""

    def by_open(flags: int) -> str:
        return outcome(lambda: os.close(os.open(path, flags)))

    folder = os.path.dirname(path)
    acl = b"\x02\0\0\0\x01\0\7\0\xff\xff\xff\xff\4\0\4\0\xff\xff\xff\xff \0\4\0\xff\xff\xff\xff"
    return {
        "write": by_open(os.O_WRONLY),
        "append": by_open(os.O_RDWR | os.O_APPEND),
        "O_TRUNC": by_open(os.O_RDONLY | os.O_TRUNC),
        "truncate": outcome(os.truncate, path, 0),
        "grow": outcome(os.truncate, path, 1 << 20),
        "chmod": outcome(os.chmod, path, 0o777),
        "chown": outcome(os.chown, path, 1, 1),
        "utime": outcome(os.utime, path, (1, 1)),
        "setxattr": outcome(os.setxattr, path, "user.x", b"1"),
        "trusted": outcome(os.setxattr, path, "trusted.x", b"1"),
        "own": outcome(os.setxattr, path, "user.hsm.retention", b"none"),
        "acl": outcome(os.setxattr, path, "system.posix_acl_access", acl),
        "unlink": outcome(os.unlink, path),
        "rename": outcome(os.rename, path, path + ".new"),
        "rename over": outcome(os.rename, other, path),
        "link": outcome(os.link, path, f"{folder}/linked"),
        "move out": outcome(os.rename, path, f"{folder}/../out"),
        "link out": outcome(os.link, path, f"{folder}/../out"),
    }


def test_nothing_changes_what_is_settled(worm: Worm) -> None:
    path = make_file(f"{worm.top}/f", b"data")
    assert outcome(os.chmod, path, 0o640) == OK
    with opened(path, os.O_RDWR) as early:
        worm.wait(path)
        before = os.stat(path)
        other = make_file(f"{worm.top}/other", b"other")  # new files stay possible
        found = changes(path, other)
        assert {name for name, how in found.items() if how != "EPERM"} <= {"move out", "link out"}
        assert {found["move out"], found["link out"]} <= {"EPERM", "EXDEV"}
        with opened(other, os.O_RDONLY) as source:
            assert outcome(os.pwrite, early, b"x", 0) == "EPERM"
            assert outcome(os.ftruncate, early, 1) == "EPERM"
            assert outcome(os.copy_file_range, source, early, 3, 0, 0) == "EPERM"
            assert outcome(os.posix_fallocate, early, 0, 100) != OK
            assert outcome(os.fchmod, early, 0o600) == "EPERM"
    after = os.stat(path)
    assert [after[at] for at in range(10) if at != 7] == [before[at] for at in range(10) if at != 7]
    assert (content(path), after.st_ctime_ns) == (b"data", before.st_ctime_ns)
    assert os.getxattr(path, "user.hsm.retention").startswith(b"settled until 20")
    os.mkdir(f"{worm.top}/d")
    os.rmdir(f"{worm.top}/d")
    assert outcome(os.rename, worm.top, f"{worm.mnt}/gone") == "EPERM"


def test_a_map_from_before_changes_nothing(worm: Worm) -> None:
    path = make_file(f"{worm.top}/mapped", b"a" * 8192)
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 8192) as pages:
        pages[0:5] = b"early"
        pages.flush()
        worm.wait(path)
        pages[4096:4100] = b"late"
        assert outcome(pages.flush) != OK
    end_s = time.monotonic() + 20
    while content(path)[4096:4100] != b"aaaa":
        assert time.monotonic() < end_s, "what was refused is still seen"
        time.sleep(0.1)
    assert content(path) == b"early" + b"a" * 8187


def test_a_nameless_file_and_links(worm: Worm) -> None:
    path = make_file(f"{worm.top}/named", b"1")
    out = make_file(f"{worm.mnt}/outside", b"1")
    worm.run("retention", "set", path, "--keep", "1y", status=1)  # no directory
    worm.run("retention", "clear", str(worm.mnt), status=1)  # none of its own
    assert outcome(os.link, path, f"{worm.mnt}/linked") == "EXDEV"
    assert outcome(os.link, out, f"{worm.top}/linked") == "EXDEV"
    assert outcome(os.rename, out, f"{worm.top}/moved") == "EXDEV"
    try:
        fd = os.open(worm.top, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        return  # the binding has no handler for TMPFILE
    os.write(fd, b"nameless")
    named = f"{worm.top}/tmp".encode()
    assert libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, named, AT_FOLLOW) == 0
    worm.wait(f"{worm.top}/tmp")
    assert outcome(os.write, fd, b"x") == "EPERM"
    os.close(fd)
    assert outcome(os.unlink, f"{worm.top}/tmp") == "EPERM"


def test_holds_wherever_a_file_is(worm: Worm) -> None:
    path = make_file(f"{worm.mnt}/held", b"data")
    other = make_file(f"{worm.mnt}/new", b"new")
    with opened(path, os.O_RDWR) as fd:
        os.write(fd, b"data")
        worm.hsm("hold", "set", path, "--reason", "case 1", status=int(worm.passes))
    assert worm.hsm("hold", "set", path, "--reason", "case 1") == {"done": 1, "refused": []}
    found = changes(path, other)
    assert set(found.values()) <= {"EPERM", "EXDEV"}, found
    assert worm.hsm("hold", "ls")[0]["reason"] == "case 1"
    worm.hsm("hold", "clear", path, "--reason", "case 2", status=1)
    worm.hsm("hold", "clear", path, "--reason", "case 1")
    os.unlink(path)


def test_expired_files_are_listed_and_removed_by_confirmation(worm: Worm, tmp_path: Path) -> None:
    path = f"{worm.short}/before"
    worm.wait(path)
    held = make_file(f"{worm.short}/held", b"1")
    worm.hsm("hold", "set", held, "--reason", "case 3")
    worm.wait(held)
    time.sleep(2)
    assert outcome(os.unlink, path) == "EPERM"
    listed = worm.hsm("retention", "expired", "-o", str(tmp_path / "list"))
    assert [(one["path"], one["held"]) for one in listed] == [
        ("/short/before", False), ("/short/held", True),
    ]  # fmt: skip
    assert worm.hsm("retention", "confirm", str(tmp_path / "list")) == {"done": 1, "refused": []}
    assert sorted(os.listdir(worm.short)) == ["held"]
    worm.hsm("retention", "confirm", str(tmp_path / "list"), status=1)


def test_the_log_tells_it_all_and_survives_a_kill(worm: Worm) -> None:
    assert worm.hsm("log", "verify")["ok"]
    head = worm.hsm("log", "head")
    worm.system.kill()
    worm.system.start()
    noted = f"{head['number']}:{head['sha256']}"
    assert worm.hsm("log", "verify", "--head", noted)["ok"]
    for path in (f"{worm.top}/f", f"{worm.short}/held"):
        assert outcome(os.unlink, path) == "EPERM"
    entries = worm.hsm("log", "show")
    told = {"begin", "retention", "taken", "settle", "refuse", "hold", "hold-clear", "delete"}
    assert {entry["op"] for entry in entries} >= told
    assert len(worm.hsm("retention", "ls")["trees"]) == 2
    assert worm.hsm("retention", "time")["apart"] == ""
