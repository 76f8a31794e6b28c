"""What the two programs say of themselves, where they run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from hsmfs.config import Config
from hsmfs.errors import HsmError
from hsmfs.runlock import holder
from hsmfs.session import mounting
from hsmfs.tools.apiclient import ApiClient
from hsmfs.tools.check.findings import Check, Level

Found = Iterator[tuple[Level, str, str]]
ANSWER_S: Final = 10.0
BLANKS_MIN: Final = 4


def checks(config: Config, file: Path) -> list[Check]:
    """Programs that do not run are only noted: a check comes before the first start, too."""
    return [
        Check("hsmfs", lambda: _hsmfs(config)),
        Check("hsmd", lambda: _hsmd(config, file)),
    ]


def _hsmfs(config: Config) -> Found:
    run = Path(config.run.path)
    if not holder(run, "hsmfs"):
        yield Level.NOTE, "hsmfs does not run", "systemctl start hsmfs@hsmfs"
    elif mounting.mounted_at(Path(config.fuse.mount)) is None:
        yield (
            Level.FAULT,
            f"hsmfs runs, and nothing is mounted at {config.fuse.mount}",
            "it may still settle what a crash cut: see its log",
        )


def _hsmd(config: Config, file: Path) -> Found:
    run = Path(config.run.path)
    if not holder(run, "hsmd"):
        yield Level.NOTE, "hsmd does not run", "systemctl start hsmd"
        return
    try:
        with ApiClient(run / "hsmd.sock", file, ANSWER_S) as api:
            status = api.get("/v1/status")
    except HsmError as error:
        yield Level.FAULT, f"hsmd runs and does not answer: {error}", "its log says what it does"
        return
    yield from _status(status)


def _status(status: dict[str, Any]) -> Found:
    if not status["hsmfs"]["connected"]:
        yield Level.FAULT, "hsmd and hsmfs do not talk to each other", "start hsmfs"
    problem = (status.get("library") or {}).get("problem")
    if problem:
        yield Level.FAULT, f"library: {problem}", "look at its door and its panel"
    for drive in status["drives"]:
        if drive["state"] in ("failed", "quarantined"):
            yield Level.FAULT, f"drive {drive['name']}: {drive['note']}", "hsm drive ls"
    blanks = (status.get("blanks") or {}).get("usable")
    if blanks is not None and blanks < BLANKS_MIN:
        yield Level.NOTE, f"{blanks} blank discs in the library", "bring a magazine of blank discs"
    for alarm in status["alarms"]:
        yield Level.NOTE, f"alarm {alarm['kind']}: {alarm['text']}", "docs: alarms"
    if status["tasks"]:
        yield Level.NOTE, f"{status['tasks']} tasks wait for a person", "hsm tasks"
