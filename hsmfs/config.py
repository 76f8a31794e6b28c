"""The one configuration file: TOML, typed, checked when loaded."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from hsmfs.errors import ConfigError

DEFAULT_PATH: Final = Path("/etc/hsmfs/hsmfs.toml")

Positive = Annotated[int, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all tables of the file: unknown keys are errors."""


class Site(Section):
    id: Name


class Namespace(Section):
    path: str
    commit_interval_ms: Positive = 50
    map_bytes: Positive = 1 << 40
    journal_records_max: Positive = 1_000_000


class Tier(Section):
    name: Name
    path: str
    reserve_bytes: NotNegative = 1 << 30
    capacity_bytes: NotNegative = 0
    """0: the whole file system that the directory is on."""


class Fuse(Section):
    mount: str
    session: Literal["pyfuse3", "native"] = "pyfuse3"
    allow_other: bool = True
    attr_timeout_s: Seconds = 60.0
    entry_timeout_s: Seconds = 60.0
    worker_threads_max: Positive = 16


class Recall(Section):
    recall_timeout_s: Seconds = 600.0
    """How long a reader waits while hsmd or the library is down."""
    offline_wait_s: Seconds = 86_400.0
    """How long a reader waits for a magazine on the shelf."""
    hold_s: Seconds = 5.0
    """How long an idle disc stays in its drive while others want it."""
    queue_files_max: Positive = 1_000_000


class Burn(Section):
    burn_max_wait_s: Seconds = 604_800.0
    buffer_bytes: Positive = 64 * 1024 * 1024
    """Bound of what one drive may lag behind the others of a burn."""
    attempts_max: Positive = 3
    """Fresh discs tried for one copy of a volume before it is given up."""


class Catalog(Section):
    path: str
    map_bytes: Positive = 1 << 38


class Policy(Section):
    file: str
    interval_s: Annotated[float, Meta(gt=0)] = 60.0


class Library(Section):
    name: Name
    kind: Literal["emulated"]
    path: str
    magazine_slots: Positive = 12
    speed: Literal["instant", "realistic"] = "instant"
    load_timeout_s: Seconds = 120.0


class Run(Section):
    """Sockets: hsmfs.sock (RPC), hsmd.sock (API), hsmfs-metrics.sock."""

    path: str
    metrics_hsmfs_bind: str = ""
    """Optional host:port for hsmfs's /metrics; empty: unix socket only."""
    metrics_hsmd_bind: str = ""


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = False


class Config(Section):
    site: Site
    namespace: Namespace
    catalog: Catalog
    tier: Annotated[list[Tier], Meta(min_length=1)]
    fuse: Fuse
    policy: Policy
    library: list[Library]
    run: Run
    recall: Recall = Recall()
    burn: Burn = Burn()
    log: Log = Log()
