"""The device: opened, mounted, read and answered."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import subprocess
from typing import Final

from hsmfs.errors import LibraryError
from hsmfs.session.interface import FS_TYPE, SessionSettings
from hsmfs.session.mounting import DEVICE
from hsmfs.session.native import protocol as p

FUSERMOUNT: Final = "fusermount3"
FUSERMOUNT_TIMEOUT_S: Final = 30.0


def mount(settings: SessionSettings) -> int:
    """Mount and return the device's descriptor, which does not block.

    By mount(2) with CAP_SYS_ADMIN, else by fusermount3. Raises ``LibraryError``.
    """
    fd = _mount(settings) if os.geteuid() == 0 else None
    if fd is None:
        fd = _fusermount(settings)
    os.set_blocking(fd, False)
    return fd


def _mount(settings: SessionSettings) -> int | None:
    """None: we may not, somebody else might."""
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise LibraryError(
            f"{DEVICE}: {error.strerror}, expected the kernel's FUSE device; "
            "load it with 'modprobe fuse'"
        ) from None
    data = f"fd={fd},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
    data += f",max_read={p.MAX_WRITE_BYTES},default_permissions"
    if settings.allow_other:
        data += ",allow_other"
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.mount(
        settings.source.encode(),
        os.fsencode(settings.mount),
        f"fuse.{FS_TYPE}".encode(),
        ctypes.c_ulong(settings.options.flags),
        data.encode(),
    )
    if done != 0:
        number = ctypes.get_errno()
        os.close(fd)
        if number == errno.EPERM:
            return None
        raise LibraryError(
            f"fuse.mount: {settings.mount}: the kernel refused the mount "
            f"({os.strerror(number)}); see 'dmesg'"
        )
    return fd


def _fusermount(settings: SessionSettings) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    options = [f"fsname={settings.source.replace(',', '_')}", f"subtype={FS_TYPE}"]
    options += ["default_permissions", f"max_read={p.MAX_WRITE_BYTES}"]
    options += settings.options.helper
    if settings.allow_other:
        options.append("allow_other")
    command = [FUSERMOUNT, "-o", ",".join(options), "--", str(settings.mount)]
    try:
        with ours, theirs:
            done = subprocess.run(
                command,
                env=dict(os.environ, _FUSE_COMMFD=str(theirs.fileno())),
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                text=True,
                timeout=FUSERMOUNT_TIMEOUT_S,
                check=False,
            )
            if done.returncode != 0:
                raise LibraryError(
                    _refused(settings, "; ".join(done.stderr.split("\n")).strip("; "))
                )
            return _received(ours)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LibraryError(_refused(settings, str(error))) from error


def _refused(settings: SessionSettings, why: str) -> str:
    if "allow_other" in why:
        todo = "put user_allow_other into /etc/fuse.conf or set fuse.allow_other to false"
    elif os.geteuid() == 0:
        todo = "CAP_SYS_ADMIN is needed (in a container: --cap-add SYS_ADMIN)"
    elif FUSERMOUNT in why and "No such file" in why:
        todo = "install the package fuse3"
    else:
        todo = "the user must own the directory and be allowed to mount; or run as root"
    return f"fuse.mount: {settings.mount}: {FUSERMOUNT} refused the mount ({why}); {todo}"


def _received(channel: socket.socket) -> int:
    size = array.array("i").itemsize
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(size))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i", data[:size])
            return numbers[0]
    raise OSError(errno.EPROTO, f"{FUSERMOUNT} passed no descriptor")
