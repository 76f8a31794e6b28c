"""The error tree: each error has a kind; one table maps kinds to errno.

All derive from ``HsmError`` and carry what happened, where, and what to do;
``FsError`` is what a file operation answers.
"""

from __future__ import annotations

import errno
import os
from enum import Enum
from typing import Final


class Kind(Enum):
    """What sort of fault it is, and so who can do something about it."""

    TRANSIENT = "transient"
    MEDIUM = "medium"
    DRIVE = "drive"
    LIBRARY = "library"
    OPERATOR = "operator"
    CALLER = "caller"
    BUG = "bug"


ERRNO_OF_KIND: Final = {
    Kind.TRANSIENT: errno.EAGAIN,
    Kind.MEDIUM: errno.EIO,
    Kind.DRIVE: errno.EIO,
    Kind.LIBRARY: errno.ETIMEDOUT,
    Kind.OPERATOR: errno.ENOMEDIUM,
    Kind.CALLER: errno.EINVAL,
    Kind.BUG: errno.EIO,
}


class HsmError(Exception):
    """Base of all other errors; the message says what, where, what to do."""

    kind: Kind = Kind.BUG

    @property
    def errno(self) -> int:
        """The errno that a waiting reader gets."""
        return ERRNO_OF_KIND[self.kind]


class FsError(HsmError):
    """A file operation's answer that is an errno."""

    kind = Kind.CALLER

    def __init__(self, number: int, why: str = "") -> None:
        super().__init__(number, why or os.strerror(number))
        self._errno = number
        self.why = why or os.strerror(number)

    @property
    def errno(self) -> int:
        """The errno that the caller gets."""
        return self._errno

    def __str__(self) -> str:
        return f"{errno.errorcode.get(self.errno, self.errno)}: {self.why}"


class TransientError(HsmError):
    """May go away by itself: retried, with a bound."""

    kind = Kind.TRANSIENT


class StoreFullError(TransientError):
    """The disk of a store is full: nothing was committed, it is tried again."""


class StoreDamagedError(HsmError):
    """Pages of a store cannot be read: restore it from a backup."""

    kind = Kind.MEDIUM


class MediumError(HsmError):
    """A disc cannot be written or read."""

    kind = Kind.MEDIUM


class DriveError(HsmError):
    """A drive fails, whatever disc is in it."""

    kind = Kind.DRIVE


class LibraryError(HsmError):
    """The robot or the library as a whole fails."""

    kind = Kind.LIBRARY


class OperatorNeeded(HsmError):
    """A person must do something first."""

    kind = Kind.OPERATOR


class CallerError(HsmError):
    """The request cannot be done as asked."""

    kind = Kind.CALLER


class ConfigError(CallerError):
    """A configuration or policy text is wrong: file, place, found, expected."""

    def __init__(self, where: str, found: str, expected: str, todo: str = "") -> None:
        text = f"{where}: found {found}, expected {expected}"
        super().__init__(f"{text}; {todo}" if todo else text)
        self.where = where
        self.found = found
        self.expected = expected
        self.todo = todo
