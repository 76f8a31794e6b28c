"""What would be adopted, and what stands against it: changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from hsmfs.config import Config
from hsmfs.errors import CallerError
from hsmfs.rpc.adoptmessages import AdoptName
from hsmfs.tools.adopt.disk import (
    ATTR_APPEND,
    ATTR_ENCRYPTED,
    ATTR_IMMUTABLE,
    ATTR_VERITY,
    Below,
    Facts,
    facts_of,
)
from hsmfs.tools.output import printable

SHARED_NAMES_MAX: Final = 1_000_000
"""Names of files with several names, which are kept in memory."""
LEFT_KEPT_MAX: Final = 10_000
"""So many reasons are kept; the others are counted."""


class Left(NamedTuple):
    """What stays in its old place, and why."""

    path: bytes
    why: str


@dataclass
class Found:
    """The source, as one walk saw it."""

    top: Facts
    files: int = 0
    directories: int = 1
    others: int = 0
    data_bytes: int = 0
    shared: dict[int, list[AdoptName]] = field(default_factory=dict)
    """Files with several names, by inode number of the disk."""
    left: list[Left] = field(default_factory=list)
    left_count: int = 0
    """Things that stay where they are; a directory counts once, with all in it."""
    shared_names: int = 0

    def leave(self, path: bytes, why: str) -> None:
        """Something stays where it is."""
        self.left_count += 1
        if len(self.left) < LEFT_KEPT_MAX:
            self.left.append(Left(path, why))

    @property
    def inodes(self) -> int:
        """What the namespace gets."""
        return self.files + self.directories + self.others


# -- before anything is read ----------------------------------------------------------


def check_source(config: Config, source: Path) -> Path:
    """The directory's real path; CallerError if it cannot be adopted at all."""
    try:
        real = source.resolve(strict=True)
        here = os.stat(real)
    except OSError as error:
        raise CallerError(f"{source}: {error.strerror}") from error
    if not stat.S_ISDIR(here.st_mode):
        raise CallerError(f"{source}: found no directory, expected one to adopt")
    mount = Path(config.fuse.mount).resolve()
    if real == mount or mount in real.parents:
        raise CallerError(f"{real} is in the mount already; mv moves it there")
    _check_own(config, real)
    tier = Path(config.tier[0].path)
    if os.stat(tier).st_dev != here.st_dev:
        raise CallerError(f"{real} {elsewhere(tier, mount, real)}")
    return real


def elsewhere(tier: Path, mount: Path, source: Path) -> str:
    """What to do with files of another file system."""
    return (
        f"is on another file system than the cache tier {tier}: only what is on the same one can "
        f"be adopted; copy it: rsync -aHAX --sparse {source} {mount}/"
    )


def _check_own(config: Config, real: Path) -> None:
    """Directories that the system works with are no data."""
    own = {
        "tier.path": [Path(tier.path) for tier in config.tier],
        "namespace.path": [Path(config.namespace.path)],
        "catalog.path": [Path(config.catalog.path)],
        "run.path": [Path(config.run.path)],
        "library.path": [Path(library.path) for library in config.library],
        "policy.file": [Path(config.policy.file)],
        "fuse.mount": [Path(config.fuse.mount)],
        "care.stage": [Path(config.care.stage)] if config.care.stage else [],
    }
    for key, paths in own.items():
        for path in paths:
            used = path.resolve()
            if real == used or used in real.parents or real in used.parents:
                raise CallerError(
                    f"{real}: hsmfs itself uses {used} ({key}); adopt a directory apart from it"
                )


# -- the walk --------------------------------------------------------------------------


def look(source: Path) -> Found:
    """Count what is there; OSError only for the source itself."""
    below = Below(os.fsencode(source))
    try:
        found = Found(facts_of(below.root, b""))
        why = fault_of(found.top)
        if why:
            raise CallerError(f"{source}: {why}")
        for name, facts in walk(below, found):
            _count(found, name, facts)
        for names in found.shared.values():
            names.sort(key=lambda at: (at.folder, at.name))
        return found
    finally:
        below.close()


def walk(below: Below, found: Found) -> Iterator[tuple[AdoptName, Facts]]:
    """All that can be adopted, directories before what is in them; the rest is left."""
    pending = [b""]
    while pending:
        path = pending.pop()
        deeper = []
        for name in _names(below, path, found):
            whole = path + b"/" + name if path else name
            try:
                facts = facts_of(below.open(path), name)
            except FileNotFoundError:
                continue  # gone meanwhile
            except OSError as error:
                found.leave(whole, f"cannot be read: {error.strerror}")
                continue
            why = mount_fault(found, facts) or fault_of(facts)
            if why:
                found.leave(whole, why)
                continue
            if stat.S_ISDIR(facts.mode):
                deeper.append(whole)
            yield AdoptName(path, name), facts
        pending += reversed(deeper)


def _names(below: Below, path: bytes, found: Found) -> list[bytes]:
    try:
        return below.names(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        found.leave(path, f"directory cannot be read: {error.strerror}")
        return []


def mount_fault(found: Found, facts: Facts) -> str:
    """Why something mounted in the source stays out of it."""
    if facts.mount != found.top.mount or facts.dev != found.top.dev:
        return "something is mounted here; unmount it, or adopt what is mounted by itself"
    return ""


def fault_of(facts: Facts) -> str:
    """What forbids to take something out of its place; empty: nothing."""
    if facts.attributes & (ATTR_IMMUTABLE | ATTR_APPEND):
        return "immutable or append-only; say chattr -i -a (see lsattr)"
    if facts.attributes & ATTR_ENCRYPTED:
        return "encrypted by the file system; copy it into the mount"
    if facts.attributes & ATTR_VERITY:
        return "sealed by fs-verity: it could never be changed; copy it into the mount"
    return ""


def _count(found: Found, name: AdoptName, facts: Facts) -> None:
    if stat.S_ISDIR(facts.mode):
        found.directories += 1
        return
    if not stat.S_ISREG(facts.mode) and facts.nlink == 1:
        found.others += 1
        return
    if facts.nlink > 1:
        if found.shared_names >= SHARED_NAMES_MAX:
            raise CallerError(
                f"found more than {SHARED_NAMES_MAX} names of files with several names; "
                "adopt parts of it that have all names of such files"
            )
        found.shared_names += 1
        names = found.shared.setdefault(facts.ino, [])
        names.append(name)
        if len(names) > 1:
            return
    if stat.S_ISREG(facts.mode):
        found.files += 1
        found.data_bytes += facts.size
    else:
        found.others += 1


def shown(source: Path, path: bytes) -> str:
    """A path for a person."""
    return printable(os.fsdecode(os.fsencode(source) + (b"/" + path if path else b"")))
