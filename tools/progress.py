"""Following a job of hsmd to its end, with a bar on a terminal."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hsmfs.tools.apiclient import ApiClient
from hsmfs.tools.output import complain, printable

POLL_FIRST_S: Final = 0.02
POLL_MAX_S: Final = 0.5
DONE: Final = 0
FAILED: Final = 1
PARTIAL: Final = 3
EXIT_OF_STATE: Final = {"done": DONE, "failed": FAILED, "partial": PARTIAL}


def exit_of(job: dict[str, Any]) -> int:
    """The exit status that a job's state stands for; a running one was not waited for."""
    return EXIT_OF_STATE.get(str(job["state"]), DONE)


def follow(api: ApiClient, number: int, label: str) -> dict[str, Any]:
    """Wait until the job has ended; a broken wait leaves the job running."""
    bar = _bar() if sys.stderr.isatty() else None
    try:
        with bar or _nothing():
            return _poll(api, number, label, bar)
    except KeyboardInterrupt:
        complain(f"not waiting any longer; job {number} goes on in hsmd")
        raise


def _nothing() -> AbstractContextManager[None]:
    return nullcontext()


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[files]}"),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        transient=True,
    )


def _poll(api: ApiClient, number: int, label: str, bar: Progress | None) -> dict[str, Any]:
    task = bar.add_task(label, total=None, files="", note="") if bar else None
    pause_s = POLL_FIRST_S
    while True:
        job: dict[str, Any] = api.get(f"/v1/jobs/{number}")
        if bar is not None and task is not None:
            bar.update(
                task,
                total=job["bytes_total"] or None,
                completed=job["bytes_done"],
                files=f"{job['files_done']}/{job['files_total']} files",
                note=printable(str(job.get("note") or "")),
            )
        if job["state"] != "running":
            return job
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, POLL_MAX_S)
