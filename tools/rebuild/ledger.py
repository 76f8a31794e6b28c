"""Which discs of libraries were read, and what need not be read again.

A directory beside the stores that outlives a rebuild that is cut: the next one
goes on with it. One lock; drives' threads ask and tell.
"""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec

from hsmfs.tools.rebuild.recording import (
    FACTS_SUFFIX,
    IMAGE_SUFFIX,
    DiscFacts,
    Found,
    durable,
    no_room,
    read_facts,
)


class Ledger:
    """Owner of the directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.discs: dict[str, DiscFacts] = {}
        """What was read, by barcode."""
        self._changed = threading.Condition()
        self._reading: set[str] = set()
        self._whole: dict[str, DiscFacts] = {}
        self._previous: set[str] = set()
        self._hashed: set[str] = set()
        try:
            root.mkdir(parents=True, exist_ok=True)
            self._load()
        except OSError as error:
            raise no_room(root, error) from error

    def _load(self) -> None:
        for path in sorted(self.root.glob(f"*{FACTS_SUFFIX}")):
            facts = read_facts(path)
            if facts is None or path.stem != facts.barcode or not self._has_image(facts):
                path.unlink()
            else:
                self._count(facts)
        for code, facts in list(self.discs.items()):
            is_copy = facts.found in (Found.COPY, Found.DAMAGED)
            if is_copy and (facts.header is None or facts.header.label not in self._whole):
                del self.discs[code]  # what it is a copy of is not there any more
                (self.root / f"{code}{FACTS_SUFFIX}").unlink()
        # An image without facts: its disc was being read when the last run was cut.
        for path in self.root.iterdir():
            if path.suffix != FACTS_SUFFIX and path.stem not in self.discs:
                path.unlink()

    def _has_image(self, facts: DiscFacts) -> bool:
        return facts.found != Found.VOLUME or self.image(facts.barcode).exists()

    def _count(self, facts: DiscFacts) -> None:
        self.discs[facts.barcode] = facts
        self._previous.update(facts.previous)
        if facts.header is None or facts.found != Found.VOLUME:
            return
        if facts.whole:
            self._whole.setdefault(facts.header.label, facts)
        elif facts.complete:
            self._hashed.add(facts.header.label)

    def image(self, barcode: str) -> Path:
        """Where what is read of a disc is kept."""
        return self.root / f"{barcode}{IMAGE_SUFFIX}"

    # -- drives' threads -----------------------------------------------------------------

    def begin(self, label: str) -> DiscFacts | None:
        """The disc that gave this volume whole; None: the caller reads it now, and ``end``s
        that. Waits while another drive reads a copy of it."""
        with self._changed:
            self._changed.wait_for(lambda: label not in self._reading)
            if label not in self._whole:
                self._reading.add(label)
            return self._whole.get(label)

    def end(self, label: str) -> None:
        """Read, well or not."""
        with self._changed:
            self._reading.discard(label)
            self._changed.notify_all()

    def wants(self, label: str) -> bool:
        """Whether a manifest that a later volume repeats is of use, as far as is known now.
        Who gets a yes has it, or says ``missed``."""
        with self._changed:
            if label in self._whole or label in self._previous:
                return False
            self._previous.add(label)
            return True

    def lacking(self) -> list[str]:
        """Barcodes of discs whose unlisted files are to be hashed: nothing that was read makes
        up for their manifests' lines."""
        with self._changed:
            known = self._whole.keys() | self._previous | self._hashed
            return [
                code
                for code, facts in self.discs.items()
                if facts.unhashed and facts.header is not None and facts.header.label not in known
            ]

    def missed(self, label: str) -> None:
        """It was damaged there."""
        with self._changed:
            self._previous.discard(label)

    def keep(self, facts: DiscFacts) -> None:
        """A disc that was read: durable when it returns."""
        with durable(self.root / f"{facts.barcode}{FACTS_SUFFIX}") as file:
            file.write(msgspec.json.encode(facts))
        with self._changed:
            self._count(facts)
