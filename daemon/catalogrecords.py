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
    read for one), quarantine, retire, import, forget (its import), hash."""
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
    dead_ns: int = 0
    """When they were counted; 0: not yet, or files of it went since."""
    note: str = ""


class MagazineRecord(msgspec.Struct, kw_only=True):
    name: str
    library: str
    first_slot: int
    """Element address of the first slot it stands in, or stood in last."""
    present: bool = True
    exporting: bool = False
    tray: str = ""
    location: str = ""
    """Where it stands outside of the library, in words."""
    offsite: bool = False
    """Meant for another place: off-site copies are burned to its discs."""


class TaskRecord(msgspec.Struct, kw_only=True):
    id: int
    kind: str
    text: str
    magazine: str
    since_ns: int
    done_ns: int = 0
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

    @property
    def next_part(self) -> int:
        """The first part without a volume, from 1; 0 where all have one."""
        return self.labels.index("") + 1 if "" in self.labels else 0


class AlarmRecord(msgspec.Struct, kw_only=True):
    kind: str
    text: str
    since_ns: int
    count: int = 1
