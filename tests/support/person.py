"""A person at emulated drives, who does only what the open tasks say."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hsmfs.changer.emulated import desk
from hsmfs.changer.emulated.deskstate import DeskDisc
from hsmfs.tools.apiclient import ApiClient
from support.sandboxes import Sandbox

Task = dict[str, Any]
PAUSE_S = 0.1


class Person:
    """Reads the tasks again and again (as ``hsm tasks --json``), and does each in turn."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._api = (sandbox.root / "run" / "hsmd.sock", sandbox.root / "hsmfs.toml")
        self.hands = desk.Person(sandbox.root / "library")
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
                for task in self.tasks():
                    self.do(task)
        except BaseException as error:
            self._failure = error

    def tasks(self) -> list[Task]:
        """What is to be done now."""
        with ApiClient(*self._api, 10.0) as api:
            found: list[Task] = api.get("/v1/tasks")["tasks"]
        return found

    def do(self, task: Task) -> bool:
        """One task; False where the tray is not open (yet)."""
        tray = self.hands.look().trays[int(task["drive"].removeprefix("drive"))]
        if not tray.is_open:
            return False
        self.done.append(task)
        if task["take"] and tray.disc:
            self.hands.take(task["drive"], task["write"] or None, task["box"] or None)
        if task["put"]:
            put = self.mistakes.pop(0) if self.mistakes else self.wanted(task)
            self.hands.put(put, task["drive"])
        else:
            self.hands.press(task["drive"])
        return True

    def wanted(self, task: Task) -> str:
        """The disc on which the number is written; a blank one from the spindle."""
        if task["put"] != "blank":
            return str(task["put"])
        needed = task["blank_bytes"]
        return self.find(lambda name, d: name < "disc~" and d.sectors * 2048 >= needed)

    def find(self, fits: Callable[[str, DeskDisc], bool]) -> str:
        """The name of the first disc outside on which nothing is written and that fits."""
        state = self.hands.look()
        inside = {tray.disc for tray in state.trays}
        return next(
            name
            for name, disc in state.discs.items()
            if name not in inside and not disc.written and fits(name, disc)
        )
