"""A mounted file system per test, and a client that plays hsmd."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from hsmfs.namespace.view import NamespaceView
from hsmfs.rpc.client import RpcClient
from hsmfs.rpc.messages import (
    PROTOCOL_VERSION,
    Answer,
    Call,
    Claim,
    Copied,
    CopiedFile,
    FileResults,
    Hello,
    Landed,
    RecallBegin,
    Recalled,
    RecallFile,
    Release,
    Sync,
    Unclaim,
    Wanted,
)
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.types import ByteRange, FileVersion

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 30.0
HEAD_BYTES = 65536
SESSIONS = ("native", "pyfuse3")
BOTH = ("test_session_recall", "test_session_main", "test_session_posix", "test_system")
"""Modules whose tests run with each session."""
CONFIG = """
[site]
id = "test"
[namespace]
path = "{dir}/namespace"
map_bytes = 1073741824
[catalog]
path = "{dir}/catalog"
[[tier]]
name = "one"
path = "{dir}/tier"
reserve_bytes = 1048576
[fuse]
mount = "{dir}/mnt"
{fuse}
[policy]
file = "{dir}/policy.hsm"
[[library]]
name = "lib"
kind = "emulated"
path = "{dir}/library"
[run]
path = "{dir}/run"
[recall]
{recall}
"""


def wait_until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Poll a condition; fail when it does not come true."""
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s, f"not true within {timeout_s} s"
        time.sleep(0.02)


