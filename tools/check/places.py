"""Directories: stores, cache tiers, mount point, sockets; their file systems and speed."""

from __future__ import annotations

import grp
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from hsmfs import configload
from hsmfs.config import Config
from hsmfs.session import mounting
from hsmfs.session.interface import FS_TYPE
from hsmfs.tools.check.findings import Check, Level
from hsmfs.tools.output import size_words

Found = Iterator[tuple[Level, str, str]]
Look = Callable[[], Found]
REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "afs"})
VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
GOOD: Final = frozenset({"ext4", "xfs", "btrfs"})
STORE_FREE_MIN: Final = 1 << 30
SPEED_BYTES: Final = 32 << 20
SPEED_MIN: Final = 50e6
"""Bytes a second, written and synced: a burner alone takes 36."""
SYNC_MAX_S: Final = 0.05
SYNCS: Final = 5
RUN_SOCKET_BYTES_MAX: Final = 107


def checks(config: Config, file: Path) -> list[Check]:
    """In the order of the configuration."""
    stores = [("namespace", config.namespace.path), ("catalog", config.catalog.path)]
    found = [Check("directories", lambda: _paths(config, file))]
    found += [Check(f"{name} store", _store(path)) for name, path in stores]
    found += [
        Check(f"tier {tier.name}", _tier(Path(tier.path), tier.reserve_bytes))
        for tier in config.tier
    ]
    return [
        *found,
        Check("stage", lambda: _stage(config)),
        Check("mount point", lambda: _mount(config)),
        Check("sockets", lambda: _sockets(config)),
    ]


def _paths(config: Config, file: Path) -> Found:
    configload.check_paths(config, file)
    yield from ()


