"""Records of the catalog: what hsmd knows of volumes, discs and tasks.

Each value in the store is the msgpack of one of these structs, written as a
map, so that fields may be added. Keys are described in ``catalog.py``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from hsmfs.volume.discmark import MARK_SECTORS
from hsmfs.volume.source import ParityInfo


class DiscState(StrEnum):
    """What a disc holds, as far as it was proved."""

    BLANK = "blank"
    BURNING = "burning"
    BURNED = "burned"
    VERIFIED = "verified"
    SUSPECT = "suspect"
    DAMAGED = "damaged"
    FOREIGN = "foreign"
    IMPORTED = "imported"
    RETIRED = "retired"


DISC_TRANSITIONS: dict[DiscState, frozenset[DiscState]] = {
    DiscState.BLANK: frozenset(
        {DiscState.BURNING, DiscState.FOREIGN, DiscState.SUSPECT, DiscState.BURNED}
    ),
    DiscState.BURNING: frozenset({DiscState.BURNED, DiscState.SUSPECT, DiscState.BLANK}),
    DiscState.BURNED: frozenset(
        {DiscState.VERIFIED, DiscState.SUSPECT, DiscState.DAMAGED, DiscState.FOREIGN}
    ),
    DiscState.VERIFIED: frozenset({DiscState.DAMAGED, DiscState.RETIRED, DiscState.FOREIGN}),
    DiscState.DAMAGED: frozenset({DiscState.VERIFIED, DiscState.RETIRED, DiscState.FOREIGN}),
    DiscState.SUSPECT: frozenset(),
    DiscState.FOREIGN: frozenset({DiscState.BURNED, DiscState.IMPORTED}),
    DiscState.IMPORTED: frozenset({DiscState.FOREIGN}),
    DiscState.RETIRED: frozenset(),
}
"""A retired disc was replaced by a fresh one and is not used any more. A disc that was
cut or failed stays suspect for ever. One that turns out to be a copy of a known volume
counts as burned (it is proved like any other); one of others whose tree was imported is read
as it is, until the import is forgotten; then it is foreign again, as is one that was burned from an
image of others. None becomes blank again but one whose burn ended
before its first sector."""


class VolumeState(StrEnum):
    """How far a volume is on its way to enough verified copies."""

    PLANNED = "planned"
    BURNED = "burned"
    COMPLETE = "complete"
    SHORT = "short"
    FOREIGN = "foreign"
    """Imported from a disc of others; nothing is ever burned for it."""
    RETIRED = "retired"


class ImportStage(StrEnum):
    """How far the tree of a foreign volume is."""

    BURNING = "burning"
    """An image is burned to discs of ours first."""
    IMPORTING = "importing"
    DONE = "done"
    FORGETTING = "forgetting"


IMPORT_STAGES: dict[ImportStage, frozenset[ImportStage]] = {
    ImportStage.BURNING: frozenset({ImportStage.IMPORTING, ImportStage.FORGETTING}),
    ImportStage.IMPORTING: frozenset({ImportStage.DONE, ImportStage.FORGETTING}),
    ImportStage.DONE: frozenset({ImportStage.FORGETTING}),
    ImportStage.FORGETTING: frozenset(),
}


class ForeignInfo(msgspec.Struct, kw_only=True):
    """What a disc of others is, and where its tree stands."""

    format: str
    volume_id: str
    fingerprint: str
    """Of its descriptors and root directory: told again before the disc is read."""
    directory: bytes
    """From the root of the mount, as it was asked for."""
    barcode: str
    """Of the one disc; empty where an image was burned to discs of ours."""
    stage: ImportStage = ImportStage.IMPORTING
    why: str = ""
    """Why an import is taken back."""

    def become(self, stage: ImportStage) -> None:
        """Go on by the table; anything else is a bug."""
        if stage == self.stage:
            return
        if stage not in IMPORT_STAGES[self.stage]:
            raise AssertionError(f"import of {self.barcode}: {self.stage} may not become {stage}")
        self.stage = stage


class DiscRecord(msgspec.Struct, kw_only=True):
    barcode: str
    magazine: str
    position: int
    library: str
    state: DiscState = DiscState.BLANK
    volume: str = ""
    capacity_sectors: int = 0
    used_sectors: int = 0
    loads: int = 0
    read_errors: int = 0
    write_errors: int = 0
    burned_in: str = ""
    verified_in: str = ""
    verified_ns: int = 0
    is_numbered: bool = False
    """It has no barcode: its number is in the mark behind its volume."""
    is_marked: bool = False
    """Of a manual library: a person was told to write its number on it, and took it out."""
    note: str = ""
    quarantined_until_ns: int = 0
    """It is not used before; 0: it is in use."""
    quarantine_why: str = ""
    quarantines: int = 0
    """How often it was set aside since it was last released by hand."""

    @property
    def room_sectors(self) -> int:
        """What a volume on it may have; 0: not known."""
        mark = MARK_SECTORS if self.is_numbered else 0
        return max(0, self.capacity_sectors - mark)

    def become(self, state: DiscState) -> None:
        """Change state by the table; anything else is a bug."""
        if state == self.state:
            return
        if state not in DISC_TRANSITIONS[self.state]:
            raise AssertionError(f"disc {self.barcode}: {self.state} may not become {state}")
        self.state = state


class HistoryRecord(msgspec.Struct, kw_only=True):
    """Something that happened to a disc."""

    what: str
    """burn, verify, scrub, copy (burned from another disc's image), source (its image was
    read for one), quarantine, health (set aside, or to blame), retire, import,
    forget (its import), hash, moved (by a person), audit."""
    drive: str = ""
    volume: str = ""
    seconds: float = 0.0
    bytes: int = 0
    errors: int = 0
    text: str = ""


class VolumeRecord(msgspec.Struct, kw_only=True):
    label: str
    pool: str
    state: VolumeState = VolumeState.PLANNED
    copies: int = 2
    created_ns: int = 0
    files: int = 0
    bytes: int = 0
    total_sectors: int = 0
    image_xxh3: str = ""
    """Empty where it was never told: not burned yet, or taken in by hsm rebuild."""
    namespace_until: int = 0
    """The namespace's journal up to here is in this volume's set of changes, or before."""
    burn_attempts: int = 0
    refresh: list[str] = []
    """Barcodes of discs that are to be retired as soon as fresh ones are verified."""
    parity: ParityInfo | None = None
    """Of a parity volume: what it protects."""
    magazine: str = ""
    """Where a parity volume belongs."""
    foreign: ForeignInfo | None = None
    """Of a volume that others wrote."""
    dead_bytes: int = 0
    """Of deleted and changed files, as of ``dead_ns``."""
    read_ns: int = 0
    """When a disc of it served readers last; 0: never, or before that was kept."""
    read_heat: float = 0.0
    """How often that was, as of ``read_ns`` (``volumeheat.faded``)."""
    dead_ns: int = 0
    """When they were counted; 0: not yet, or files of it went since."""
    note: str = ""


class MagazineState(StrEnum):
    """Where a magazine is in its life."""

    BLANK = "blank"
    """In the library, and nothing is recorded on any of its discs."""
    LIBRARY = "library"
    MAILSLOT = "mailslot"
    """The robot laid its discs there for a person, or a person for the robot."""
    SHELF = "shelf"
    OFFSITE = "off-site"
    MISSING = "missing"
    """Nobody knows where: its discs are no copies until it is found."""


_INSIDE: frozenset[MagazineState] = frozenset({MagazineState.BLANK, MagazineState.LIBRARY})
_SEEN: frozenset[MagazineState] = _INSIDE | {MagazineState.MAILSLOT}
_OUTSIDE: frozenset[MagazineState] = frozenset({MagazineState.SHELF, MagazineState.OFFSITE})
MAGAZINE_TRANSITIONS: dict[MagazineState, frozenset[MagazineState]] = {
    MagazineState.BLANK: _SEEN | _OUTSIDE,
    MagazineState.LIBRARY: _SEEN | _OUTSIDE,
    MagazineState.MAILSLOT: _SEEN | _OUTSIDE,
    MagazineState.SHELF: _SEEN | _OUTSIDE | {MagazineState.MISSING},
    MagazineState.OFFSITE: _SEEN | _OUTSIDE | {MagazineState.MISSING},
    MagazineState.MISSING: _SEEN | _OUTSIDE,
}
"""Only one that is outside can be missing: what element status shows is there. From the library
back to blank goes one whose only burn ended before its first sector."""
EVENTS_MAX = 100
"""Kept of one magazine; the oldest go."""


class MagazineEvent(msgspec.Struct, kw_only=True):
    """Something that happened to a magazine."""

    time_ns: int
    state: MagazineState
    """From then on."""
    location: str = ""
    text: str = ""


class MagazineRecord(msgspec.Struct, kw_only=True):
    name: str
    library: str
    first_slot: int
    """Element address of the first slot it stands in, or stood in last."""
    present: bool = True
    """Whether it stands in slots; follows ``state``."""
    exporting: bool = False
    tray: str = ""
    location: str = ""
    """Where it stands outside of the library, in words."""
    offsite: bool = False
    """Meant for another place: off-site copies are burned to its discs."""
    state: MagazineState | None = None
    """None only in records of older versions, until they are read."""
    history: list[MagazineEvent] = []

    def __post_init__(self) -> None:
        if self.state is None:
            self.state = MagazineState.LIBRARY if self.present else self.outside
        self.present = self.state in _INSIDE

    @property
    def outside(self) -> MagazineState:
        """What it is while it is not in the library."""
        return MagazineState.OFFSITE if self.offsite else MagazineState.SHELF

    @property
    def is_seen(self) -> bool:
        """Whether element status shows it."""
        return self.state in _SEEN

    @property
    def since_ns(self) -> int:
        """When it came into its present state; 0: before that was kept."""
        return self.history[-1].time_ns if self.history else 0

    def become(
        self, state: MagazineState, now_ns: int, text: str = "", location: str | None = None
    ) -> bool:
        """Change state by the table, and where it stands; whether anything changed.

        A change that is not in the table is a bug. In the library there is no other place.
        """
        place = self.location if location is None else location
        if state in _SEEN or (location is None and self.state in _SEEN):
            place = ""
        if state == self.state and place == self.location:
            return False
        assert self.state is not None
        if state != self.state and state not in MAGAZINE_TRANSITIONS[self.state]:
            raise AssertionError(f"magazine {self.name}: {self.state} may not become {state}")
        self.state, self.location, self.present = state, place, state in _INSIDE
        event = MagazineEvent(time_ns=now_ns, state=state, location=place, text=text)
        self.history = [*self.history, event][-EVENTS_MAX:]
        return True


class DriveRecord(msgspec.Struct, kw_only=True):
    """A drive that is out of service, or is tried again."""

    name: str
    until_ns: int = 0
    why: str = ""
    times: int = 0
    """How often it was taken out since it last worked well."""
    trial: bool = False
    """It is back; the next fault takes it out at once."""


class TaskRecord(msgspec.Struct, kw_only=True):
    id: int
    kind: str
    text: str
    magazine: str
    since_ns: int
    done_ns: int = 0
    place: str = ""
    """Where it is to be done, in words."""
    why: str = ""
    problem: str = ""
    """What was done instead, as element status shows it."""
    drive: str = ""
    """The fields from here on are of tasks at a drive of a manual library."""
    take: str = ""
    """Disc to be taken out: its number, or what it is in words."""
    write: str = ""
    """To be written on it, with a pen."""
    box: str = ""
    """Where it is to be put."""
    put: str = ""
    """Number of the disc to be put in; ``blank`` for a blank one."""
    put_box: str = ""
    blank_bytes: int = 0
    """What the blank disc must hold at least."""
    volume: str = ""
    """What it is for."""
    found: str = ""
    """What was put in, and is not what is wanted."""


class BurnDayRecord(msgspec.Struct, kw_only=True):
    """Discs that one pool used up in one day."""

    discs: int = 0
    """Burned, those that failed too."""
    failed: int = 0


class ExtentRecord(msgspec.Struct, kw_only=True, array_like=True):
    """Where one file version, or one part of it, lies on every disc of one volume.

    A volume has at most one part of a file version.
    """

    offset: int
    """Byte on the disc."""
    size: int
    """Bytes that are here."""
    xxh3_128: str
    sha256: str
    chunks: list[int]
    """XXH3 of 64 bits of each 4 MiB; of a disc of others empty, or -1 for a chunk that was never
    read yet."""
    path: str
    start: int = 0
    """First byte of the file that is here; a multiple of 4 MiB."""
    total: int = 0
    """Size of the whole file; 0: all of it is here."""
    runs: list[tuple[int, int]] = []
    """Byte on the disc (-1: a hole, zeros) and length of each run, in file order; empty: one run
    at ``offset``."""


class SplitRecord(msgspec.Struct, kw_only=True):
    """A file that is larger than a disc, on its way into several volumes."""

    ino: int
    data_version: int
    pool: str
    names: list[bytes]
    """Its paths when the first part was planned; all parts are called by the same."""
    total: int
    part_bytes: int
    """Of each part but the last; a multiple of 4 MiB."""
    labels: list[str]
    """Volume of each part; empty where it is still to be planned."""
    wanted_labels: list[str] = []
    """What the volumes are to be called: each part names the volumes of all."""
    sha256: str = ""
    """Of the whole file; no part is planned before it is known."""
    chunks: str = ""
    """Sum of the hashes of all its chunks, see wholehash.py."""

    @property
    def next_part(self) -> int:
        """The first part without a volume, from 1; 0 where all have one."""
        return self.labels.index("") + 1 if "" in self.labels else 0


class AlarmRecord(msgspec.Struct, kw_only=True):
    kind: str
    text: str
    since_ns: int
    count: int = 1
