"""A person at emulated drives, who does only what ``hsm tasks`` says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from support.sandboxes import Sandbox

Task = dict[str, Any]
PAUSE_S = 0.2


class Person:
    """Reads the open tasks again and again, and does each in turn."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.done: list[Task] = []
        """Tasks as they were when something was done for them."""
        self.mistakes: list[str] = []
        """Discs to put in instead of what is asked for, one at a time."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._failure: BaseException | None = None

    def __enter__(self) -> Person:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while not self._stop.wait(PAUSE_S):
                for task in self.sandbox.hsm("tasks")["tasks"]:
                    self.do(task)
        except BaseException as error:
            self._failure = error

    def do(self, task: Task) -> bool:
        """One task; False where the tray is not open yet, or somebody took the disc already."""
        trays = {tray["drive"]: tray for tray in self.shelf()["drives"]}
        tray = trays[task["drive"]]
        if not tray["open"]:
            return False
        self.done.append(task)
        if task["take"] and tray["disc"]:
            words = ["take", task["drive"], "--box", task["box"]]
            self.emulator(*words, *(["--write", task["write"]] if task["write"] else []))
        if self.mistakes and task["put"]:
            self.emulator("put", self.mistakes.pop(0), task["drive"])
        elif task["put"]:
            self.emulator("put", self.wanted(task), task["drive"])
        elif task["take"]:
            self.emulator("press", task["drive"])
        return True

    def wanted(self, task: Task) -> str:
        """The disc on which the number is written; a blank one from the spindle."""
        if task["put"] != "blank":
            return str(task["put"])
        return self.find(
            lambda disc: not disc["written"] and disc["name"].startswith("disc")
            and disc["bytes"] >= task["blank_bytes"]
        )  # fmt: skip

    def find(self, fits: Callable[[dict[str, Any]], bool]) -> str:
        """The name of the first disc outside that fits."""
        found = (d for d in self.shelf()["discs"] if not d["drive"] and fits(d))
        return str(next(found)["name"])

    def shelf(self) -> dict[str, Any]:
        found: dict[str, Any] = self.sandbox.hsm("emulator", "shelf")
        return found

    def emulator(self, *words: str) -> None:
        """As a person's hands, by command."""
        done = self.sandbox.hsm_plain("emulator", *words)
        assert done.returncode == 0, done.stderr
