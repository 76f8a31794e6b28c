"""The native session without a kernel: a socket stands for the device, the test for the kernel.

SOCK_SEQPACKET keeps each request and each answer apart, as the device does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from hsmfs.cache.tier import CacheTier
from hsmfs.clock import ManualClock
from hsmfs.metrics import FsMetrics
from hsmfs.mountoptions import resolve
from hsmfs.namespace.engine import Engine, EngineSettings, make_namespace
from hsmfs.namespace.schema import SCANNED
from hsmfs.session.interface import SessionSettings
from hsmfs.session.native import protocol as p
from hsmfs.session.native.loop import Loop
from hsmfs.session.native.protocol import Init, Op
from hsmfs.session.native.session import NativeSession
from hsmfs.store.memory import MemoryStore
from hsmfs.store.overlay import GroupCommit

TIMEOUT_S = 30.0
CAPACITY_BYTES = 4 << 20
ANSWER_BYTES = p.MAX_WRITE_BYTES + 4096
IN_HEADER = struct.Struct("<IIQQIIII")
ALL = p.WANTED


def request(
    opcode: int, unique: int, node: int, body: bytes, lie: int = 0, uid: int = 0, pid: int = 1
) -> bytes:
    """As the kernel would write it; ``lie`` is added to the size that it says."""
    size = (IN_HEADER.size + len(body) + lie) & 0xFFFFFFFF
    return IN_HEADER.pack(size, opcode, unique, node, uid, 0, pid, 0) + body


def init_body(
    minor: int = p.MINOR, features: Init = ALL, major: int = p.MAJOR, readahead: int = 1 << 17
) -> bytes:
    low, high = int(features) & 0xFFFFFFFF, int(features) >> 32
    return struct.pack("<IIIII44x", major, minor, readahead, low, high)


class Wire:
    """One session, and the kernel's end of its device."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.bugs = 0
        self.metrics = FsMetrics()
        self.loop = Loop(2, self._bug)
        store = MemoryStore()
        clock = ManualClock()
        make_namespace(store, 0, 0, 0o755, clock.now_ns())
        commits = GroupCommit(store, self.loop, 0.01, None, SCANNED)
        tier = CacheTier("t", root, 0, CAPACITY_BYTES)
        self.engine = Engine(commits, tier, clock, self.loop, EngineSettings())
        settings = SessionSettings(root, "wire", False, 1.0, 1.0, resolve([]))
        self.session = NativeSession(self.engine, settings, self.metrics, self.loop)
        self.kernel, self._device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.kernel, self._device):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.kernel.settimeout(TIMEOUT_S)
        self._device.setblocking(False)
        self.session.attach(self._device.fileno())
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._unique = 1 << 32

    def _bug(self) -> None:
        self.bugs += 1

    def _run(self) -> None:
        try:
            self.session.run()
        except BaseException as error:
            self.failure = error

    def send(self, data: bytes) -> None:
        self.kernel.send(data)

    def answer(self) -> tuple[int, int, bytes]:
        """Of some request: its number, errno, body."""
        data = self.kernel.recv(ANSWER_BYTES)
        size, error, unique = p.OUT_HEADER.unpack_from(data)
        assert size == len(data)
        return unique, -error, data[p.OUT_HEADER.size :]

    def ask(self, opcode: int, body: bytes = b"", node: int = p.ROOT_ID) -> tuple[int, bytes]:
        """Send a request and find its answer among those that come: errno and body."""
        self._unique += 1
        self.send(request(opcode, self._unique, node, body))
        while True:
            unique, number, found = self.answer()
            if unique == self._unique:
                return number, found

    def done(self, opcode: int, body: bytes = b"", node: int = p.ROOT_ID) -> bytes:
        """As ``ask``, of what must succeed."""
        number, found = self.ask(opcode, body, node)
        assert number == 0, (Op(opcode), number)
        return found

    def begin(self, minor: int = p.MINOR, features: Init = ALL) -> Init:
        """INIT; what was agreed."""
        reply = self.done(Op.INIT, init_body(minor, features), 0)
        fields = p.INIT_OUT.unpack(reply)
        return Init(fields[3] | fields[10] << 32)

    def close(self) -> None:
        """As at umount; the loop must end by itself."""
        self.kernel.close()
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive()
        for fh in list(self.engine.files._handles):
            self.engine.release(fh)
        self.loop.close()
        self.engine.close()
        os.close(self.loop._wake)
        self._device.close()
        if self.failure is not None:
            raise self.failure


@contextlib.contextmanager
def wire(root: Path) -> Iterator[Wire]:
    made = Wire(root)
    try:
        yield made
    finally:
        made.close()
