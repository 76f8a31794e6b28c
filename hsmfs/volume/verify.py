"""Prove a volume: all that is on it twice, the tree, every file's hashes.

Problems are texts that name sector or path; MediumError is raised only where
there is no volume at all. All are generators: who reads them sets the bound.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from hsmfs.errors import MediumError
from hsmfs.types import CHUNK_BYTES, SECTOR_BYTES
from hsmfs.volume import parse
from hsmfs.volume.descriptor import TAG_BYTES, TagId
from hsmfs.volume.geometry import INTEGRITY_SECTOR, RECOGNITION_SECTOR, SEQUENCE_SECTORS
from hsmfs.volume.hashes import FileHashes
from hsmfs.volume.manifest import FileResult
from hsmfs.volume.manifestread import ManifestEntry
from hsmfs.volume.mount import SEQUENCE_TAGS, Mount, Read, anchor_at, anchor_sectors, exactly
from hsmfs.volume.pathtable import PathTable
from hsmfs.volume.reader import READ_SECTORS, README_PATH, VolumeReader, WalkEntry
from hsmfs.volume.sequence import recognition


def verify_image(read: Read, total_sectors: int) -> Iterator[str]:
    """Every problem of a volume; reads all of it."""
    reader = VolumeReader(read, total_sectors)
    yield from duplicate_problems(read, total_sectors)
    yield from tree_problems(reader)
    yield from hash_problems(reader)


# -- what is there twice -------------------------------------------------------------------


def duplicate_problems(read: Read, total_sectors: int) -> Iterator[str]:
    """Anchors, descriptor sequences and metadata, each against its other copy; and what other
    readers need, recognition and integrity."""
    yield from _structure_problems(read)
    try:
        mount = Mount(read, total_sectors)
    except MediumError as error:
        yield str(error)
        return
    for sector in anchor_sectors(total_sectors):
        try:
            anchor_at(read, sector)
        except MediumError as error:
            yield str(error)
    yield from _sequence_problems(read, mount)
    yield from _metadata_problems(read, mount)


def _structure_problems(read: Read) -> Iterator[str]:
    try:
        if exactly(read, RECOGNITION_SECTOR, 3) != recognition():
            yield f"sector {RECOGNITION_SECTOR}: volume recognition: found other bytes than UDF's"
    except MediumError as error:
        yield f"volume recognition: {error}"
    places = ((INTEGRITY_SECTOR, TagId.INTEGRITY), (INTEGRITY_SECTOR + 1, TagId.TERMINATING))
    for sector, ident in places:
        try:
            where = f"sector {sector}: logical volume integrity"
            parse.tag_of(exactly(read, sector, 1), sector, {ident}, where)
        except MediumError as error:
            yield str(error)


def _sequence_problems(read: Read, mount: Mount) -> Iterator[str]:
    copies: list[dict[int, bytes]] = []
    for start, _ in mount.sequences():
        found: dict[int, bytes] = {}
        copies.append(found)
        for sector in range(start, start + SEQUENCE_SECTORS):
            where = f"sector {sector}: volume descriptor"
            try:
                data = exactly(read, sector, 1)
                ident = parse.tag_of(data, sector, SEQUENCE_TAGS, where)
            except MediumError as error:
                yield str(error)
                continue
            found[ident] = data[TAG_BYTES:]
            if ident == TagId.TERMINATING:
                break
    for ident in sorted(set.intersection(*map(set, copies))):
        if len({found[ident] for found in copies}) > 1:
            yield f"volume descriptor {ident}: main and reserve sequence differ"


def _metadata_problems(read: Read, mount: Mount) -> Iterator[str]:
    copies = []
    for block in mount.metadata_entry_blocks():
        try:
            copies.append(mount.metadata_extent(block))
        except MediumError as error:
            yield str(error)
    if len(copies) < 2:
        return
    (main, main_sectors), (mirror, mirror_sectors) = copies
    if main_sectors != mirror_sectors:
        yield f"metadata has {main_sectors} sectors, its mirror {mirror_sectors}"
    sectors = min(main_sectors, mirror_sectors)
    for first in range(0, sectors, READ_SECTORS):
        step = min(READ_SECTORS, sectors - first)
        yield from _span_problems(read, main + first, mirror + first, step)


def _span_problems(read: Read, main: int, mirror: int, sectors: int) -> Iterator[str]:
    try:
        if exactly(read, main, sectors) == exactly(read, mirror, sectors):
            return
    except MediumError:
        if sectors == 1:
            yield from _unreadable(read, main, "metadata")
            yield from _unreadable(read, mirror, "metadata mirror")
            return
    if sectors == 1:
        yield f"sector {main}: metadata differs from its mirror at sector {mirror}"
        return
    half = sectors // 2
    yield from _span_problems(read, main, mirror, half)
    yield from _span_problems(read, main + half, mirror + half, sectors - half)


def _unreadable(read: Read, sector: int, what: str) -> Iterator[str]:
    try:
        exactly(read, sector, 1)
    except MediumError as error:
        yield f"sector {sector}: {what}: {error}"


# -- tree and files ------------------------------------------------------------------------


def tree_problems(reader: VolumeReader) -> Iterator[str]:
    """What the manifest and the directories do not say alike, and void files."""
    tree = _Tree()
    is_whole = True
    for found in reader.walk_around_damage():
        if isinstance(found, MediumError):
            is_whole = False
            yield f"directories: {found}"
        else:
            tree.add(found)
    listed = _Paths()
    for entry in reader.manifest_or_rest():
        if isinstance(entry, MediumError):
            yield str(entry)
            continue
        listed.add(entry.disc_path)
        if is_whole or entry.disc_path in tree or entry.result is None:
            yield from _entry_problems(entry, tree)
    try:
        for _ in reader.stream_file(README_PATH):
            pass
    except (MediumError, OSError) as error:
        yield f"{README_PATH}: {error}"
    for one in reader.unlisted(listed):
        if not isinstance(one, MediumError) and not one.is_directory:
            yield f"{one.path}: is in a directory, but the manifest has no line that proves it"


class _Paths:
    """A set of paths on the disc; some 30 bytes for each."""

    def __init__(self) -> None:
        self._table = PathTable()

    def add(self, path: str) -> None:
        self._table.put(_coded(path), 0)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._table.get(_coded(path)) is not None


class _Tree:
    """Where the directories say that files are; some 50 bytes for each."""

    def __init__(self) -> None:
        self._table = PathTable()
        self._sectors, self._sizes = array("Q"), array("Q")

    def add(self, found: WalkEntry) -> None:
        self._table.put(_coded(found.path), len(self._sectors))
        self._sectors.append(found.sector)
        self._sizes.append(found.size)

    def __contains__(self, path: str) -> bool:
        return self._table.get(_coded(path)) is not None

    def place(self, path: str) -> tuple[int, int] | None:
        """First sector and bytes."""
        at = self._table.get(_coded(path))
        return None if at is None else (self._sectors[at], self._sizes[at])


def _coded(path: str) -> bytes:
    return path.encode("utf-8", "surrogatepass")


def _entry_problems(entry: ManifestEntry, tree: _Tree) -> Iterator[str]:
    result, path = entry.result, entry.disc_path
    if result is not None and result.void:
        yield f"{path}: void: it could not be read when the disc was written"
    if not path:
        return
    found = tree.place(path)
    if found is None:
        yield f"{path}: is in the manifest, but in no directory"
    elif result is not None and result.size and found != (_sector(result), result.size):
        yield (
            f"{path}: found sector {found[0]} with {found[1]} bytes in the directory, "
            f"expected sector {_sector(result)} with {result.size} as in the manifest"
        )


def _sector(result: FileResult) -> int:
    return result.offset_bytes // SECTOR_BYTES


def hash_problems(reader: VolumeReader) -> Iterator[str]:
    """Files whose bytes are not those of the manifest; reads all data."""
    for entry in reader.manifest_or_rest():
        if isinstance(entry, MediumError) or entry.result is None or entry.result.void:
            continue
        hashes = FileHashes()
        try:
            for piece in reader.extent(_sector(entry.result), entry.result.size):
                hashes.update(piece)
        except MediumError as error:
            yield f"{entry.disc_path}: {error}"
            continue
        found = hashes.result(entry.source, entry.result.offset_bytes)
        if found != entry.result:
            yield f"{entry.disc_path}: {_difference(found, entry.result)}"


def _difference(found: FileResult, expected: FileResult) -> str:
    pairs = zip(found.chunk_xxh3, expected.chunk_xxh3, strict=False)
    bad = [number for number, (mine, theirs) in enumerate(pairs) if mine != theirs]
    first = (expected.offset_bytes + bad[0] * CHUNK_BYTES) // SECTOR_BYTES if bad else 0
    place = f", {len(bad)} chunks, the first at sector {first}" if bad else ""
    return f"found xxh3 {found.xxh3_128}, expected {expected.xxh3_128}{place}"
