"""The catalog: the one writer of the store of volumes, discs and copies.

Keys (big endian) and values::

    V label                      VolumeRecord
    K barcode                    DiscRecord
    G name                       MagazineRecord
    T id(8)                      TaskRecord
    E ino(8) data_version(4) label   ExtentRecord
    Y label 0x00 offset(8) ino(8)    data_version(4): contents of a volume, in disc order
    H barcode 0x00 time ns(8)    HistoryRecord: what happened to a disc
    Q kind(1) ino(8)             pool or b"": work asked for by hand ("m" or "r")
    S ino(8)                     SplitRecord: a file that is being burned in parts
    B day(4) pool                BurnDayRecord: discs burned on a day (since 1970-01-01, UTC)
    M name                       value: schema, next volume number, next task id, and the
                                 number of the namespace's journal up to which deaths are known;
                                 ``drives``: list of DriveRecord (out of service, or on trial)

Volumes, discs, magazines and tasks are few and kept in memory; extents are
read from the store. Every change is durable when its ``await`` returns.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
import trio

from hsmfs.daemon.catalogrecords import (
    BurnDayRecord,
    DiscRecord,
    DiscState,
    DriveRecord,
    ExtentRecord,
    HistoryRecord,
    MagazineRecord,
    MagazineState,
    SplitRecord,
    TaskRecord,
    VolumeRecord,
)
from hsmfs.daemon.coverage import copies_of
from hsmfs.errors import CallerError
from hsmfs.store.interface import Item, KVStore, Writer
from hsmfs.types import FileVersion

SCHEMA_VERSION: Final = 1
_FILE: Final = struct.Struct(">QI")
_U64: Final = struct.Struct(">Q")
_VERSION: Final = struct.Struct(">I")
_encode: Final = msgspec.msgpack.Encoder().encode
COUNTED: Final = (DiscState.VERIFIED, DiscState.IMPORTED)
START_TABLES: Final = (b"M", b"V", b"K", b"G", b"T", b"S", b"Q", b"B")
"""Tables that each start reads in full."""
DAY_NS: Final = 86_400 * 10**9
BURN_DAYS_MAX: Final = 400
"""Days of which burns are kept."""
EXTENTS_READ: Final = 1000
"""Of a volume, read at a time."""
HISTORY_MAX: Final = 500
"""Entries kept of one disc."""
_history_decode: Final = msgspec.msgpack.Decoder(HistoryRecord).decode
_extent_decode: Final = msgspec.msgpack.Decoder(ExtentRecord).decode

Change = Callable[[Writer], None]
AnyRecord = VolumeRecord | DiscRecord | MagazineRecord | TaskRecord | SplitRecord


def _after(prefix: bytes) -> bytes:
    """The first key after all keys that start with ``prefix``."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _contents_prefix(label: str) -> bytes:
    return b"Y" + label.encode() + b"\0"


