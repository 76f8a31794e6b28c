"""``make demo-manual``: the demo with one burner and no robot.

A person is played who does what ``hsm tasks`` says and nothing else, by the
commands that act as hands at the emulated drive; once he puts in a wrong disc.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

from hsmfs.tools.demo import DISC_BYTES, Demo, DemoError, main

PAUSE_S: Final = 0.3


class ManualDemo(Demo):
    """One run in one directory."""

    mover = "discs carried"

    def __init__(self, work: Path) -> None:
        super().__init__(work)
        self._carried = 0
        self._mistake = False
        self._said = ""
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._person = threading.Thread(target=self._work, daemon=True)

    def main(self) -> None:
        """All steps in order."""
        self.make_originals()
        self.step(1, "A system with one drive, blank discs on a spindle, boxes A and B", self.start)
        self.step(2, "Copied in with cp -a and rsync", self.copy_in)
        self.step(3, "Migrated: two copies on discs in different boxes, verified", self.migrate)
        self.step(4, "Released: the cache keeps only heads", self.release)
        self.step(5, "DICOM headers of all stubs read: no disc is needed", self.read_headers)
        self.step(6, "Pixels of every tenth slice read: a wrong disc first", self.read_pixels)
        self.step(7, "A disc opened with 7-Zip, without hsmfs", self.open_disc)
        self.step(8, "Everything compared with the originals", self.compare)
        if self._failure is not None:
            raise DemoError(f"the person stopped: {self._failure}")

    def start(self) -> dict[str, Any]:
        self.sandbox_command("start", "--library", "manual", "--disc-bytes", str(DISC_BYTES))
        self._person.start()
        return {
            "drives": len(self.hsm("drive", "ls")["drives"]),
            "boxes": len(self.hsm("magazine", "ls")["magazines"]),
            "blank discs": len(self.shelf_now()["discs"]),
        }

    def migrate(self) -> dict[str, Any]:
        facts = super().migrate()
        facts["in boxes"] = facts.pop("in magazines")
        return facts

    def read_pixels(self) -> dict[str, Any]:
        self._mistake = True
        return super().read_pixels()

    def moves(self) -> int:
        """Discs that the person put in or took out."""
        return self._carried

    def clean_up(self) -> None:
        """The person goes home first."""
        self._stop.set()
        if self._person.is_alive():
            self._person.join(60)
        super().clean_up()

    # -- the person --------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._stop.wait(PAUSE_S):
                for task in self.hsm("tasks")["tasks"]:
                    self._do(task)
        except (DemoError, subprocess.TimeoutExpired, OSError, ValueError) as error:
            if not self._stop.is_set():
                self._failure = error

    def shelf_now(self) -> Any:
        """What the person sees: drives, and discs with what is written on them."""
        return self.hsm("emulator", "shelf")

    def _do(self, task: dict[str, Any]) -> None:
        seen = self.shelf_now()
        tray = next(one for one in seen["drives"] if one["drive"] == task["drive"])
        if not tray["open"]:
            return
        if task["text"] != self._said:
            self._said = task["text"]
            self.screen.print(f"   task {task['id']}: {task['text']}")
        if task["take"] and tray["disc"]:
            words = ["--write", task["write"]] if task["write"] else []
            self._hands("take", task["drive"], "--box", task["box"], *words)
        if task["put"]:
            self._hands("put", self._wanted(task, seen), task["drive"])
        else:
            self._hands("press", task["drive"])

    def _wanted(self, task: dict[str, Any], seen: dict[str, Any]) -> str:
        blanks = (d["name"] for d in seen["discs"] if not d["written"] and not d["drive"])
        if task["put"] == "blank":
            return str(next(blanks))
        if self._mistake:
            self._mistake = False
            return str(next(blanks))
        return str(task["put"])

    def _hands(self, *words: str) -> None:
        where = ["--config", str(self.sandbox / "hsmfs.toml")]
        self.run(sys.executable, "-m", "hsmfs.tools.hsm", *where, "emulator", *words)
        self._carried += words[0] in ("put", "take")


if __name__ == "__main__":
    sys.exit(main(ManualDemo))
