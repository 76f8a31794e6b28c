"""``hsm check`` finds each planted fault by name, and says what to do."""

# ruff: noqa: E501 - the table of faults has a line for each

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.session import mounting
from hsmfs.tools.check import daemons, machine
from hsmfs.tools.check.findings import Level
from hsmfs.tools.checkcommand import findings

CONFIG = """\
[site]
id = "s"
[namespace]
path = "{root}/state/namespace"
[catalog]
path = "{root}/state/catalog"
[[tier]]
name = "ssd"
path = "{root}/cache"
reserve_bytes = 1000000
[fuse]
mount = "{root}/mnt"
[policy]
file = "{root}/site.policy"
[[library]]
name = "robot"
kind = "emulated"
path = "{root}/library"
[run]
path = "{root}/run"
"""
POLICY = 'pool "main" { copies 2 spread magazine }\n'


class Site:
    """An installation with nothing wrong, to plant faults in."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.patch = root, patch
        self.server: socket.socket | None = None
        for name in ("state/namespace", "state/catalog", "cache", "mnt", "run"):
            (root / name).mkdir(parents=True)
            (root / name).chmod(0o700)
        (root / "site.policy").write_text(POLICY)
        EmulatedLibrary.create(
            root / "library", drives=1, slots=2, magazine_slots=1, disc_bytes=1 << 23
        )
        self.file = root / "hsmfs.toml"
        self.file.write_text(CONFIG.format(root=root))

    def change(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new.format(root=self.root)))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(machine, "TIME_SERVICES", (Path("/proc/self/comm").read_text().strip(),))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    made = Site(tmp_path, monkeypatch)
    yield made
    if made.server is not None:
        made.server.close()


def test_a_good_installation_has_no_fault(site: Site) -> None:
    found = findings(site.file)
    assert [one for one in found if one.level is Level.FAULT] == []
    notes = [(one.name, one.text) for one in found if one.level is Level.NOTE]
    assert [name for name, _ in notes] == ["library robot", "hsmfs", "hsmd"]


def _busy_port(site: Site) -> None:
    site.server = socket.create_server(("127.0.0.1", 0))
    port = site.server.getsockname()[1]
    site.change("[run]\n", f'[run]\nmetrics_hsmd_bind = "127.0.0.1:{port}"\n')


def _scsi(site: Site, device: str) -> None:
    site.change(
        f'kind = "emulated"\npath = "{site.root}/library"\n',
        f'kind = "scsi"\nchanger = "{device}"\n[[library.drive]]\ndevice = "{device}2"\n',
    )


def _secret(site: Site) -> None:
    secret = site.root / "secret"
    secret.write_text("x" * 16)
    secret.chmod(0o644)
    _scsi(site, "sg:/dev/no-such-device")
    site.change(
        'name = "robot"\n',
        'name = "robot"\niscsi_user = "u"\niscsi_secret_file = "{root}/secret"\n',
    )


def _without_privileges(site: Site) -> None:
    site.patch.setattr(machine, "CAP_SYS_ADMIN", 63)
    site.patch.setattr(machine, "FUSE_CONF", site.root / "no-fuse.conf")


def _running(name: str) -> Callable[[Site], None]:
    return lambda site: (site.root / "run" / f"{name}.pid").write_text(str(os.getpid())) and None


PLANTED: list[tuple[str, str, Callable[[Site], object], str]] = [
    ("no configuration", "configuration", lambda s: s.file.unlink(), "no such file"),
    ("unknown key", "configuration", lambda s: s.change("[fuse]\n", "[fuse]\nfoo = 1\n"), "unknown key 'foo'"),
    ("no TOML", "configuration", lambda s: s.change("[fuse]", "[fuse"), "valid TOML"),
    ("no tier", "tier ssd", lambda s: (s.root / "cache").rmdir(), "is no directory"),
    ("tier in memory", "tier ssd", lambda s: s.change(f"{s.root}/cache", "/dev/shm"), "on tmpfs"),
    ("reserve too large", "tier ssd", lambda s: s.change("= 1000000", "= 9000000000000000"), "reserve_bytes is"),
    ("namespace in memory", "namespace store",
     lambda s: s.change(f"{s.root}/state/namespace", "/dev/shm/hsm-check"), "on tmpfs"),
    ("namespace for everybody", "namespace store",
     lambda s: (s.root / "state/namespace").chmod(0o755), "open to all users"),
    ("catalog for everybody", "catalog store",
     lambda s: (s.root / "state/catalog").chmod(0o755), "open to all users"),
    ("no stage", "stage", lambda s: s.change("[run]\n", '[care]\nstage = "/no/such/place"\n[run]\n'), "no directory"),
    ("no mount point", "mount point", lambda s: (s.root / "mnt").rmdir(), "No such file"),
    ("mount point in use", "mount point", lambda s: (s.root / "mnt/x").touch(), "not empty"),
    ("mount point a file", "mount point",
     lambda s: ((s.root / "mnt").rmdir(), (s.root / "mnt").touch()), "not a directory"),
    ("socket path too long", "sockets",
     lambda s: s.change(f"{s.root}/run", "{root}/" + "r" * 120), "too long for a socket"),
    ("no such group", "sockets", lambda s: s.change("[run]\n", '[run]\ngroup = "no-such"\n'), "no group no-such"),
    ("port in use", "sockets", _busy_port, "in use"),
    ("port for everybody", "sockets",
     lambda s: s.change("[run]\n", '[run]\nmetrics_hsmd_bind = "0.0.0.0:61999"\n'), "open to every network"),
    ("no policy", "policy", lambda s: (s.root / "site.policy").unlink(), "no such file"),
    ("wrong policy", "policy", lambda s: (s.root / "site.policy").write_text("pol"), "site.policy:1"),
    ("empty policy", "policy", lambda s: (s.root / "site.policy").write_text("# nothing\n"), "no pool"),
    ("one copy", "policy",
     lambda s: (s.root / "site.policy").write_text('pool "main" { copies 1 spread magazine }\n'), "one copy"),
    ("no library", "directories",
     lambda s: s.change(f"{s.root}/library", "{root}/nowhere"), "nowhere"),
    ("broken library", "library robot",
     lambda s: (s.root / "library/library.json").write_text("{"), "library.json"),
    ("no device", "library robot", lambda s: _scsi(s, "sg:/dev/no-such-device"), "no such device"),
    ("secret for everybody", "library robot", _secret, "can be read by others"),
    ("few open files", "open files",
     lambda s: s.patch.setattr(resource, "getrlimit", lambda _: (1024, 1024)), "at most 1024 open files"),
    ("clock of 1970", "clock",
     lambda s: s.patch.setattr(time, "gmtime", lambda: time.struct_time((1970, 1, 1, 0, 0, 0, 3, 1, 0))), "1970"),
    ("nothing keeps the clock", "clock",
     lambda s: s.patch.setattr(machine, "TIME_SERVICES", ()), "nothing keeps the clock"),
    ("no FUSE", "fuse", lambda s: s.patch.setattr(mounting, "DEVICE", s.root / "fuse"), "not found"),
    ("old kernel", "kernel", lambda s: s.patch.setattr(machine.platform, "release", lambda: "4.19.0"), "Linux 4.19.0"),
    ("kernel without passthrough", "kernel",
     lambda s: s.patch.setattr(machine.platform, "release", lambda: "6.1.0-18"), "no passthrough"),
    ("no privileges", "privileges", _without_privileges, "no user_allow_other"),
    ("hsmfs without a mount", "hsmfs", _running("hsmfs"), "nothing is mounted"),
    ("hsmd does not answer", "hsmd", _running("hsmd"), "does not answer"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "plant", "words"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED]
)
def test_planted_faults(site: Site, name: str, plant: Callable[[Site], object], words: str) -> None:
    plant(site)
    bad = [one for one in findings(site.file) if one.level is not Level.OK]
    found = [one for one in bad if one.name == name and words in one.text]
    assert found, bad
    assert found[0].remedy or found[0].level is Level.FAULT


def test_what_hsmd_tells() -> None:
    status = {
        "hsmfs": {"connected": False},
        "library": {"problem": "door open"},
        "drives": [{"name": "drive0", "state": "quarantined", "note": "noise"}],
        "blanks": {"usable": 1},
        "alarms": [{"kind": "library", "text": "door open"}],
        "tasks": 2,
    }
    texts = [text for _, text, _ in daemons._status(json.loads(json.dumps(status)))]
    assert texts == [
        "hsmd and hsmfs do not talk to each other",
        "library: door open",
        "drive drive0: noise",
        "1 blank discs in the library",
        "alarm library: door open",
        "2 tasks wait for a person",
    ]
