"""What a person is told to do at a drive: the fields and the text of a task."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hsmfs.daemon.catalogrecords import TaskRecord
from hsmfs.daemon.manual.asks import Ask, Rank
from hsmfs.daemon.manual.seat import Taken
from hsmfs.types import SECTOR_BYTES

BLANK = "blank"
LOAD, TAKE = "load", "take"
WHY = {
    Rank.READERS: "files on it are being read",
    Rank.BULK: "files on it are to be recalled",
    Rank.BACKGROUND: "files on it are to be recalled (no hurry)",
    Rank.PROOF: "it is to be read and proved",
    Rank.SCRUB: "it is to be read again, as all discs are at times (no hurry)",
}


def disc_size(sectors: int) -> str:
    """As on a package: 25.1 GB; rounded up."""
    size, unit = sectors * SECTOR_BYTES, ("GB", 10**9)
    if size < unit[1]:
        unit = ("MB", 10**6)
    return f"{math.ceil(size * 10 / unit[1]) / 10:.1f} {unit[0]}"


@dataclass(frozen=True, slots=True)
class Errand:
    """Everything about one visit of a person to one drive."""

    drive: str
    ask: Ask
    taken: Taken | None
    found: str
    put_box: str

    @property
    def kind(self) -> str:
        return LOAD if self.ask.put or self.ask.blank_sectors else TAKE

    @property
    def put(self) -> str:
        return self.ask.put or (BLANK if self.ask.blank_sectors else "")

    def is_of(self, task: TaskRecord) -> bool:
        """Whether the task asks for the same."""
        taken = self.taken.disc if self.taken is not None else ""
        same = (task.kind, task.put) == (self.kind, self.put)
        return same and (self.kind == LOAD or task.take == taken)

    def fill(self, task: TaskRecord) -> bool:
        """Say it in a task; whether anything is said anew."""
        before = (task.text, task.take, task.found, task.volume)
        task.drive, task.put, task.put_box = self.drive, self.put, self.put_box
        task.blank_bytes = self.ask.blank_sectors * SECTOR_BYTES
        task.volume, task.found = self.ask.volume, self.found
        taken = self.taken
        task.take = (taken.disc or taken.words) if taken is not None else ""
        task.write = taken.write if taken is not None else ""
        task.box = taken.box if taken is not None else ""
        task.text = self.text()
        return before != (task.text, task.take, task.found, task.volume)

    def text(self) -> str:
        """Sentences in the order in which things are to be done."""
        parts = []
        if self.found:
            expected = self._put_words() if self.put else "an empty drive"
            parts.append(
                f"Found in {self.drive}: {self.found}; wanted: {expected}. Nothing was written."
            )
        if self.taken is not None:
            parts.append(self._take_words(self.taken))
        if self.put:
            parts.append(f"Put {self._put_words()} into {self.drive} and close it.")
            parts.append(self._why())
        elif self.taken is not None:
            parts.append("Close the drive.")
        return " ".join(parts)

    def _put_words(self) -> str:
        if self.ask.put:
            return f"disc {self.ask.put}" + (f" (box {self.put_box})" if self.put_box else "")
        return f"a blank disc of {disc_size(self.ask.blank_sectors)} or more"

    def _take_words(self, taken: Taken) -> str:
        words = [f"Take {taken.words} out of {self.drive}"]
        if taken.write:
            words.append(f'write "{taken.write}" on it')
        if taken.box:
            words.append(f"put it into box {taken.box}")
        if len(words) == 1:
            return words[0] + "."
        return ", ".join(words[:-1]) + " and " + words[-1] + "."

    def _why(self) -> str:
        if self.ask.put:
            return f"Why: {WHY.get(self.ask.rank, 'it is wanted')}."
        return f"Why: volume {self.ask.volume} is to be burned."
