"""One disc in a drive: what it is, and as much of it as a rebuild needs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import xxhash

from hsmfs.changer.drive import DiscInfo, Drive
from hsmfs.daemon.ownfiles import MANIFEST_SUFFIX, MANIFESTS_DIRECTORY, NAMESPACE_NAME
from hsmfs.errors import CallerError, MediumError
from hsmfs.tools.rebuild.hashedfiles import HashedFile, hashed, write_hashes
from hsmfs.tools.rebuild.images import identify, opened
from hsmfs.tools.rebuild.ledger import Ledger
from hsmfs.tools.rebuild.recording import DiscFacts, Found, NotTaken, Recording
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.manifestread import CLOSING_BYTES_MAX, ManifestEntry
from hsmfs.volume.reader import VolumeReader, WalkEntry
from hsmfs.volume.source import OWN_DIRECTORY, FileSource

CUT_NOTE: Final = "its burn was cut: it is not closed"
_OWN: Final = OWN_DIRECTORY.decode() + "/"


def take(drive: Drive, name: str, barcode: str, site: str, ledger: Ledger) -> DiscFacts:
    """Read the disc that is ready in a drive, and keep what was read.

    DriveError, or MediumError where it does not even tell its state; what is
    damaged behind that is in the facts.
    """
    info = drive.disc_info()
    facts = DiscFacts(
        barcode=barcode,
        found=Found.OTHER,
        sectors=info.capacity_sectors,
        drive=name,
        time_ns=time.time_ns(),
    )
    if info.state == "blank":
        facts.found = Found.BLANK
    elif info.state != "complete":
        facts.found, facts.note = Found.CUT, CUT_NOTE
    else:
        _Taking(drive, info, facts, site, ledger).run()
    ledger.keep(facts)
    return facts


def take_unlisted(
    drive: Drive, barcode: str, ledger: Ledger, is_stopped: Callable[[], bool]
) -> None:
    """Read the bytes of files that no line of a damaged manifest tells of, of a disc that was
    taken before: only their hashes are kept."""
    facts, image = ledger.discs[barcode], ledger.image(barcode)
    assert facts.header is not None
    if ledger.begin(facts.header.label) is not None:
        return
    try:
        if barcode not in ledger.lacking():
            return  # another copy gave them meanwhile
        with opened(image) as kept:
            complete = _hash_unlisted(kept, image, _with_rest(kept, drive, facts), is_stopped)
        if not is_stopped():
            facts.unhashed, facts.complete = False, complete
            ledger.keep(facts)
    finally:
        ledger.end(facts.header.label)


def _with_rest(kept: VolumeReader, drive: Drive, facts: DiscFacts) -> VolumeReader:
    """What was kept of a disc, and the rest from the drive."""

    def read(sector: int, sectors: int) -> bytes:
        try:
            return kept.read(sector, sectors)
        except NotTaken:
            return drive.read(sector, sectors)

    return VolumeReader(read, facts.sectors)


def _hash_unlisted(
    kept: VolumeReader, image: Path, reader: VolumeReader, is_stopped: Callable[[], bool]
) -> bool:
    """Whether these are all."""
    is_complete = True

    def files() -> Iterator[HashedFile]:
        nonlocal is_complete
        blocks = set()
        for one in kept.unlisted(_listed(kept)):
            if is_stopped():
                return
            if isinstance(one, MediumError):
                is_complete = False
            elif _is_file(one) and one.block not in blocks:
                blocks.add(one.block)
                try:
                    yield HashedFile(one.block, hashed(reader, one))
                except MediumError as error:
                    yield HashedFile(one.block, None, str(error))

    write_hashes(image, files())
    return is_complete


def _is_file(one: WalkEntry) -> bool:
    """Not one of the volume's own."""
    return not one.is_directory and not one.path.startswith(_OWN)


def _listed(reader: VolumeReader) -> set[str]:
    """Paths that lines of the manifest tell of."""
    entries = reader.manifest_around_damage()
    return {entry.disc_path for entry in entries if not isinstance(entry, MediumError)}


