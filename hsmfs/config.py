"""The shape of the one configuration file: its tables, keys, types and defaults.

``hsmfs.configload`` reads it; docs/configure.md describes each key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

DEFAULT_PATH: Final = Path("/etc/hsmfs/hsmfs.toml")

Positive = Annotated[int, Meta(gt=0)]
NotNegative = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]
DEVICE: Final = re.compile(r"(?:sg|sgio):/dev/[^\0]+|iscsi://[^/\s]+/[^/\s]+/[0-9]{1,5}")
DEVICE_FORMS: Final = 'a device such as "sg:/dev/sg3" or "iscsi://HOST:PORT/TARGET/LUN"'
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all tables of the file: unknown keys are errors."""


class Site(Section, frozen=True):
    """Which system this is."""

    id: Name


class Namespace(Section, frozen=True):
    """Where hsmfs keeps names, inodes and states."""

    path: str
    commit_interval_ms: Positive = 50
    map_bytes: Positive = 1 << 40
    journal_records_max: Positive = 1_000_000


class Tier(Section, frozen=True):
    """A directory for cached data; tiers stand in order of speed."""

    name: Name
    path: str
    reserve_bytes: NotNegative = 1 << 30
    capacity_bytes: NotNegative = 0
    """0: the whole file system that the directory is on."""


class Quota(Section, frozen=True):
    """What a directory tree may hold."""

    path: str
    """Of a directory, from the mount's root; made if it is not there."""
    bytes_max: NotNegative = 0
    """Sizes of regular files; 0: without bound."""
    files_max: NotNegative = 0
    """Inodes of every type; 0: without bound."""


class Fuse(Section, frozen=True):
    """The mount."""

    mount: str
    session: Literal["pyfuse3", "native"] = "native"
    options: list[str] = []
    """Further options of mount(8): ro, noatime, dev, suid, noexec, sync."""
    allow_other: bool = True
    attr_timeout_s: Seconds = 86_400.0
    """How long the kernel may use what it knows: nobody else changes the tree."""
    entry_timeout_s: Seconds = 86_400.0
    worker_threads_max: Positive = 16
    spin_us: Annotated[int, Meta(ge=0, le=1000)] = 0
    """How long the native session looks for the next request before it sleeps."""


class Recall(Section, frozen=True):
    """How long readers wait, and for what."""

    recall_timeout_s: Seconds = 600.0
    """How long a reader waits while hsmd or the library is down."""
    offline_wait_s: Seconds = 86_400.0
    """How long a reader waits for a magazine on the shelf."""
    hold_s: Seconds = 1.0
    """How long an idle disc stays in its drive while others want it."""
    readers_wait_max_s: Annotated[float, Meta(gt=0)] = 3_600.0
    """Readers that waited for half of this go before all others, the longest waiting first."""
    bulk_wait_max_s: Annotated[float, Meta(gt=0)] = 28_800.0
    """The same for recalls by hand."""
    background_wait_max_s: Annotated[float, Meta(gt=0)] = 86_400.0
    """The same for recalls by hand with ``--background``."""
    turn_s: Seconds = 120.0
    """How long a disc is read at least before it makes room for discs that others wait for."""
    spare_s: Seconds = 30.0
    """How long a recall waits for a drive that reads, rather than send away a disc that is wanted
    twice as often as the one being read."""
    gather_s: Seconds = 300.0
    """How long a recall by hand waits for others of its disc while the robot is busy."""
    equal_s: Seconds = 300.0
    """Recalls by hand that waited so long go with readers."""
    reserved_percent: Annotated[float, Meta(ge=0, lt=100)] = 25.0
    """Drives, rounded down, that burns, proofs and scrubs leave to recalls."""
    queue_files_max: Positive = 1_000_000


class Burn(Section, frozen=True):
    """How volumes are burned."""

    burn_max_wait_s: Seconds = 604_800.0
    buffer_bytes: Positive = 64 * 1024 * 1024
    """Bound of what one drive may lag behind the others of a burn."""
    slow_drive_s: Annotated[float, Meta(gt=0)] = 120.0
    """A drive that takes no data for so long while the others of its burn wait is left out."""
    floor_percent: Annotated[float, Meta(ge=0, le=100)] = 20.0
    """Share of drive time that burns and proofs get while recalls wait."""
    floor_wait_s: Seconds = 600.0
    """A burn or proof that waited for so long claims the floor."""
    stop_wait_s: Seconds = 7200.0
    """At SIGTERM burns under way are finished, for so long at most."""
    attempts_max: Positive = 3
    """Fresh discs tried for one copy of a volume before it is given up."""
    previous_manifests: Annotated[int, Meta(ge=0, le=1000)] = 16
    """Manifests of the pool's last volumes that each disc repeats, in 1 % of its room."""
    udf: Literal["2.50", "2.01"] = "2.50"
    """Of new volumes; 2.01 is for old readers, and holds metadata only once."""


