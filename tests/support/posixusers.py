"""One user of each class towards a file of OWNER and GROUP_ID, and children that are them."""

from __future__ import annotations

import contextlib
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final

from support.sides import User

GROUP_ID: Final = 3000
ROOT: Final = User(0, 0, ())
OWNER: Final = User(1001, 1001, ())
MEMBER: Final = User(1002, GROUP_ID, ())
SUPPLEMENTARY: Final = User(1003, 1003, (1, 2900, GROUP_ID, 4000))
STRANGER: Final = User(1004, 1004, (2900, 4000))
CLASSES: Final = {
    "owner": (OWNER, 6),
    "member": (MEMBER, 3),
    "supplementary": (SUPPLEMENTARY, 3),
    "stranger": (STRANGER, 0),
}
"""Users, and by how many bits their class is shifted in a mode."""


def only_for(shift: int, perm: int) -> int:
    """A mode that gives one class these permissions, and all others the opposite."""
    mode = 0
    for other in (6, 3, 0):
        mode |= (perm if other == shift else perm ^ 7) << other
    return mode


def become(user: User) -> None:
    """For good, with the real user too: for children."""
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def in_child(work: Callable[..., Any], *arguments: Any, user: User | None = None) -> Any:
    """What ``work`` returns in a process of its own; raises what it raises."""
    with child(lambda pipe: pipe.send(work(*arguments)), user=user) as pipe:
        return receive(pipe)


class Failed(AssertionError):
    """A child ended with an unexpected exception."""


@contextlib.contextmanager
def child(work: Callable[[Connection], Any], user: User | None = None) -> Iterator[Connection]:
    """A process that runs ``work`` with the other end of this pipe."""
    ours, theirs = Pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            if user is not None:
                become(user)
            work(theirs)
            status = 0
        except OSError as error:
            theirs.send(error)
        except BaseException:
            theirs.send(Failed(traceback.format_exc()))
        finally:
            os._exit(status)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(pid, 0)


def receive(pipe: Connection) -> Any:
    """What the child sent; its exception is raised here."""
    if not pipe.poll(30):
        raise Failed("the child said nothing for 30 s")
    try:
        value = pipe.recv()
    except (EOFError, pickle.UnpicklingError) as error:
        raise Failed("the child went without a word") from error
    if isinstance(value, (OSError, Failed)):
        raise value
    return value
