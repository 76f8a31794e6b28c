"""The part of libiscsi (1.19, libiscsi.so.7) that one session needs, by ctypes.

Every call releases the interpreter's lock. Layouts: <iscsi/scsi-lowlevel.h>.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

from hsmfs.errors import CallerError

LIBRARY: Final = "libiscsi.so.7"
SESSION_DISCOVERY, SESSION_NORMAL = 1, 2
HEADER_DIGEST_NONE: Final = 0
SCSI_STATUS_MAX: Final = 0xFF
"""What is above are libiscsi's own words: cancelled, error, time-out."""
TRANSFER_NONE, TRANSFER_READ, TRANSFER_WRITE = 0, 1, 2
RESIDUAL_UNDERFLOW: Final = 1

COMMAND_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
)


class Sense(ctypes.Structure):
    """scsi_sense; the last four bytes are sense-specific flags and pointers."""

    _fields_ = (
        ("error_type", ctypes.c_ubyte),
        ("key", ctypes.c_int),
        ("ascq", ctypes.c_int),
        ("specific", ctypes.c_ubyte * 4),
    )


class DataIn(ctypes.Structure):
    """scsi_data."""

    _fields_ = (("size", ctypes.c_int), ("data", ctypes.c_void_p))


class Task(ctypes.Structure):
    """The head of scsi_task."""

    _fields_ = (
        ("status", ctypes.c_int),
        ("cdb_size", ctypes.c_int),
        ("xfer_dir", ctypes.c_int),
        ("expxferlen", ctypes.c_int),
        ("cdb", ctypes.c_ubyte * 16),
        ("residual_status", ctypes.c_int),
        ("residual", ctypes.c_size_t),
        ("sense", Sense),
        ("datain", DataIn),
    )


class Portal(ctypes.Structure):
    """iscsi_target_portal: one address of a target."""


Portal._fields_ = (("next", ctypes.POINTER(Portal)), ("portal", ctypes.c_char_p))


class Address(ctypes.Structure):
    """iscsi_discovery_address: one target that discovery found."""


Address._fields_ = (
    ("next", ctypes.POINTER(Address)),
    ("target_name", ctypes.c_char_p),
    ("portals", ctypes.POINTER(Portal)),
)

_POINTER, _INT, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_CALLS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "iscsi_create_context": (_POINTER, (_TEXT,)),
    "iscsi_destroy_context": (_INT, (_POINTER,)),
    "iscsi_set_session_type": (_INT, (_POINTER, _INT)),
    "iscsi_set_header_digest": (_INT, (_POINTER, _INT)),
    "iscsi_set_targetname": (_INT, (_POINTER, _TEXT)),
    "iscsi_set_initiator_username_pwd": (_INT, (_POINTER, _TEXT, _TEXT)),
    "iscsi_set_isid_random": (_INT, (_POINTER, ctypes.c_uint32, ctypes.c_uint32)),
    "iscsi_set_noautoreconnect": (None, (_POINTER, _INT)),
    "iscsi_full_connect_async": (_INT, (_POINTER, _TEXT, _INT, COMMAND_CALLBACK, _POINTER)),
    "iscsi_connect_async": (_INT, (_POINTER, _TEXT, COMMAND_CALLBACK, _POINTER)),
    "iscsi_login_async": (_INT, (_POINTER, COMMAND_CALLBACK, _POINTER)),
    "iscsi_discovery_async": (_INT, (_POINTER, COMMAND_CALLBACK, _POINTER)),
    "iscsi_logout_async": (_INT, (_POINTER, COMMAND_CALLBACK, _POINTER)),
    "iscsi_is_logged_in": (_INT, (_POINTER,)),
    "iscsi_get_fd": (_INT, (_POINTER,)),
    "iscsi_which_events": (_INT, (_POINTER,)),
    "iscsi_service": (_INT, (_POINTER, _INT)),
    "iscsi_get_error": (_TEXT, (_POINTER,)),
    "iscsi_scsi_command_async": (
        _INT,
        (_POINTER, _INT, ctypes.POINTER(Task), COMMAND_CALLBACK, _POINTER, _POINTER),
    ),
    "scsi_create_task": (ctypes.POINTER(Task), (_INT, _TEXT, _INT, _INT)),
    "scsi_free_scsi_task": (None, (ctypes.POINTER(Task),)),
    "scsi_task_add_data_in_buffer": (_INT, (ctypes.POINTER(Task), _INT, _POINTER)),
    "scsi_task_add_data_out_buffer": (_INT, (ctypes.POINTER(Task), _INT, _POINTER)),
}


@functools.cache
def library() -> Any:
    """The library with its calls declared; CallerError where it is not installed."""
    try:
        found = ctypes.CDLL(LIBRARY)
    except OSError:
        raise CallerError(f"{LIBRARY} is not here; install it: apt-get install libiscsi7") from None
    for name, (result, arguments) in _CALLS.items():
        call = getattr(found, name)
        call.restype, call.argtypes = result, arguments
    return found