class Care(Section, frozen=True):
    """How discs are looked after."""

    repair: bool = True
    """Volumes with fewer proved copies than their pool wants get fresh discs."""
    scrub_years: Annotated[float, Meta(ge=0)] = 2.0
    """Each disc is read again once in so long, in idle drives; 0: never."""
    scrub_percent: Annotated[float, Meta(gt=0, le=100)] = 100.0
    """How much of a disc's data is read each time, chosen by chance; 100: every sector."""
    parity: Annotated[int, Meta(ge=0, le=2)] = 0
    """Parity discs of each magazine: so many of its discs may be lost and are made anew."""
    disc_recovery_percent: Annotated[float, Meta(ge=0, le=50)] = 0.0
    """Recovery data inside each volume, as a share of its data; 0: none."""
    offsite_days: Annotated[float, Meta(ge=0)] = 30.0
    """A magazine for off-site copies should leave when its oldest volume is so old, also when
    it is not full; 0: only when it is full."""
    blanks_days_min: Annotated[float, Meta(ge=0)] = 14.0
    """An alarm is raised when blank discs end sooner than that, at the rate of late; 0: never."""
    blanks_rate_days: Annotated[float, Meta(gt=0, le=400)] = 30.0
    """That rate is of the burns of so many days."""
    reclaim_blanks_min: NotNegative = 4
    """So many blank discs stay in the library when volumes are reclaimed by themselves."""
    stage: str = ""
    """Directory with room for the image of a disc or two; empty: beside the catalog's store."""


class Health(Section, frozen=True):
    """When drives and discs are out of use for a time."""

    drive_errors_max: Positive = 3
    """Faults in a row that take a drive out of service; twice as many of one disc alone."""
    drive_bugs_max: Positive = 3
    """Jobs of a drive that may end in a way nobody thought of."""
    drive_rest_s: Seconds = 5.0
    """After a fault the other drives go first for so long, twice as long after each in a row."""
    drive_quarantine_s: Seconds = 3600.0
    """Then it is tried again; a fault then takes it out for twice as long."""
    disc_quarantine_s: Seconds = 3600.0
    """Of a blank disc that failed in two drives, or twice."""
    quarantine_max_s: Seconds = 604_800.0
    """The longest time, a week."""


class Catalog(Section, frozen=True):
    """Where hsmd keeps volumes, discs and copies."""

    path: str
    map_bytes: Positive = 1 << 38


class Policy(Section, frozen=True):
    """The file of rules."""

    file: str
    interval_s: Annotated[float, Meta(gt=0)] = 60.0


class Access(Section, frozen=True):
    """The access log, for ``hsm policy whatif``."""

    path: str = ""
    """Its directory; empty: ``access`` beside the namespace."""
    bytes_max: NotNegative = 1 << 28
    """Of all segments; 32 bytes for each open. 0: nothing is recorded."""


class LibraryDrive(Section, frozen=True):
    """One drive of a real library."""

    device: str
    element: int = -1
    """Address of its element, where the library does not tell the drive's serial; -1: it tells."""
    serial: str = ""
    """The serial number it must have; empty: any."""


class Library(Section, frozen=True):
    """One robot with its drives and slots, or drives and a person."""

    name: Name
    kind: Literal["emulated", "scsi", "manual"]
    path: str = ""
    """Directory of an emulated library, or of a manual library's emulated drives."""
    changer: str = ""
    """Device of a SCSI library's robot."""
    serial: str = ""
    """The serial number it must have; empty: any."""
    drive: list[LibraryDrive] = []
    iscsi_user: str = ""
    iscsi_secret_file: str = ""
    """File with the CHAP secret of ``iscsi_user``, for all iSCSI devices of the library."""
    magazine_slots: Positive = 12
    boxes: Annotated[list[Name], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["A", "B"]
    )
    """Of a manual library: where discs are kept, apart from each other."""
    disc_bytes: Annotated[int, Meta(ge=4_000_000)] = 25_025_314_816
    """Of a manual library's blank discs."""
    speed: Literal["instant", "realistic"] = "instant"
    load_timeout_s: Seconds = 120.0


class Run(Section, frozen=True):
    """Sockets: hsmfs.sock (RPC), hsmd.sock (API), hsmfs-metrics.sock."""

    path: str
    metrics_hsmfs_bind: str = ""
    """Optional host:port for hsmfs's /metrics; empty: unix socket only."""
    metrics_hsmd_bind: str = ""
    group: str = ""
    """Its members may use hsmd's socket, and so ``hsm``; empty: root alone."""


class Log(Section, frozen=True):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json: bool = False


class Config(Section, frozen=True):
    """The whole file."""

    site: Site
    namespace: Namespace
    catalog: Catalog
    tier: Annotated[list[Tier], Meta(min_length=1)]
    fuse: Fuse
    policy: Policy
    library: list[Library]
    run: Run
    access: Access = Access()
    recall: Recall = Recall()
    burn: Burn = Burn()
    care: Care = Care()
    health: Health = Health()
    quota: list[Quota] = []
    log: Log = Log()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word, empty if nothing known is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else ""
