"""A logical unit of an iSCSI target, by libiscsi: login, reconnect, bounded waits.

libiscsi itself would send what was under way again after a reconnect; that is
switched off: a command whose answer was lost is told as such, and whoever sent
it decides. A session that is found dead before a command is opened anew.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import structlog

from hsmfs.changer.transport import libiscsi
from hsmfs.changer.transport.interface import (
    CHECK_CONDITION,
    TRANSFER_BYTES_DEFAULT,
    Reply,
)
from hsmfs.errors import CallerError, TransientError

log = structlog.get_logger(__name__)
INITIATOR: Final = f"iqn.2025-01.org.hsmfs:{socket.gethostname()}"
LOGIN_TIMEOUT_S: Final = 15.0
LOGIN_ATTEMPTS_MAX: Final = 3
LOGIN_PAUSE_S: Final = 0.5
LOGOUT_TIMEOUT_S: Final = 2.0
POLL_MS: Final = 500
CDB_BYTES_MAX: Final = 16
PORT_DEFAULT: Final = 3260
TARGETS_MAX: Final = 1024


class IscsiAddress(NamedTuple):
    """Where a logical unit is."""

    portal: str
    """HOST:PORT."""
    target: str
    lun: int
    user: str = ""
    secret: str = ""

    def __str__(self) -> str:
        return f"iscsi://{self.portal}/{self.target}/{self.lun}"


def _nothing(_data: int | None) -> None:
    """For callbacks whose data say nothing."""


class _Session:
    """One libiscsi context, driven by poll(2) with a deadline."""

    def __init__(self, portal: str, kind: int, target: str = "") -> None:
        self._lib = libiscsi.library()
        self.portal = portal
        self.context = self._lib.iscsi_create_context(INITIATOR.encode())
        if not self.context:
            raise TransientError(f"iscsi://{portal}: no memory for a session")
        self._lib.iscsi_set_isid_random(self.context, int.from_bytes(os.urandom(3), "big"), 0)
        self._lib.iscsi_set_session_type(self.context, kind)
        self._lib.iscsi_set_header_digest(self.context, libiscsi.HEADER_DIGEST_NONE)
        self._lib.iscsi_set_noautoreconnect(self.context, 1)
        if target:
            self._lib.iscsi_set_targetname(self.context, target.encode())

    def authenticate(self, user: str, secret: str) -> None:
        """CHAP, where the target wants it."""
        self._lib.iscsi_set_initiator_username_pwd(self.context, user.encode(), secret.encode())

    @property
    def error(self) -> str:
        """What libiscsi says of the last failure."""
        text: bytes = self._lib.iscsi_get_error(self.context) or b""
        return text.decode(errors="replace").strip() or "the session ended"

    def alive(self) -> bool:
        """Whether the connection still stands; what has arrived meanwhile is dealt with."""
        fd = self._lib.iscsi_get_fd(self.context)
        if fd < 0 or not self._lib.iscsi_is_logged_in(self.context) or _ended(fd):
            return False
        return self._turn(0) and bool(self._lib.iscsi_is_logged_in(self.context))

    def _turn(self, wait_ms: int) -> bool:
        """One round of poll and service; False once the session is broken."""
        fd = self._lib.iscsi_get_fd(self.context)
        if fd < 0:
            return False
        poll = select.poll()
        poll.register(fd, self._lib.iscsi_which_events(self.context))
        ready = poll.poll(wait_ms)
        return not ready or bool(self._lib.iscsi_service(self.context, ready[0][1]) >= 0)

    def wait(
        self,
        start: Callable[[Any], int],
        timeout_s: float,
        look: Callable[[int | None], Any] = _nothing,
    ) -> tuple[int, Any]:
        """Start something and drive the session until its callback.

        Returns its status and what ``look`` makes of its data, which do not
        outlive the callback. Raises TransientError after the time, or when the
        session breaks.
        """
        answers: list[tuple[int, Any]] = []
        callback = libiscsi.COMMAND_CALLBACK(
            lambda _context, status, data, _private: answers.append((status, look(data)))
        )
        if start(callback) < 0:
            raise TransientError(self.error)
        end_s = time.monotonic() + timeout_s
        while not answers:
            left_ms = int((end_s - time.monotonic()) * 1000)
            if left_ms <= 0:
                self.destroy()
                raise TransientError(f"no answer in {timeout_s:g} s")
            if not self._turn(min(left_ms, POLL_MS)) and not answers:
                why = self.error
                self.destroy()
                raise TransientError(why)
        return answers[0]

    def destroy(self) -> None:
        """End it at once; callbacks that are still owed come as cancelled."""
        if self.context:
            self._lib.iscsi_destroy_context(self.context)
        self.context = None


def _ended(fd: int) -> bool:
    """Whether the other side has closed a connection (libiscsi does not say so)."""
    with socket.socket(fileno=os.dup(fd)) as twin:
        try:
            return not twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


class IscsiTransport:
    """One logical unit; the session is opened by the first command."""

    transfer_bytes_max = TRANSFER_BYTES_DEFAULT

    def __init__(self, address: IscsiAddress, sleep: Callable[[float], None] = time.sleep) -> None:
        self.address = address
        self.logins = 0
        self._sleep = sleep
        self._session: _Session | None = None

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        """One command; after a lost or late answer the session is dropped."""
        if len(cdb) > CDB_BYTES_MAX:
            raise CallerError(f"command of {len(cdb)} bytes, expected at most {CDB_BYTES_MAX}")
        session = self._connected()
        try:
            return self._send(session, bytes(cdb), data_out, data_in_len, timeout_s)
        except TransientError as error:
            self._drop()
            raise TransientError(f"{self.address}: command {cdb[:1].hex()}h: {error}") from error

    def _send(
        self,
        session: _Session,
        cdb: bytes,
        data_out: bytes | memoryview,
        data_in_len: int,
        timeout_s: float,
    ) -> Reply:
        lib = libiscsi.library()
        outward = np.frombuffer(data_out, np.uint8) if len(data_out) else None
        inward = ctypes.create_string_buffer(data_in_len) if data_in_len else None
        direction = libiscsi.TRANSFER_NONE
        if outward is not None:
            direction = libiscsi.TRANSFER_WRITE
        elif inward is not None:
            direction = libiscsi.TRANSFER_READ
        task = lib.scsi_create_task(len(cdb), cdb, direction, len(data_out) or data_in_len)
        try:
            if outward is not None:
                lib.scsi_task_add_data_out_buffer(task, len(outward), outward.ctypes.data)
            elif inward is not None:
                lib.scsi_task_add_data_in_buffer(task, data_in_len, ctypes.addressof(inward))
            status, _data = session.wait(
                lambda callback: lib.iscsi_scsi_command_async(
                    session.context, self.address.lun, task, callback, None, None
                ),
                timeout_s,
            )
            if not 0 <= status <= libiscsi.SCSI_STATUS_MAX:
                raise TransientError(session.error)
            return _reply(task.contents, status, inward, data_in_len)
        finally:
            lib.scsi_free_scsi_task(task)

    # -- the session -----------------------------------------------------------------

    def _connected(self) -> _Session:
        if self._session is not None and not self._session.alive():
            log.info("iSCSI session is gone", address=str(self.address))
            self._drop()
        if self._session is None:
            self._session = self._log_in_bounded()
        return self._session

    def _log_in_bounded(self) -> _Session:
        for attempt in range(LOGIN_ATTEMPTS_MAX):
            try:
                return self._log_in()
            except TransientError as error:
                if attempt == LOGIN_ATTEMPTS_MAX - 1:
                    raise TransientError(f"{self.address}: no login: {error}") from error
            self._sleep(LOGIN_PAUSE_S * 2**attempt)
        raise AssertionError

    def _log_in(self) -> _Session:
        where = self.address
        session = _Session(where.portal, libiscsi.SESSION_NORMAL, where.target)
        if where.user:
            session.authenticate(where.user, where.secret)
        lib = libiscsi.library()
        try:
            # Without a LUN: with one libiscsi consumes the first unit attention.
            status, _data = session.wait(
                lambda callback: lib.iscsi_full_connect_async(
                    session.context, where.portal.encode(), -1, callback, None
                ),
                LOGIN_TIMEOUT_S,
            )
            if status != 0:
                raise TransientError(session.error)
        except TransientError:
            session.destroy()
            raise
        self.logins += 1
        return session

    def _drop(self) -> None:
        if self._session is not None:
            self._session.destroy()
        self._session = None

    def close(self) -> None:
        """Log out, for a moment; then the connection is closed anyhow."""
        session = self._session
        if session is not None and session.alive():
            lib = libiscsi.library()
            try:
                session.wait(
                    lambda callback: lib.iscsi_logout_async(session.context, callback, None),
                    LOGOUT_TIMEOUT_S,
                )
            except TransientError as error:
                log.debug("no logout", address=str(self.address), error=str(error))
        self._drop()


def _reply(
    task: libiscsi.Task, status: int, inward: ctypes.Array[ctypes.c_char] | None, length: int
) -> Reply:
    resid = 0
    if task.residual_status == libiscsi.RESIDUAL_UNDERFLOW:
        resid = min(int(task.residual), length) if length else 0
    if status == CHECK_CONDITION:
        # Two bytes of length, then the sense (RFC 7143 11.4.7.2).
        raw = ctypes.string_at(task.datain.data, task.datain.size) if task.datain.data else b""
        size = int.from_bytes(raw[:2], "big")
        return Reply(status, raw[2 : 2 + size], b"", length)
    got = length - resid
    data = ctypes.string_at(ctypes.addressof(inward), got) if inward is not None else b""
    return Reply(status, b"", data, resid)


def discover(portal: str) -> list[str]:
    """Names of the targets that a portal (HOST:PORT) offers."""
    lib = libiscsi.library()
    session = _Session(portal, libiscsi.SESSION_DISCOVERY)
    context = session.context
    found: Any = None
    try:
        for start, look in (
            (lambda cb: lib.iscsi_connect_async(context, portal.encode(), cb, None), _nothing),
            (lambda cb: lib.iscsi_login_async(context, cb, None), _nothing),
            (lambda cb: lib.iscsi_discovery_async(context, cb, None), _names),
        ):
            status, found = session.wait(start, LOGIN_TIMEOUT_S, look)
            if status != 0:
                raise TransientError(session.error)
    except TransientError as error:
        raise TransientError(f"iscsi://{portal}: no discovery: {error}") from error
    finally:
        session.destroy()
    return list(found)


def _names(data: int | None) -> list[str]:
    """Of discovery's list."""
    names: list[str] = []
    if not data:
        return names
    at = ctypes.cast(data, ctypes.POINTER(libiscsi.Address))
    while at and len(names) < TARGETS_MAX:
        names.append((at.contents.target_name or b"").decode(errors="replace"))
        at = at.contents.next
    return names
