"""Where the tests of file system behaviour run: ext4 as reference, hsmfs by each session."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest

from support.sides import User, acting

SESSIONS: Final = ("native", "pyfuse3")
REFERENCE: Final = "ext4"
PLACES: Final = (REFERENCE, *SESSIONS)
OK: Final = "OK"


class Lack(NamedTuple):
    """What a session cannot do: what a program gets, and why."""

    outcome: str
    reason: str


BOTH: Final = {
    "blocks_beyond_end": Lack("not counted", "st_blocks is at most what the size needs"),
    "set_gid_without_x": Lack("kept", "the protocol (FUSE_HANDLE_KILLPRIV_V2) says so"),
}
LACKING: Final[dict[str, dict[str, Lack]]] = {
    "ext4": {},
    "native": BOTH,
    "pyfuse3": BOTH
    | {
        "fallocate": Lack("EOPNOTSUPP", "the binding has no handler for FALLOCATE"),
        "atime_of_cached_reads": Lack("unchanged", "what the page cache has is not asked for"),
        "set_id_for_root": Lack("cleared", "a WRITE does not tell; POSIX allows it (write)"),
        "create_and_replace": Lack("OK", "the binding looks at XATTR_CREATE alone then"),
        "default_acl_instead_of_umask": Lack(
            "the umask is taken off too", "the binding does not ask for FUSE_DONT_MASK"
        ),
        "holes": Lack("one piece of data", "the binding has no handler for LSEEK"),
        "tmpfile": Lack("EOPNOTSUPP", "the binding has no handler for TMPFILE"),
    },
}
"""All differences that the tests know; they are asserted, not skipped."""
NAMES: Final = {errno.ENOTSUP: "EOPNOTSUPP", errno.EDEADLK: "EDEADLK"}
"""Of errors that have two."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs more than one user")


class Place(NamedTuple):
    """A file system and a directory on it."""

    name: str
    root: str

    @property
    def is_reference(self) -> bool:
        return self.name == REFERENCE

    def lacks(self, feature: str) -> Lack | None:
        return LACKING[self.name].get(feature)

    def expected(self, feature: str, outcome: str) -> str:
        """The outcome here of something that elsewhere has this one."""
        lack = self.lacks(feature)
        return lack.outcome if lack else outcome


def outcome(call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """``OK`` or the name of the error."""
    try:
        call(*arguments, **named)
    except OSError as error:
        number = error.errno or 0
        return NAMES.get(number, errno.errorcode[number])
    return OK


def outcome_as(user: User, call: Callable[..., Any], *arguments: Any, umask: int = 0o022) -> str:
    """The same, as somebody else."""
    with acting(user, umask):
        return outcome(call, *arguments)


@contextlib.contextmanager
def opened(path: str, flags: int = os.O_RDWR, mode: int = 0o644) -> Iterator[int]:
    """A descriptor for a while."""
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def make_file(path: str, data: bytes = b"", mode: int = 0o644) -> str:
    """A regular file of exactly this mode."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        os.write(fd, data)
        os.fchmod(fd, mode)
    return path


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