def fs_type_of(path: Path) -> str:
    """Of the file system that a path, or what is there of it, is on."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    mount = there.resolve()
    while not os.path.ismount(mount):
        mount = mount.parent
    mounted = mounting.mounted_at(mount)
    return mounted.fs_type if mounted is not None else ""


def _store(path: str) -> Look:
    def look() -> Found:
        place = Path(path)
        kind = fs_type_of(place)
        if kind in REMOTE:
            yield Level.FAULT, f"{path} is on {kind}", "LMDB needs a local disk: ext4 or xfs"
        if kind in VOLATILE:
            yield Level.FAULT, f"{path} is on {kind}: gone at the next start", "put it on a disk"
        there = place if place.exists() else place.parent
        free = shutil.disk_usage(there).free
        if free < STORE_FREE_MIN:
            yield Level.FAULT, f"{path}: {size_words(free)} free", "make room: 1 GB at least"
        if place.exists() and place.stat().st_mode & 0o007:
            yield Level.NOTE, f"{path} is open to all users", f"chmod o-rwx {path}"
        if os.access(there, os.W_OK):
            delay_s = _sync_s(there)
            if delay_s > SYNC_MAX_S:
                yield (
                    Level.NOTE,
                    f"{path}: a write that must be durable takes {delay_s * 1e3:.0f} ms",
                    "put the store on an SSD: each fsync of a program waits for it",
                )
        else:
            yield Level.FAULT, f"{there} cannot be written", f"run as root, or chown {there}"

    return look


def _tier(path: Path, reserve_bytes: int) -> Look:
    def look() -> Found:
        if not path.is_dir():
            yield Level.FAULT, f"{path} is no directory", f"mkdir -p {path}, or mount its disk"
            return
        kind = fs_type_of(path)
        if kind in REMOTE | VOLATILE:
            yield Level.FAULT, f"{path} is on {kind}", "a tier needs a local disk: ext4 or xfs"
        elif kind not in GOOD:
            yield Level.NOTE, f"{path} is on {kind}", "tried are ext4 and xfs"
        if not os.access(path, os.W_OK):
            yield Level.FAULT, f"{path} cannot be written", f"run as root, or chown {path}"
            return
        usage = shutil.disk_usage(path)
        if usage.total <= reserve_bytes:
            yield (
                Level.FAULT,
                f"{path}: reserve_bytes is {size_words(reserve_bytes)}, the disk has "
                f"{size_words(usage.total)}",
                "make tier.reserve_bytes smaller",
            )
        elif usage.free <= reserve_bytes:
            yield (
                Level.FAULT,
                f"{path}: {size_words(usage.free)} free, reserve_bytes is "
                f"{size_words(reserve_bytes)}: writers get ENOSPC",
                "hsm policy run, hsm release, or a larger disk",
            )
        elif usage.free > 2 * SPEED_BYTES + reserve_bytes:
            rate = _rate(path)
            if rate < SPEED_MIN:
                yield Level.NOTE, f"{path} writes {size_words(rate)}/s", "a faster disk feeds burns"

    return look


def _stage(config: Config) -> Found:
    stage = Path(config.care.stage) if config.care.stage else Path(config.catalog.path).parent
    if config.care.stage and not stage.is_dir():
        yield Level.FAULT, f"care.stage: {stage} is no directory", f"mkdir -p {stage}"
        return
    free = shutil.disk_usage(stage).free if stage.exists() else 0
    needed = max((library.disc_bytes for library in config.library if library.kind == "manual"),
                 default=25_025_314_816)  # fmt: skip
    if config.care.repair and free < needed:
        yield (
            Level.NOTE,
            f"{stage}: {size_words(free)} free where images of discs are put together",
            f"set care.stage to a place with {size_words(needed)} or more (two discs for parity)",
        )


def _mount(config: Config) -> Found:
    mount = Path(config.fuse.mount)
    there = mounting.mounted_at(mount)
    if there is not None and there.fs_type == f"fuse.{FS_TYPE}":
        try:
            os.statvfs(mount)
        except OSError:
            yield (
                Level.FAULT,
                f"{mount}: a dead mount of hsmfs",
                f"umount -l {mount}; the next start of hsmfs does it, too",
            )
        return
    configload.check_mount(config)
    if there is not None:
        yield Level.FAULT, f"{mount}: {there.fs_type} is mounted there", f"umount {mount}"
    elif any(mount.iterdir()):
        yield Level.FAULT, f"{mount} is not empty: what is in it would be hidden", "move it away"


def _sockets(config: Config) -> Found:
    run = Path(config.run.path)
    if len(os.fsencode(run / "hsmfs-metrics.sock")) > RUN_SOCKET_BYTES_MAX:
        yield Level.FAULT, f"run.path: {run} is too long for a socket", "choose a shorter one"
    there = run if run.exists() else run.parent
    if not os.access(there, os.W_OK):
        yield Level.FAULT, f"run.path: {there} cannot be written", "systemd-tmpfiles --create"
    if config.run.group:
        try:
            grp.getgrnam(config.run.group)
        except KeyError:
            group = config.run.group
            yield Level.FAULT, f"run.group: no group {group}", f"groupadd --system {group}"
    for key in ("metrics_hsmfs_bind", "metrics_hsmd_bind"):
        yield from _bind(key, getattr(config.run, key), run)


def _bind(key: str, bind: str, run: Path) -> Found:
    if not bind:
        return
    host, _, port = bind.rpartition(":")
    if host.strip("[]") in ("0.0.0.0", "::", ""):
        yield Level.NOTE, f"run.{key}: {bind} is open to every network", "bind one address"
    own = run / ("hsmfs-metrics.sock" if "hsmfs" in key else "hsmd.sock")
    if own.exists():
        return  # it is ours that listens there
    try:
        with socket.create_server((host.strip("[]"), int(port))):
            pass
    except (OSError, ValueError) as error:
        yield Level.FAULT, f"run.{key}: {bind}: {error}", "choose another, or stop what uses it"


def _sync_s(directory: Path) -> float:
    """Median of some small durable writes."""
    path = directory / f".hsm-check-{secrets.token_hex(4)}"
    times = []
    try:
        with path.open("wb") as file:
            for _ in range(SYNCS):
                started = time.perf_counter()
                file.write(bytes(4096))
                file.flush()
                os.fdatasync(file.fileno())
                times.append(time.perf_counter() - started)
    finally:
        path.unlink(missing_ok=True)
    return sorted(times)[SYNCS // 2]


def _rate(directory: Path) -> float:
    """Bytes a second of a file that is written and synced."""
    path = directory / f".hsm-check-{secrets.token_hex(4)}"
    piece = os.urandom(1 << 20)
    started = time.perf_counter()
    try:
        with path.open("wb") as file:
            for _ in range(SPEED_BYTES // len(piece)):
                file.write(piece)
            file.flush()
            os.fdatasync(file.fileno())
        return SPEED_BYTES / (time.perf_counter() - started)
    finally:
        path.unlink(missing_ok=True)