class Catalog:
    """Few records in memory, many in the store; one writer."""

    def __init__(self, store: KVStore) -> None:
        self._store = store
        self._limiter = trio.CapacityLimiter(1)
        self.volumes: dict[str, VolumeRecord] = {}
        self.discs: dict[str, DiscRecord] = {}
        self.magazines: dict[str, MagazineRecord] = {}
        self.tasks: dict[int, TaskRecord] = {}
        self.drives: dict[str, DriveRecord] = {}
        """Out of service or on trial, by name."""
        self.splits: dict[int, SplitRecord] = {}
        """By inode."""
        self._next_volume = 1
        self._next_task = 1
        self._burned: dict[tuple[int, str], BurnDayRecord] = {}
        """By day and pool."""
        self._load()

    def _load(self) -> None:
        with self._store.snapshot() as reader:
            found = reader.get(b"Mschema")
            if found is not None and int(found) > SCHEMA_VERSION:
                raise CallerError(
                    f"catalog: found schema {int(found)}, expected at most {SCHEMA_VERSION}; "
                    "install the newer hsmfs that wrote it"
                )
            for value in _values(reader.scan(b"V", b"W")):
                volume = msgspec.msgpack.decode(value, type=VolumeRecord)
                self.volumes[volume.label] = volume
            for value in _values(reader.scan(b"K", b"L")):
                disc = msgspec.msgpack.decode(value, type=DiscRecord)
                self.discs[disc.barcode] = disc
            for value in _values(reader.scan(b"G", b"H")):
                magazine = msgspec.msgpack.decode(value, type=MagazineRecord)
                self.magazines[magazine.name] = magazine
            for value in _values(reader.scan(b"T", b"U")):
                task = msgspec.msgpack.decode(value, type=TaskRecord)
                self.tasks[task.id] = task
            for value in _values(reader.scan(b"S", b"T")):
                split = msgspec.msgpack.decode(value, type=SplitRecord)
                self.splits[split.ino] = split
            drives = reader.get(b"Mdrives")
            if drives is not None:
                records = msgspec.msgpack.decode(drives, type=list[DriveRecord])
                self.drives = {drive.name: drive for drive in records}
            for key, value in reader.scan(b"B", b"C"):
                day, pool = _VERSION.unpack_from(key, 1)[0], key[5:].decode()
                self._burned[day, pool] = msgspec.msgpack.decode(value, type=BurnDayRecord)
            self._next_volume = int(reader.get(b"Mnext_volume") or b"1")
            self._next_task = int(reader.get(b"Mnext_task") or b"1")

    async def transact(self, *changes: Change) -> None:
        """Apply the changes in one durable transaction."""

        def apply(writer: Writer) -> None:
            writer.put(b"Mschema", b"%d" % SCHEMA_VERSION)
            for change in changes:
                change(writer)

        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._store.transact, apply, limiter=self._limiter)

    async def save(self, *records: AnyRecord) -> None:
        """Make these records durable as they are now."""
        await self.transact(*[put_record(record) for record in records])

    async def forget_volume(self, label: str) -> None:
        """Drop a volume of which no disc holds anything."""
        self.volumes.pop(label, None)

        def drop(writer: Writer) -> None:
            writer.delete(b"V" + label.encode())

        await self.transact(drop)

    async def forget_split(self, split: SplitRecord) -> None:
        """All parts are counted, or it was given up."""
        self.splits.pop(split.ino, None)

        def drop(writer: Writer) -> None:
            writer.delete(b"S" + _U64.pack(split.ino))

        await self.transact(drop)

    async def forget_magazine(self, name: str) -> None:
        self.magazines.pop(name, None)

        def drop(writer: Writer) -> None:
            writer.delete(b"G" + name.encode())

        await self.transact(drop)

    def new_volume_label(self, site: str) -> tuple[str, Change]:
        """The next label, and the change that must go with its first use."""
        number = self._next_volume
        self._next_volume += 1
        following = b"%d" % self._next_volume
        return f"{site[:16]}-{number:06d}", lambda writer: writer.put(b"Mnext_volume", following)

    async def add_task(
        self,
        kind: str,
        text: str,
        magazine: str,
        now_ns: int,
        place: str = "",
        why: str = "",
        fill: Callable[[TaskRecord], object] = lambda task: None,
    ) -> TaskRecord:
        """A new operator task; ``fill`` completes it before anybody sees it."""
        task = TaskRecord(
            id=self._next_task, kind=kind, text=text, magazine=magazine, since_ns=now_ns,
            place=place, why=why,
        )  # fmt: skip
        fill(task)
        self._next_task += 1
        self.tasks[task.id] = task
        following = b"%d" % self._next_task
        await self.transact(put_record(task), lambda writer: writer.put(b"Mnext_task", following))
        return task

    # -- copies --------------------------------------------------------------

    def extents(self, file: FileVersion) -> list[tuple[str, ExtentRecord]]:
        """Every volume that holds this version, with where."""
        prefix = b"E" + _FILE.pack(file.ino, file.data_version)
        with self._store.snapshot() as reader:
            return [
                (key[len(prefix) :].decode(), _extent_decode(value))
                for key, value in reader.scan(prefix, _after(prefix))
            ]

    def contents(self, label: str, limit: int | None = None) -> list[tuple[FileVersion, int]]:
        """Files of a volume in disc order, each with its byte offset."""
        prefix = _contents_prefix(label)
        with self._store.snapshot() as reader:
            return [
                (FileVersion(*_ino_version(key, value)), _U64.unpack_from(key, len(prefix))[0])
                for key, value in reader.scan(prefix, _after(prefix), limit=limit)
            ]

    def volume_extents(self, label: str) -> VolumeExtents:
        """Of all files of a volume, in disc order; read as they are gone through, which
        blocks: use a worker thread."""
        return VolumeExtents(self._store, label)

    def volume_files(self, label: str) -> list[tuple[FileVersion, ExtentRecord]]:
        """The same with whose they are."""
        return list(self.volume_extents(label).files())

    def holders(self, inodes: Iterable[int]) -> dict[int, list[tuple[int, str]]]:
        """Version and label of each copy of any version of these; blocks."""
        with self._store.snapshot() as reader:
            return {
                ino: [
                    (_FILE.unpack_from(key, 1)[1], key[13:].decode())
                    for key, _ in reader.scan(b"E" + _U64.pack(ino), b"E" + _U64.pack(ino + 1))
                ]
                for ino in inodes
            }

    def number(self, name: str) -> int:
        """A number of the meta table; 0 where there is none yet."""
        with self._store.snapshot() as reader:
            return int(reader.get(b"M" + name.encode()) or b"0")

    def history(self, barcode: str) -> list[tuple[int, HistoryRecord]]:
        """What happened to a disc, each with its time (ns), oldest first."""
        prefix = _history_prefix(barcode)
        with self._store.snapshot() as reader:
            return [
                (_U64.unpack_from(key, len(prefix))[0], _history_decode(value))
                for key, value in reader.scan(prefix, _after(prefix))
            ]

    def verified_discs(self, label: str) -> list[DiscRecord]:
        """The proved discs of a volume; only these count as copies. Of a disc of others nothing
        but what was read before can be proved: it counts as it is. One whose magazine is missing
        does not count until it is found."""
        return [
            disc
            for disc in self.discs_of(label)
            if disc.state in COUNTED and not self.is_missing(disc)
        ]

    def is_missing(self, disc: DiscRecord) -> bool:
        """Whether nobody knows where its magazine is."""
        magazine = self.magazines.get(disc.magazine)
        return magazine is not None and magazine.state == MagazineState.MISSING

    def discs_of(self, label: str) -> list[DiscRecord]:
        return [disc for disc in self.discs.values() if disc.volume == label]

    def copies(self, file: FileVersion) -> int:
        """Verified copies of a version, counted anew from the records."""
        return copies_of(
            (extent, len(self.verified_discs(label))) for label, extent in self.extents(file)
        )

    # -- burns by day --------------------------------------------------------

    def count_burn(self, pool: str, now_ns: int, *, failed: bool = False) -> Change:
        """A disc is used up; the change that goes with what is known of it."""
        day = now_ns // DAY_NS
        record = self._burned.setdefault((day, pool), BurnDayRecord())
        record.discs += 1
        record.failed += failed
        for old in [key for key in self._burned if key[0] < day - BURN_DAYS_MAX]:
            del self._burned[old]
        key, value = b"B" + _VERSION.pack(day) + pool.encode(), _encode(record)
        stop = b"B" + _VERSION.pack(max(0, day - BURN_DAYS_MAX))

        def put(writer: Writer) -> None:
            for known in [known for known, _ in writer.scan(b"B", stop)]:
                writer.delete(known)
            writer.put(key, value)

        return put

    def burned_discs(self) -> list[tuple[int, str, int]]:
        """Day since 1970-01-01, pool and discs."""
        return [(day, pool, one.discs) for (day, pool), one in self._burned.items()]

    # -- work asked for by hand ----------------------------------------------

    async def ask(self, kind: str, inodes: Iterable[int], pool: str = "") -> None:
        """Remember work, so that it goes on after a restart."""
        keys = [kind.encode() + _U64.pack(ino) for ino in inodes]
        value = pool.encode()

        def put(writer: Writer) -> None:
            for key in keys:
                writer.put(b"Q" + key, value)

        await self.transact(put)

    async def answer(self, kind: str, inodes: Iterable[int]) -> None:
        """Forget work that was done or given up."""
        keys = [b"Q" + kind.encode() + _U64.pack(ino) for ino in inodes]

        def drop(writer: Writer) -> None:
            for key in keys:
                writer.delete(key)

        await self.transact(drop)

    def asked(self, kind: str) -> Iterator[tuple[int, str]]:
        """Inodes and pools of the work of one kind that is still open."""
        prefix = b"Q" + kind.encode()
        with self._store.snapshot() as reader:
            for key, value in reader.scan(prefix, _after(prefix)):
                yield _U64.unpack_from(key, len(prefix))[0], value.decode()


