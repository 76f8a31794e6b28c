"""One disc in a drive: what it is, and as much of it as a rebuild needs."""

from __future__ import annotations

import os
import time
from typing import Final

import xxhash

from hsmfs.changer.drive import DiscInfo, Drive
from hsmfs.daemon.ownfiles import MANIFEST_SUFFIX, MANIFESTS_DIRECTORY, NAMESPACE_NAME
from hsmfs.errors import CallerError, MediumError
from hsmfs.tools.rebuild.ledger import Ledger
from hsmfs.tools.rebuild.recording import DiscFacts, Found, Recording
from hsmfs.volume.manifest import MANIFEST_PATH
from hsmfs.volume.manifestread import CLOSING_BYTES_MAX, ManifestEntry
from hsmfs.volume.reader import VolumeReader
from hsmfs.volume.source import VolumeHeader

CUT_NOTE: Final = "its burn was cut: it is not closed"


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


class _Taking:
    """A closed disc."""

    def __init__(
        self, drive: Drive, info: DiscInfo, facts: DiscFacts, site: str, ledger: Ledger
    ) -> None:
        self.facts = facts
        self._site = site
        self._ledger = ledger
        self._sectors = info.capacity_sectors
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
        try:
            header = reader.header
        except MediumError as error:
            self.facts.note = str(error)
            self._around_damage(reader)
            return
        if header.site != self._site:
            raise CallerError(
                f"found a disc of site {header.site!r}, expected {self._site!r} (site.id of the "
                "configuration)"
            )
        self.facts.header = header
        known = self._ledger.begin(header.label)
        if known is not None:
            self._copy(reader, header, known)
            return
        try:
            self._volume(reader)
        finally:
            self._ledger.end(header.label)

    def _around_damage(self, reader: VolumeReader) -> None:
        """What can be read of a damaged manifest; others see what they make of it."""
        for _ in reader.manifest_around_damage():
            pass
        self.facts.found = Found.VOLUME

    def _copy(self, reader: VolumeReader, header: VolumeHeader, known: DiscFacts) -> None:
        """Of a volume that another disc gave whole. One that differs is read as it is."""
        facts = self.facts
        try:
            self._measure(reader)
        except MediumError as error:
            facts.found, facts.note = Found.DAMAGED, str(error)
            return
        mine = (header, facts.manifest_bytes, facts.closing)
        if mine == (known.header, known.manifest_bytes, known.closing):
            facts.found = Found.COPY
        else:
            self._volume(reader)

    def _measure(self, reader: VolumeReader) -> None:
        self.facts.manifest_bytes = reader.size(MANIFEST_PATH)
        ending = reader.ending(MANIFEST_PATH, CLOSING_BYTES_MAX)
        self.facts.closing = xxhash.xxh3_128_hexdigest(ending)

    def _volume(self, reader: VolumeReader) -> None:
        facts = self.facts
        try:
            self._measure(reader)
            reader.prove_manifest()
        except MediumError as error:
            facts.note = str(error)
            self._around_damage(reader)
        else:
            facts.found, facts.whole = Found.VOLUME, True
        for entry in reader.manifest_around_damage():
            # Own files are planned first.
            if isinstance(entry, MediumError):
                continue
            if entry.source.kind != "own":
                break
            self._own(reader, entry)

    def _own(self, reader: VolumeReader, entry: ManifestEntry) -> None:
        path = os.fsdecode(entry.source.path)
        directory, _, name = path.rpartition("/")
        previous = name.removesuffix(MANIFEST_SUFFIX)
        if path == NAMESPACE_NAME:
            self.facts.whole = self._is_sound(reader, path, entry) and self.facts.whole
        elif directory == MANIFESTS_DIRECTORY and previous != name and self._ledger.wants(previous):
            if self._is_sound(reader, path, entry):
                self.facts.previous.append(previous)
            else:
                self._ledger.missed(previous)

    def _is_sound(self, reader: VolumeReader, path: str, entry: ManifestEntry) -> bool:
        """Read it, and see whether it is what was written."""
        proof = xxhash.xxh3_128()
        try:
            for piece in reader.stream_file(f"/.hsm/{path}"):
                proof.update(piece)
        except (MediumError, OSError) as error:
            self.facts.note = self.facts.note or str(error)
            return False
        if entry.result is not None and proof.hexdigest() == entry.result.xxh3_128:
            return True
        self.facts.note = self.facts.note or f"/.hsm/{path}: found other bytes than were written"
        return False