class _Taking:
    """A closed disc."""

    def __init__(
        self, drive: Drive, info: DiscInfo, facts: DiscFacts, site: str, ledger: Ledger
    ) -> None:
        self.facts = facts
        self._site = site
        self._ledger = ledger
        self._sectors = info.capacity_sectors
        self._has_pool = False
        """A manifest of another volume of its pool was kept."""
        image = ledger.image(facts.barcode)
        self._recording = Recording(drive.read, image, info.capacity_sectors)

    def run(self) -> None:
        """Fills in the facts; an image is left where they tell of a volume."""
        facts = self.facts
        try:
            self._look()
        except (MediumError, CallerError, OSError) as error:
            facts.note = facts.note or str(error)
        finally:
            self._recording.close(keep=facts.found == Found.VOLUME)
        facts.kept = self._recording.kept.as_list()
        facts.bad = self._recording.bad.as_list()

    def _look(self) -> None:
        reader = VolumeReader(self._recording.read, self._sectors)
        facts = self.facts
        facts.header, facts.manifest_bytes, why_not = identify(reader, self._site)
        if why_not is not None:
            facts.guessed, facts.note = True, str(why_not)
        known = self._ledger.begin(facts.header.label)
        if known is not None:
            self._copy(reader, known)
            return
        try:
            self._volume(reader)
        finally:
            self._ledger.end(facts.header.label)

    def _copy(self, reader: VolumeReader, known: DiscFacts) -> None:
        """Of a volume that another disc gave whole. One that differs is read as it is."""
        facts = self.facts
        try:
            facts.closing = self._closing(reader)
        except MediumError as error:
            facts.found, facts.note = Found.DAMAGED, facts.note or str(error)
            return
        if _told(facts) == _told(known):
            facts.found = Found.COPY
        elif facts.guessed and _told_roughly(facts) == _told_roughly(known):
            facts.found = Found.DAMAGED
        else:
            self._volume(reader)

    def _closing(self, reader: VolumeReader) -> str:
        return xxhash.xxh3_128_hexdigest(reader.manifest_ending(CLOSING_BYTES_MAX))

    def _volume(self, reader: VolumeReader) -> None:
        """What a rebuild reads of it; around damage, what it makes of that."""
        facts = self.facts
        facts.found = Found.VOLUME
        try:
            facts.closing = self._closing(reader)
            reader.prove_manifest()
            is_proved = True
        except MediumError as error:
            is_proved, facts.note = False, facts.note or str(error)
        facts.whole = is_proved
        listed = set()
        for entry in reader.manifest_around_damage():
            # Own files are planned first.
            if isinstance(entry, MediumError):
                continue
            if entry.source.kind == "own":
                self._own(reader, entry)
            elif is_proved:
                return
            listed.add(entry.disc_path)
        if not is_proved:
            self._unlisted(reader, listed)

    def _unlisted(self, reader: VolumeReader, listed: set[str]) -> None:
        """By the tree: own files are kept, whether there are others is told."""
        facts, is_all = self.facts, True
        for one in reader.unlisted(listed):
            if isinstance(one, MediumError):
                is_all = False
            elif _is_file(one):
                facts.unhashed = True
            elif not one.is_directory:
                path = one.path.removeprefix(_OWN).encode()
                source = FileSource(path=path, ino=0, kind="own", size=one.size)
                self._own(reader, ManifestEntry(source, None, one.path))
        facts.complete = is_all and not facts.unhashed

    def _own(self, reader: VolumeReader, entry: ManifestEntry) -> None:
        path = os.fsdecode(entry.source.path)
        directory, _, name = path.rpartition("/")
        previous = name.removesuffix(MANIFEST_SUFFIX)
        if path == NAMESPACE_NAME:
            self.facts.whole = self._is_sound(reader, path, entry) and self.facts.whole
        elif directory != MANIFESTS_DIRECTORY or previous == name:
            return
        elif self._ledger.wants(previous):
            if self._is_sound(reader, path, entry):
                self.facts.previous.append(previous)
                self._has_pool = True
            else:
                self._ledger.missed(previous)
        elif self.facts.guessed and not self._has_pool:
            self._has_pool = self._is_sound(reader, path, entry)

    def _is_sound(self, reader: VolumeReader, path: str, entry: ManifestEntry) -> bool:
        """Read it, and see whether it is what was written; what no line tells of is packed,
        and whoever unpacks it sees that."""
        proof, result = xxhash.xxh3_128(), entry.result
        try:
            for piece in self._pieces(reader, entry):
                proof.update(piece)
        except (MediumError, OSError) as error:
            self.facts.note = self.facts.note or str(error)
            return False
        if result is None or proof.hexdigest() == result.xxh3_128:
            return True
        self.facts.note = self.facts.note or f"/.hsm/{path}: found other bytes than were written"
        return False

    def _pieces(self, reader: VolumeReader, entry: ManifestEntry) -> Iterator[bytes]:
        """As a rebuild reads it: where its line says, else where the tree does."""
        if entry.result is None:
            return reader.stream_file(entry.disc_path)
        return reader.extent(entry.result.offset_bytes // SECTOR_BYTES, entry.result.size)


def _told(facts: DiscFacts) -> tuple[object, ...]:
    return facts.header, facts.manifest_bytes, facts.closing


def _told_roughly(facts: DiscFacts) -> tuple[object, ...]:
    """Without what only the manifest's first line has."""
    assert facts.header is not None
    return facts.header.created_ns // 1000, facts.manifest_bytes, facts.closing