class VolumeExtents:
    """A volume's extents, gone through as often as one likes: some of them are in memory
    at a time, and no snapshot stays open while a disc is read beside."""

    def __init__(self, store: KVStore, label: str) -> None:
        self._store = store
        self._label = label.encode()
        self._prefix = _contents_prefix(label)

    def __iter__(self) -> Iterator[ExtentRecord]:
        return (extent for _, extent in self.files())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def files(self) -> Iterator[tuple[FileVersion, ExtentRecord]]:
        """With whose they are."""
        start = self._prefix
        while True:
            page = self._page(start)
            for _, file, extent in page:
                if extent is not None:
                    yield file, _extent_decode(extent)
            if len(page) < EXTENTS_READ:
                return
            start = page[-1][0] + b"\0"

    def _page(self, start: bytes) -> list[tuple[bytes, FileVersion, bytes | None]]:
        """Key, file and packed extent of the next ones."""
        with self._store.snapshot() as reader:
            page = []
            for key, value in reader.scan(start, _after(self._prefix), limit=EXTENTS_READ):
                ino, version = _ino_version(key, value)
                packed = reader.get(b"E" + _FILE.pack(ino, version) + self._label)
                page.append((key, FileVersion(ino, version), packed))
            return page


def put_history(barcode: str, time_ns: int, entry: HistoryRecord) -> Change:
    """The change that notes what happened; the oldest go beyond HISTORY_MAX."""
    prefix = _history_prefix(barcode)

    def put(writer: Writer) -> None:
        known = [key for key, _ in writer.scan(prefix, _after(prefix))]
        for key in known[: len(known) + 1 - HISTORY_MAX]:
            writer.delete(key)
        at = max(time_ns, _U64.unpack_from(known[-1], len(prefix))[0] + 1 if known else 0)
        writer.put(prefix + _U64.pack(at), _encode(entry))

    return put


