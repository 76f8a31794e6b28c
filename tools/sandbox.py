"""A whole system under one directory: mount, daemon, emulated library.

Nothing in hsmfs or hsmd knows that it is a sandbox: this module only writes a
configuration, makes a library, and starts the two programs as usual.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hsmfs.configload import load
from hsmfs.errors import CallerError, HsmError
from hsmfs.tools import mounts
from hsmfs.tools.apiclient import ApiClient
from hsmfs.tools.processes import Program, Running, wait_until

FOLDERS: Final = ("mnt", "cache", "state/namespace", "state/catalog", "run", "log")
MAGAZINE_SLOTS_MAX: Final = 12
DISC_BYTES: Final = 200_000_000
RESERVE_BYTES: Final = 64 * 1024 * 1024
MOUNT_TIMEOUT_S: Final = 60.0
DAEMON_TIMEOUT_S: Final = 120.0
"""hsmd reads the library's element status and each loaded disc before it answers."""
STOP_TIMEOUT_S: Final = 30.0
MOUNT_SETTLE_S: Final = 10.0
ASK_TIMEOUT_S: Final = 5.0

CONFIG_TEXT: Final = """\
# A sandbox: kept as it is by `hsm sandbox start`, so edit it freely.
[site]
id = "sandbox"

[namespace]
path = "{dir}/state/namespace"

[catalog]
path = "{dir}/state/catalog"

[[tier]]
name = "cache"
path = "{dir}/cache"
reserve_bytes = {reserve_bytes}

[fuse]
mount = "{dir}/mnt"
session = "{session}"
allow_other = {allow_other}

[recall]
recall_timeout_s = 600.0
offline_wait_s = 86400.0

[burn]
stop_wait_s = 20.0

[policy]
file = "{dir}/policy.hsm"

[[library]]
name = "emulated"
kind = "emulated"
path = "{dir}/library"
magazine_slots = {magazine_slots}
speed = "{speed}"

[run]
path = "{dir}/run"
"""

MANUAL_TEXT: Final = """\
name = "desk"
kind = "manual"
path = "{dir}/library"
boxes = [{boxes}]
disc_bytes = {disc_bytes}
"""

POLICY_TEXT: Final = """\
# See docs/policy.md. Nothing here acts within the first 30 days by itself,
# except that a nearly full cache is released of what has its copies.
pool "main" {{ copies {copies}{spread}; burn when full or oldest > 7d; head 64KiB }}
migrate "old files" to "main" when age > 30d
release "make room" from tier "cache" when tier.used > 95% until tier.used < 85% order by heat
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What a new sandbox is made with; None: the default, or what it already has."""

    session: str | None = None
    speed: str | None = None
    drives: int | None = None
    slots: int | None = None
    disc_bytes: int | None = None
    pool_copies: int | None = None
    library: str | None = None
    """``emulated``, or ``manual``: drives for a person to load."""

    def given(self, *names: str) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]


@dataclass(frozen=True, slots=True)
class Health:
    """What of a sandbox is there and works."""

    hsmfs_pid: int | None
    hsmd_pid: int | None
    mount: str
    ready: bool


