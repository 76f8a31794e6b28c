"""Rules, robots and drives."""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from pathlib import Path

from prometheus_client import CollectorRegistry

from hsmfs.changer.emulated.state import StateFile
from hsmfs.config import Config, Library
from hsmfs.daemon.equipment import open_equipment
from hsmfs.daemon.policyload import load_of
from hsmfs.runlock import holder
from hsmfs.tools.check.findings import Check, Level

Found = Iterator[tuple[Level, str, str]]


def checks(config: Config) -> list[Check]:
    """Each library has its own."""
    return [
        Check("policy", lambda: _policy(config)),
        *(Check(f"library {one.name}", _library(config, one)) for one in config.library),
    ]


def _policy(config: Config) -> Found:
    policy = load_of(config, Path(config.policy.file), None)
    if not policy.pools:
        yield (
            Level.FAULT,
            f"{config.policy.file}: no pool",
            'add: pool "main" { copies 2 spread magazine }',
        )
    for warning in (*policy.warnings, *policy.not_carried_out()):
        yield Level.NOTE, warning, "hsm policy check"
    for pool in policy.pools.values():
        if pool.copies < 2:
            yield (
                Level.NOTE,
                f"pool {pool.name}: one copy; a disc that fails loses its files",
                "copies 2, in different magazines",
            )


def _library(config: Config, library: Library) -> Callable[[], Found]:
    def look() -> Found:
        yield from _secret(library)
        devices = [library.changer, *(drive.device for drive in library.drive)]
        missing = list(_devices([device for device in devices if device]))
        yield from missing
        if library.kind == "emulated":
            StateFile(Path(library.path))
            yield Level.NOTE, "an emulated library: nothing is on discs", "for trying only"
        elif not missing and not library.path:
            yield from _answers(config, library)

    return look


def _secret(library: Library) -> Found:
    if not library.iscsi_secret_file:
        return
    mode = Path(library.iscsi_secret_file).stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield (
            Level.FAULT,
            f"{library.iscsi_secret_file} can be read by others",
            f"chmod 600 {library.iscsi_secret_file}",
        )


def _devices(devices: list[str]) -> Found:
    if any(device.startswith("iscsi:") for device in devices) and not find_library("iscsi"):
        yield Level.FAULT, "libiscsi is not installed", "apt-get install libiscsi7"
    if any(device.startswith("sgio:") for device in devices) and not _has("sgio"):
        yield Level.FAULT, "cython-sgio is not installed", "pip install 'hsmfs[sgio]', or use sg:"
    for device in devices:
        kind, _, path = device.partition(":")
        if kind not in ("sg", "sgio"):
            continue
        if not Path(path).exists():
            yield Level.FAULT, f"{path}: no such device", "modprobe sg; hsm library scan"
        elif not os.access(path, os.R_OK | os.W_OK):
            yield Level.FAULT, f"{path} is not open to user {os.geteuid()}", "run as root"


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _answers(config: Config, library: Library) -> Found:
    """Opens robot and drives, unless hsmd has them."""
    if holder(Path(config.run.path), "hsmd"):
        return
    equipment = open_equipment(library, CollectorRegistry())
    try:
        for unit in equipment.units:
            if not unit.alive:
                yield Level.FAULT, f"drive {unit.name}: {unit.note}", "hsm library scan"
    finally:
        equipment.close()