class System:
    """One hsmfs with its directories."""

    def __init__(self, directory: Path, session: str = "native") -> None:
        self.dir = directory
        self.session = session
        self.mnt = directory / "mnt"
        self.run_dir = directory / "run"
        self.config = directory / "hsmfs.toml"
        self.log = directory / "hsmfs.log"
        self.process: subprocess.Popen[str] | None = None
        for name in ("namespace", "catalog", "tier", "mnt", "library", "run"):
            (directory / name).mkdir()
        (directory / "policy.hsm").write_text("")
        self.configure()

    def configure(self, recall: str = "", fuse: str = "") -> None:
        """Write the configuration file."""
        if "session =" not in fuse:
            fuse = f'session = "{self.session}"\n{fuse}'
        self.config.write_text(CONFIG.format(dir=self.dir, recall=recall, fuse=fuse))

    def launch(self) -> subprocess.Popen[str]:
        """Start the program without waiting for anything."""
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hsmfs.main", "--config", str(self.config)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        return self.process

    def start(self) -> None:
        """Start and wait for the ready line."""
        process = self.launch()
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "ready" in line, f"{line!r}; status {process.wait()}; {self.log.read_text()}"

    def run_to_end(self) -> tuple[int, str]:
        """For runs that must fail: exit status and what it said."""
        process = self.launch()
        process.communicate(timeout=START_TIMEOUT_S)
        return process.returncode, self.log.read_text()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=STOP_TIMEOUT_S)
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate(timeout=STOP_TIMEOUT_S)

    def clean_up(self) -> None:
        """Whatever happened, leave no process and no mount."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.communicate(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        while str(self.mnt) in Path("/proc/self/mountinfo").read_text():
            command = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*command, str(self.mnt)], check=True)


@contextlib.contextmanager
def made_system(directory: Path, session: str = "native") -> Iterator[System]:
    """A configured hsmfs; at the end no process, no mount, no data, no bug."""
    made = System(directory, session)
    try:
        yield made
    finally:
        made.clean_up()
        # The cache of a test can be large; pytest keeps directories.
        shutil.rmtree(directory / "tier", ignore_errors=True)
    text = made.log.read_text() if made.log.exists() else ""
    assert "bug:" not in text, text


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both sessions for the modules that are named above."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if module in BOTH and "session" in metafunc.fixturenames:
        metafunc.parametrize("session", SESSIONS, scope="module")


@pytest.fixture(scope="module")
def session() -> str:
    """The session of tests that do not run with each."""
    return "native"


@pytest.fixture
def system(tmp_path: Path, session: str) -> Iterator[System]:
    """A configured hsmfs that is not running."""
    with made_system(tmp_path, session) as made:
        yield made


@pytest.fixture(scope="module")
def shared_fs(tmp_path_factory: pytest.TempPathFactory, session: str) -> Iterator[System]:
    """A mounted hsmfs for all tests of a module that leave it running."""
    with made_system(tmp_path_factory.mktemp("shared"), session) as made:
        made.start()
        yield made


@pytest.fixture
def fs(system: System) -> System:
    """A mounted hsmfs."""
    system.start()
    return system


class Player:
    """Plays hsmd on a system's RPC socket: keeps data itself instead of discs."""

    def __init__(self, system: System, answering: bool = True) -> None:
        self.system = system
        self.discs: dict[int, bytes] = {}
        self.wanted: list[Wanted] = []
        self.loads = 0
        self.answering = answering
        self.chunk_bytes = 1 << 20
        self.last_first = False
        self._up = threading.Event()
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=lambda: trio.run(self._main), daemon=True)
        self._thread.start()
        assert self._up.wait(CALL_TIMEOUT_S), "no connection to hsmfs"

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with RpcClient.connect(self.system.run_dir / "hsmfs.sock") as client:
                self._client = client
                await client.call(Hello(PROTOCOL_VERSION, []), CALL_TIMEOUT_S)
                self._up.set()
                async with trio.open_nursery() as nursery:
                    async for event in client.events:
                        if isinstance(event, Wanted):
                            self.wanted.append(event)
                            if self.answering and len(self.wanted_of(event.file)) == 1:
                                nursery.start_soon(self._recall, event.file)

    def wanted_of(self, file: FileVersion) -> list[Wanted]:
        """Requests for one file so far."""
        return [event for event in self.wanted if event.file == file]

    def close(self) -> None:
        """Go away, as a stopped hsmd does."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(CALL_TIMEOUT_S)

    def call(self, call: Call) -> Answer:
        """One call from the test's thread."""
        return trio.from_thread.run(self._client.call, call, CALL_TIMEOUT_S, trio_token=self._token)

    def version(self, path: Path) -> FileVersion:
        """The file's present version, from the namespace as hsmd reads it."""
        self.call(Sync())
        ino = path.stat().st_ino
        store = LmdbStore(self.system.dir / "namespace", 1 << 30, read_only=True)
        try:
            with store.snapshot() as reader:
                record = NamespaceView(reader).inode(ino)
        finally:
            store.close()
        assert record is not None
        return FileVersion(ino, record.data_version)

    def migrate(self, *paths: Path) -> list[FileVersion]:
        """Copy files "to disc": two verified copies each, premigrated."""
        files = [self.version(path) for path in paths]
        self._all_done(self.call(Claim(files)))
        for path, file in zip(paths, files, strict=True):
            self.discs[file.ino] = path.read_bytes()
        copied = [CopiedFile(file, 2, True, "pool", ["V1", "V2"]) for file in files]
        self._all_done(self.call(Copied(copied)))
        self.call(Unclaim(files))
        return files

    def make_stubs(self, *paths: Path, head_bytes: int = HEAD_BYTES) -> list[FileVersion]:
        """Migrate and release files."""
        files = self.migrate(*paths)
        self._all_done(self.call(Release(files, head_bytes)))
        return files

    @staticmethod
    def _all_done(answer: Answer) -> None:
        assert isinstance(answer, FileResults), answer
        assert not [result for result in answer.results if result.refused]

    def recall(self, file: FileVersion) -> None:
        """Serve one recall from the test's thread."""
        trio.from_thread.run(self._recall, file, trio_token=self._token)

    async def _recall(self, file: FileVersion) -> None:
        self.loads += 1
        answer = await self._client.call(RecallBegin(file), CALL_TIMEOUT_S)
        assert isinstance(answer, RecallFile), answer
        data = self.discs[file.ino]
        starts = list(range(0, len(data), self.chunk_bytes))
        if self.last_first:
            starts.reverse()
        descriptor = os.open(answer.path, os.O_WRONLY)
        try:
            for start in starts:
                chunk = data[start : start + self.chunk_bytes]
                os.pwrite(descriptor, chunk, start)
                landed = Landed(file, ByteRange(start, start + len(chunk)))
                await self._client.call(landed, CALL_TIMEOUT_S)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        await self._client.call(Recalled(file), CALL_TIMEOUT_S)


@pytest.fixture
def play_hsmd() -> Iterator[Callable[..., Player]]:
    """Start players; all are closed at the end."""
    with contextlib.ExitStack() as stack:

        def start(system: System, answering: bool = True) -> Player:
            player = Player(system, answering)
            stack.callback(player.close)
            return player

        yield start


@pytest.fixture
def hsmd(fs: System, play_hsmd: Callable[..., Player]) -> Player:
    """A connected client that serves recalls at once."""
    return play_hsmd(fs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory mounts a file system."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.fuse)