def _history_prefix(barcode: str) -> bytes:
    return b"H" + barcode.encode() + b"\0"


def put_number(name: str, value: int) -> Change:
    """The change that stores a number in the meta table."""
    return lambda writer: writer.put(b"M" + name.encode(), b"%d" % value)


def record_item(record: AnyRecord) -> Item:
    """Key and value of a record as it is now."""
    match record:
        case VolumeRecord():
            key = b"V" + record.label.encode()
        case DiscRecord():
            key = b"K" + record.barcode.encode()
        case MagazineRecord():
            key = b"G" + record.name.encode()
        case TaskRecord():
            key = b"T" + _U64.pack(record.id)
        case SplitRecord():
            key = b"S" + _U64.pack(record.ino)
    return key, _encode(record)


def put_drives(drives: dict[str, DriveRecord]) -> Change:
    """All drives that are out of service or on trial."""
    value = _encode(list(drives.values()))
    return lambda writer: writer.put(b"Mdrives", value)


def put_record(record: AnyRecord) -> Change:
    """The change that stores a record as it is now."""
    key, value = record_item(record)
    return lambda writer: writer.put(key, value)


def extent_items(label: str, file: FileVersion, extent: ExtentRecord) -> tuple[Item, Item]:
    """Keys and values of one file version on a volume: by file, and by place."""
    coded = label.encode()
    by_file = b"E" + _FILE.pack(file.ino, file.data_version) + coded
    by_place = _contents_prefix(label) + _U64.pack(extent.offset) + _U64.pack(file.ino)
    return (by_file, _encode(extent)), (by_place, _VERSION.pack(file.data_version))


def extent_of(item: Item) -> tuple[FileVersion, str, ExtentRecord]:
    """Version, label and extent of an item of table E."""
    key, value = item
    return FileVersion(*_FILE.unpack_from(key, 1)), key[13:].decode(), _extent_decode(value)


def put_extents(label: str, extents: Iterable[tuple[FileVersion, ExtentRecord]]) -> Change:
    """The change that stores the contents of a volume; they are gone through again where the
    store has to begin anew."""

    def put(writer: Writer) -> None:
        for file, extent in extents:
            for key, value in extent_items(label, file, extent):
                writer.put(key, value)

    return put


def drop_extents(label: str, contents: Iterable[tuple[FileVersion, int]]) -> Change:
    """The change that forgets the contents of a volume: files and byte offsets."""
    listed = list(contents)

    def drop(writer: Writer) -> None:
        prefix, coded = _contents_prefix(label), label.encode()
        for file, offset in listed:
            writer.delete(b"E" + _FILE.pack(file.ino, file.data_version) + coded)
            writer.delete(prefix + _U64.pack(offset) + _U64.pack(file.ino))

    return drop


def _ino_version(key: bytes, value: bytes) -> tuple[int, int]:
    return _U64.unpack_from(key, len(key) - 8)[0], _VERSION.unpack(value)[0]


def _values(items: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    return (value for _, value in items)