class Sandbox:
    """The sandbox in one directory."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory.parent.resolve() / directory.name if directory.name else directory
        self.dir = self.dir.resolve()
        self.config_path = self.dir / "hsmfs.toml"
        self.mount = self.dir / "mnt"
        self.notes: list[str] = []
        self._hsmfs = self._program("hsmfs", "hsmfs.main")
        self._hsmd = self._program("hsmd", "hsmfs.daemon.main")

    def _program(self, name: str, module: str) -> Program:
        return Program(
            name=name,
            module=module,
            config=self.config_path,
            pid_file=self.dir / "run" / f"{name}.pid",
            log=self.dir / "log" / f"{name}.log",
        )

    # -- commands ------------------------------------------------------------

    def start(self, options: Options) -> None:
        """Make what is missing, start what is not running; ready when it returns."""
        if '"' in str(self.dir) or "\\" in str(self.dir) or not str(self.dir).isprintable():
            raise CallerError(f"{self.dir!s}: expected a path without quotes and backslashes")
        self._make_folders()
        with self._lock():
            self._make_library(options)
            self._make_config(options)
            load(self.config_path)
            started = self._start_what_is_missing()
        if not started:
            self.notes.append("was already running")

    def stop(self) -> list[str]:
        """End both programs and the mount; everything stays for the next start."""
        self._must_exist()
        with self._lock():
            words = [f"hsmd {self._hsmd.stop(STOP_TIMEOUT_S)}"]
            words.append(f"hsmfs {self._hsmfs.stop(STOP_TIMEOUT_S)}")
            if mounts.is_mounted(self.mount) and not mounts.unmount_lazily(self.mount):
                raise HsmError(f"{self.mount} is still mounted; end what uses it: fuser -vm ...")
        return words

    def health(self) -> Health:
        """What runs now; waits for nothing."""
        self._must_exist()
        hsmfs, hsmd = self._hsmfs.running(), self._hsmd.running()
        return Health(
            hsmfs_pid=hsmfs.pid if hsmfs else None,
            hsmd_pid=hsmd.pid if hsmd else None,
            mount=self._mount_word(),
            ready=bool(hsmfs and hsmd and self._mount_works() and self._daemon_ready()),
        )

    # -- making ----------------------------------------------------------------

    def _must_exist(self) -> None:
        if not self.config_path.exists():
            raise CallerError(
                f"{self.dir} is no sandbox: there is no hsmfs.toml; make one: "
                f"hsm sandbox start {self.dir}"
            )

    def _make_folders(self) -> None:
        if self.dir.is_dir() and not self.config_path.exists() and not (self.dir / "run").exists():
            others = [entry.name for entry in self.dir.iterdir()]
            if others:
                raise CallerError(
                    f"{self.dir} holds other files ({others[0]} ...); expected a new or an empty "
                    "directory, or an earlier sandbox"
                )
        try:
            for folder in FOLDERS:
                # mkdir on a dead mount fails; it is there, and repaired later.
                if folder != "mnt" or not mounts.is_mounted(self.mount):
                    (self.dir / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HsmError(f"{error.filename}: {error.strerror}; choose another place") from error

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One start or stop at a time."""
        with (self.dir / "run" / "sandbox.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HsmError(
                    f"another start or stop of {self.dir} is at work; try again when it has ended"
                ) from error
            yield

    def _make_library(self, options: Options) -> None:
        path = self.dir / "library"
        if (path / "library.json").exists() or (path / "desk.json").exists():
            kept = options.given("drives", "slots", "disc_bytes", "library")
            if kept:
                names = ", ".join("--" + name.replace("_", "-") for name in kept)
                self.notes.append(f"the library is kept as it was made, without {names}")
            return
        # Only a new sandbox needs the emulator; every other command starts without it.
        from hsmfs.changer.emulated import EmulatedLibrary
        from hsmfs.changer.emulated.desk import create_desk

        slots = options.slots or 24
        if options.library == "manual":
            create_desk(path, options.drives or 1, slots, options.disc_bytes or DISC_BYTES)
            return
        EmulatedLibrary.create(
            path,
            drives=options.drives or 2,
            slots=slots,
            magazine_slots=magazine_slots(slots, options.pool_copies or 2),
            disc_bytes=options.disc_bytes or DISC_BYTES,
        )

    def _make_config(self, options: Options) -> None:
        policy = self.dir / "policy.hsm"
        if not policy.exists():
            _write(policy, _policy_text(options.pool_copies or 2))
        elif options.pool_copies is not None:
            self.notes.append(f"{policy} is kept as it is, without --pool-copies")
        if self.config_path.exists():
            self._change_config(options)
            return
        text = CONFIG_TEXT.format(
            dir=self.dir,
            reserve_bytes=RESERVE_BYTES,
            session=options.session or "native",
            allow_other="true" if os.geteuid() == 0 else "false",
            magazine_slots=magazine_slots(options.slots or 24, options.pool_copies or 2),
            speed=options.speed or "instant",
        )
        if options.library == "manual":
            text = re.sub(r'(?s)name = "emulated".*?(?=speed =)', self._manual_text(options), text)
        _write(self.config_path, text)

    def _manual_text(self, options: Options) -> str:
        """A box for each copy, and at least two."""
        names = (chr(ord("A") + number) for number in range(max(2, options.pool_copies or 2)))
        return MANUAL_TEXT.format(
            dir=self.dir,
            boxes=", ".join(f'"{name}"' for name in names),
            disc_bytes=options.disc_bytes or DISC_BYTES,
        )

    def _change_config(self, options: Options) -> None:
        """Session and speed may change between starts; running programs keep theirs."""
        text = self.config_path.read_text()
        changed = text
        for key in options.given("session", "speed"):
            value = getattr(options, key)
            changed = re.sub(rf'(?m)^({key}\s*=\s*)"[^"]*"', rf'\1"{value}"', changed)
        if changed == text:
            return
        _write(self.config_path, changed)
        if self._hsmfs.running() or self._hsmd.running():
            self.notes.append("session and speed change at the next stop and start")

    # -- starting ----------------------------------------------------------------

    def _start_what_is_missing(self) -> bool:
        started: list[Program] = []
        try:
            self._ensure_hsmfs(started)
            self._ensure_hsmd(started)
        except BaseException:
            for program in reversed(started):
                program.stop(STOP_TIMEOUT_S)
            if self._hsmfs in started:
                mounts.unmount_lazily(self.mount)
            raise
        return bool(started)

    def _ensure_hsmfs(self, started: list[Program]) -> None:
        process = self._hsmfs.running()
        if process is not None:
            if self._settle(process, self._mount_works, MOUNT_SETTLE_S):
                return
            self.notes.append("hsmfs ran without a mount that answers: started again")
            self._hsmfs.stop(STOP_TIMEOUT_S)
        if mounts.is_mounted(self.mount):
            self.notes.append("took away a dead mount")
            if not mounts.unmount_lazily(self.mount):
                raise HsmError(f"the dead mount {self.mount} cannot be taken away; as root: umount")
        self._launch(self._hsmfs, started, self._mount_works, MOUNT_TIMEOUT_S)

    @staticmethod
    def _settle(process: Running, works: Callable[[], bool], timeout_s: float) -> bool:
        """Whether a process that runs already is, or soon becomes, ready."""
        wait_until(lambda: works() or not process.alive(), timeout_s)
        return process.alive() and works()

    def _ensure_hsmd(self, started: list[Program]) -> None:
        process = self._hsmd.running()
        if process is not None:
            if self._settle(process, self._daemon_ready, DAEMON_TIMEOUT_S):
                return
            self.notes.append("hsmd ran without being ready: started again")
            self._hsmd.stop(STOP_TIMEOUT_S)
        self._launch(self._hsmd, started, self._daemon_ready, DAEMON_TIMEOUT_S)

    def _launch(
        self, program: Program, started: list[Program], ready: Callable[[], bool], timeout_s: float
    ) -> None:
        process: Running = program.start()
        started.append(program)
        came = wait_until(lambda: ready() or not process.alive(), timeout_s)
        if not process.alive():
            raise HsmError(f"{program.name} ended during its start\n{program.last_words()}")
        if not came:
            raise HsmError(
                f"{program.name} was not ready after {timeout_s:.0f} s\n{program.last_words()}"
            )

    def _mount_word(self) -> str:
        if not mounts.is_mounted(self.mount):
            return "absent"
        return "live" if mounts.answers(self.mount) else "dead"

    def _mount_works(self) -> bool:
        return self._mount_word() == "live"

    def _daemon_ready(self) -> bool:
        socket = self.dir / "run" / "hsmd.sock"
        if not socket.exists():
            return False
        try:
            with ApiClient(socket, self.config_path, ASK_TIMEOUT_S) as api:
                return bool(api.get("/v1/status")["hsmfs"]["connected"])
        except HsmError:
            return False


def magazine_slots(slots: int, copies: int = 2) -> int:
    """At least two magazines, and one for each copy, so that copies can be spread."""
    return max(1, min(MAGAZINE_SLOTS_MAX, slots // max(2, copies)))


def _policy_text(copies: int) -> str:
    return POLICY_TEXT.format(copies=copies, spread=" spread magazine" if copies > 1 else "")


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    fresh.replace(path)
