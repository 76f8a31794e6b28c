"""Programs that are killed at exactly one step (see ``crashsite/sitecustomize.py``)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SITE = Path(__file__).resolve().parent / "crashsite"
MOVE_MEDIUM, WRITE_12, CLOSE_SESSION = 0xA5, 0xAA, 0x5B


class CrashFile:
    """What the programs look at."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note = path.with_name(path.name + ".hit")

    @property
    def environment(self) -> dict[str, str]:
        return {"HSMFS_CRASH_FILE": str(self.path), "PYTHONPATH": str(SITE)}

    def arm(self, point: str, when: str = "before", nth: int = 1, **facts: Any) -> None:
        """From now on: the next program that gets there ends there."""
        self.note.unlink(missing_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"point": point, "when": when, "nth": nth, "facts": facts}))
        fresh.replace(self.path)

    def disarm(self) -> None:
        """Programs run on; fails where the step was never reached."""
        self.path.unlink()
        assert self.note.exists(), "no program came to the step where it was to be killed"


def slug(text: str) -> str:
    """A row's first cell as the name of its test."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def rows_of(section: str) -> list[str]:
    """First cells of a section's table in docs/crash-safety.md."""
    text = (ROOT / "docs" / "crash-safety.md").read_text()
    part = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    cells = [line.split("|")[1].strip() for line in part.splitlines() if line.startswith("|")]
    return [cell for cell in cells if cell not in ("cut", "---")]


def names_of_tests(folder: Path = ROOT / "tests") -> set[str]:
    """All tests' names without ``test_``."""
    found: set[str] = set()
    for path in folder.rglob("test_*.py"):
        found |= set(re.findall(r"^def test_(\w+)\(", path.read_text(), re.MULTILINE))
    return found
