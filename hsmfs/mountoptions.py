"""Options of mount(8), as users know them: which there are, which win, which mean nothing here.

They come from ``fuse.options`` of the configuration, from ``hsmfs -o`` and, by
``mount.hsmfs``, from /etc/fstab; what comes later wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hsmfs.config import did_you_mean

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS = 1, 2, 4, 8, 16
MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME = 128, 1024, 2048
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25

FLAGS: Final = {
    "rw": ("write", 0),
    "ro": ("write", MS_RDONLY),
    "nosuid": ("suid", MS_NOSUID),
    "suid": ("suid", 0),
    "nodev": ("dev", MS_NODEV),
    "dev": ("dev", 0),
    "exec": ("exec", 0),
    "noexec": ("exec", MS_NOEXEC),
    "async": ("sync", 0),
    "sync": ("sync", MS_SYNCHRONOUS),
    "dirsync": ("dirsync", MS_DIRSYNC),
    "atime": ("atime", 0),
    "noatime": ("atime", MS_NOATIME),
    "relatime": ("atime", MS_RELATIME),
    "norelatime": ("atime", 0),
    "strictatime": ("atime", MS_STRICTATIME),
    "nostrictatime": ("atime", 0),
    "diratime": ("diratime", 0),
    "nodiratime": ("diratime", MS_NODIRATIME),
    "lazytime": ("lazytime", MS_LAZYTIME),
    "nolazytime": ("lazytime", 0),
}
"""What is a flag of mount(2): the question that it answers, and the flag."""
DEFAULTS: Final = {"suid": "nosuid", "dev": "nodev"}
"""Of questions that are answered by a flag unless asked otherwise; of all others no flag is."""
BY_HELPER: Final = ("ro", "suid", "dev", "noexec", "sync", "noatime", "dirsync")
"""Differences from the defaults that fusermount3 and libfuse know."""
ALWAYS: Final = ("default_permissions",)
"""On whether it is said or not."""
IGNORED: Final = (
    *("defaults", "auto", "noauto", "user", "nouser", "users", "nousers", "owner", "noowner"),
    *("group", "nogroup", "nofail", "_netdev", "silent", "loud", "mand", "nomand"),
    *("iversion", "noiversion"),
)
"""For mount(8) itself, see there."""
IGNORED_STARTS: Final = ("x-", "X-", "comment=", "user=")
NO_LABELS: Final = "no option of security labels (the mount keeps none)"
REFUSED: Final = {
    "context": NO_LABELS,
    "fscontext": NO_LABELS,
    "defcontext": NO_LABELS,
    "rootcontext": NO_LABELS,
    "allow_root": "allow_other, or neither: then only who mounts may use it",
    "nonempty": "an empty directory to mount on",
    "uid": "no such option, files have owners of their own",
    "gid": "no such option, files have groups of their own",
    "umask": "no such option, files have modes of their own",
    "attr_timeout": "fuse.attr_timeout_s in the configuration",
    "entry_timeout": "fuse.entry_timeout_s in the configuration",
    "remount": "a new mount; to change a mount that works: mount -i -o remount,OPTIONS TARGET",
}
"""What others have, and what to do here."""
_WORD: Final = re.compile(r'(?:[^,"]|"[^"]*"?)+')


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What a list of options comes to."""

    flags: int
    """For mount(2)."""
    helper: tuple[str, ...]
    """For fusermount3 and libfuse."""
    allow_other: bool
    source: str | None
    """First column of the mount table (``fsname=``)."""


def split(text: str) -> list[str]:
    """The words of ``-o``; a comma between double quotes separates nothing."""
    return [word.replace('"', "") for word in _WORD.findall(text)]


def problem(word: str) -> tuple[str, str, str] | None:
    """Of an option that cannot be taken: what was found, expected, and what to do."""
    name = word.split("=", 1)[0]
    if word in FLAGS or word in ALWAYS or word in IGNORED or word == "allow_other":
        return None
    if word.startswith(IGNORED_STARTS) or (name == "fsname" and name != word):
        return None
    if name in REFUSED:
        return f"option '{word}'", REFUSED[name], "remove it"
    known = (*FLAGS, *ALWAYS, *IGNORED, "allow_other", "fsname=NAME")
    todo = did_you_mean(name, known) or "remove it"
    return f"unknown option '{word}'", f"one of allow_other, fsname=NAME, {', '.join(FLAGS)}", todo


def resolve(words: Iterable[str]) -> MountOptions:
    """The last answer to each question."""
    answers = dict(DEFAULTS)
    source = None
    allow_other = False
    for word in words:
        if word in FLAGS:
            answers[FLAGS[word][0]] = word
        elif word == "allow_other":
            allow_other = True
        elif word.startswith("fsname="):
            source = word.partition("=")[2]
    flags = 0
    for word in answers.values():
        flags |= FLAGS[word][1]
    helper = tuple(word for word in answers.values() if word in BY_HELPER)
    return MountOptions(flags, helper, allow_other, source)
