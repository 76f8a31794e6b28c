"""The iSCSI target: listens, bounds its connections, and offers the library's devices."""

from __future__ import annotations

import ipaddress
import socket
import threading
from types import TracebackType
from typing import Final

import structlog

from hsmfs.changer.emulated.desk import Desk
from hsmfs.changer.emulated.iscsi.connection import Connection
from hsmfs.changer.emulated.iscsi.login import Chap
from hsmfs.changer.emulated.iscsi.units import Units
from hsmfs.changer.emulated.library import EmulatedLibrary
from hsmfs.errors import CallerError

log = structlog.get_logger(__name__)
NAME: Final = "iqn.2025-01.org.hsmfs:emulated"
CONNECTIONS_MAX: Final = 64
STOP_TIMEOUT_S: Final = 10.0


class IscsiTarget:
    """One library behind one portal; the changer is logical unit 0, drives follow. Drives
    without a robot begin with unit 0."""

    def __init__(
        self,
        library: EmulatedLibrary | Desk,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str = NAME,
        chap: Chap | None = None,
    ) -> None:
        """Listens at once. CallerError where that fails, or would let strangers in."""
        self.name = name
        self.chap = chap
        self.units = Units(library.devices)
        self._connections: dict[Connection, threading.Thread] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._stopping = False
        try:
            self._listener = self._listen(host, port)
        except OSError as error:
            raise CallerError(f"{host}:{port}: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._accept, name="iscsi-accept", daemon=True)

    def _listen(self, host: str, port: int) -> socket.socket:
        family, kind, _protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if self.chap is None and not ipaddress.ip_address(address[0]).is_loopback:
            raise CallerError(
                f"{host} can be reached by others: give a user and a secret (CHAP), "
                "or listen on 127.0.0.1"
            )
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(CONNECTIONS_MAX)
        except OSError:
            listener.close()
            raise
        return listener

    @property
    def portal(self) -> str:
        """HOST:PORT where it listens."""
        host, port = self._listener.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def start(self) -> None:
        """Serve in threads of its own until ``stop``."""
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _peer = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        with self._lock:
            if self._stopping or len(self._connections) >= CONNECTIONS_MAX:
                log.info("iSCSI connection is refused", connections=len(self._connections))
                sock.close()
                return
            self._number = self._number % 0xFFFF + 1
            connection = Connection(self, sock, self._number)
            thread = threading.Thread(
                target=connection.run, name=f"iscsi-{self._number}", daemon=True
            )
            self._connections[connection] = thread
        thread.start()

    def reinstate(self, fresh: Connection) -> None:
        """The same initiator port again: its older session ends (RFC 7143 6.3.5)."""
        with self._lock:
            older = [
                connection
                for connection in self._connections
                if connection is not fresh and connection.initiator == fresh.initiator
            ]
        for connection in older:
            connection.close()

    def gone(self, connection: Connection) -> None:
        """A connection has ended."""
        with self._lock:
            self._connections.pop(connection, None)

    def stop(self) -> None:
        """End all connections and the listener."""
        with self._lock:
            self._stopping = True
            running = dict(self._connections)
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.debug("listener", why=str(error))
        self._listener.close()
        for connection in running:
            connection.close()
        for thread in (self._thread, *running.values()):
            if thread.ident is not None:
                thread.join(STOP_TIMEOUT_S)

    def __enter__(self) -> IscsiTarget:
        self.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()
