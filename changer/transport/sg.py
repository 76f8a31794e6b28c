"""SG_IO on the kernel's devices: /dev/sg*, /dev/sr* (version 3) and /dev/bsg/* (version 4).

The ioctl is called by ctypes, which releases the interpreter's lock meanwhile.
Layouts: <scsi/sg.h> and <linux/bsg.h>.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from typing import Final

import numpy as np

from hsmfs.changer.transport.interface import CHECK_CONDITION, TRANSFER_BYTES_DEFAULT, Reply
from hsmfs.errors import CallerError, TransientError

SG_IO: Final = 0x2285
BLKSECTGET: Final = 0x1267
SENSE_BYTES_MAX: Final = 96
SECTOR_512: Final = 512
DID_TIME_OUT: Final = 0x03
DRIVER_TIMEOUT: Final = 0x06
TO_NONE, TO_DEVICE, FROM_DEVICE = -1, -2, -3
_GONE: Final = (errno.ENODEV, errno.ENXIO, errno.EIO)
_libc = ctypes.CDLL(None, use_errno=True)


class _Version3(ctypes.Structure):
    """sg_io_hdr."""

    _fields_ = (
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    )


class _Version4(ctypes.Structure):
    """sg_io_v4."""

    _fields_ = (
        ("guard", ctypes.c_int32),
        ("protocol", ctypes.c_uint32),
        ("subprotocol", ctypes.c_uint32),
        ("request_len", ctypes.c_uint32),
        ("request", ctypes.c_uint64),
        ("request_tag", ctypes.c_uint64),
        ("request_attr", ctypes.c_uint32),
        ("request_priority", ctypes.c_uint32),
        ("request_extra", ctypes.c_uint32),
        ("max_response_len", ctypes.c_uint32),
        ("response", ctypes.c_uint64),
        ("dout_iovec_count", ctypes.c_uint32),
        ("dout_xfer_len", ctypes.c_uint32),
        ("din_iovec_count", ctypes.c_uint32),
        ("din_xfer_len", ctypes.c_uint32),
        ("dout_xferp", ctypes.c_uint64),
        ("din_xferp", ctypes.c_uint64),
        ("timeout", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("usr_ptr", ctypes.c_uint64),
        ("spare_in", ctypes.c_uint32),
        ("driver_status", ctypes.c_uint32),
        ("transport_status", ctypes.c_uint32),
        ("device_status", ctypes.c_uint32),
        ("retry_delay", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("response_len", ctypes.c_uint32),
        ("din_resid", ctypes.c_int32),
        ("dout_resid", ctypes.c_int32),
        ("generated_tag", ctypes.c_uint64),
        ("spare_out", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


class SgTransport:
    """One device node; opened when the first command is sent."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._v4 = path.startswith("/dev/bsg/")
        self.transfer_bytes_max = TRANSFER_BYTES_DEFAULT

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        """One command; a node that vanished is opened anew at the next."""
        if self._fd < 0:
            self._open()
        command = ctypes.create_string_buffer(bytes(cdb), len(cdb))
        sense = ctypes.create_string_buffer(SENSE_BYTES_MAX)
        inward = ctypes.create_string_buffer(data_in_len) if data_in_len else None
        outward = np.frombuffer(data_out, np.uint8) if len(data_out) else None
        sent = 0 if outward is None else int(outward.ctypes.data)
        come = 0 if inward is None else ctypes.addressof(inward)
        ask = self._version4 if self._v4 else self._version3
        status, senses, resid = ask(
            command, sense, (sent, len(data_out)), (come, data_in_len), int(timeout_s * 1000)
        )
        got = max(0, data_in_len - resid) if data_in_len else 0
        data = ctypes.string_at(come, got) if got and status != CHECK_CONDITION else b""
        return Reply(status, sense.raw[:senses], data, data_in_len - len(data))

    def _open(self) -> None:
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            facts = os.fstat(self._fd)
            if not (stat.S_ISCHR(facts.st_mode) or stat.S_ISBLK(facts.st_mode)):
                raise CallerError(f"{self.path}: no device, expected one such as /dev/sg3")
            self._learn_bound(facts)
        except OSError as error:
            self.close()
            if error.errno in (*_GONE, errno.ENOENT, errno.EBUSY):
                raise TransientError(f"{self.path}: {error.strerror}") from error
            raise CallerError(f"{self.path}: {error.strerror}; check name and rights") from error
        except CallerError:
            self.close()
            raise

    def _learn_bound(self, facts: os.stat_result) -> None:
        """BLKSECTGET: bytes (an int) of an sg node, 512-byte sectors (a short) of a block node."""
        try:
            answer = fcntl.ioctl(self._fd, BLKSECTGET, bytes(8))
        except OSError:
            return
        if stat.S_ISBLK(facts.st_mode):
            bound = int(struct.unpack_from("@H", answer)[0]) * SECTOR_512
        else:
            bound = int(struct.unpack_from("@i", answer)[0])
        if bound > 0:
            self.transfer_bytes_max = min(TRANSFER_BYTES_DEFAULT, bound)

    def _ioctl(self, header: ctypes.Structure) -> None:
        if _libc.ioctl(self._fd, ctypes.c_ulong(SG_IO), ctypes.byref(header)) >= 0:
            return
        number = ctypes.get_errno()
        text = os.strerror(number)
        if number in _GONE:
            self.close()
            raise TransientError(f"{self.path}: {text}; the device is gone")
        if number in (errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ENOMEM):
            raise TransientError(f"{self.path}: {text}")
        raise CallerError(f"{self.path}: SG_IO is refused: {text}")

    def _version3(
        self,
        command: ctypes.Array[ctypes.c_char],
        sense: ctypes.Array[ctypes.c_char],
        out: tuple[int, int],
        come: tuple[int, int],
        timeout_ms: int,
    ) -> tuple[int, int, int]:
        """Status, bytes of sense, bytes not transferred."""
        where, size = out if out[1] else come
        direction = TO_DEVICE if out[1] else FROM_DEVICE if come[1] else TO_NONE
        header = _Version3(
            interface_id=ord("S"),
            dxfer_direction=direction,
            cmd_len=len(command),
            mx_sb_len=SENSE_BYTES_MAX,
            dxfer_len=size,
            dxferp=where,
            cmdp=ctypes.addressof(command),
            sbp=ctypes.addressof(sense),
            timeout=timeout_ms,
        )
        self._ioctl(header)
        self._check_way(header.host_status, header.driver_status & 0x0F, header.status)
        return int(header.status) & 0x3E, int(header.sb_len_wr), int(header.resid)

    def _version4(
        self,
        command: ctypes.Array[ctypes.c_char],
        sense: ctypes.Array[ctypes.c_char],
        out: tuple[int, int],
        come: tuple[int, int],
        timeout_ms: int,
    ) -> tuple[int, int, int]:
        header = _Version4(
            guard=ord("Q"),
            request_len=len(command),
            request=ctypes.addressof(command),
            max_response_len=SENSE_BYTES_MAX,
            response=ctypes.addressof(sense),
            dout_xfer_len=out[1],
            dout_xferp=out[0],
            din_xfer_len=come[1],
            din_xferp=come[0],
            timeout=timeout_ms,
        )
        self._ioctl(header)
        status = int(header.device_status)
        self._check_way(header.transport_status, header.driver_status & 0x0F, status)
        return status & 0x3E, int(header.response_len), int(header.din_resid)

    def _check_way(self, host: int, driver: int, status: int) -> None:
        """What the host adapter met on the way to the device (DID_*, <scsi/scsi_status.h>)."""
        if status:
            return
        if host == DID_TIME_OUT or driver == DRIVER_TIMEOUT:
            raise TransientError(f"{self.path}: no answer in time")
        if host:
            raise TransientError(f"{self.path}: the way to the device fails (host status {host})")

    def close(self) -> None:
        """Close the node."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
