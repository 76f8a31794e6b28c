"""The libraries among the sources of a rebuild, and their reading with progress."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from hsmfs.config import Config, Library
from hsmfs.errors import CallerError
from hsmfs.tools.output import complain, duration_words, printable
from hsmfs.tools.rebuild.ledger import Ledger
from hsmfs.tools.rebuild.libraryread import LibraryRead, LibraryReader, Show
from hsmfs.tools.rebuild.run import discs_of
from hsmfs.tools.rebuild.shelf import Shelf

ALL: Final = "library"
"""The word for all libraries of the configuration."""


def sort_sources(config: Config, words: Sequence[str]) -> tuple[list[Library], list[Path]]:
    """Libraries by their names (or all of them), and paths. CallerError for neither."""
    by_name = {library.name: library for library in config.library}
    libraries: dict[str, Library] = {}
    paths = []
    for word in words:
        if word in by_name:
            libraries[word] = by_name[word]
        elif word == ALL:
            libraries |= by_name
        elif Path(word).exists():
            paths.append(Path(word))
        else:
            raise CallerError(
                f"--from {word}: found nothing of this name, expected an image, a drive, a "
                f"directory of images, or a library of the configuration ({', '.join(by_name)})"
            )
    return list(libraries.values()), paths


def read_libraries(config: Config, libraries: Sequence[Library], *, again: bool) -> Shelf:
    """All of their discs, one library after the other; what an earlier run read is kept
    unless it is to be read ``again``."""
    if not libraries:
        return Shelf()
    root = discs_of(config)
    if again:
        shutil.rmtree(root, ignore_errors=True)
    ledger = Ledger(root)
    reads: list[LibraryRead] = []
    try:
        for library in libraries:
            with _progress(library.name) as show:
                reads.append(LibraryReader(library, config.site.id, ledger, show).run())
        for read in reads if ledger.lacking() else ():
            with _progress(read.library.name) as show:
                LibraryReader(read.library, config.site.id, ledger, show).run_unlisted(read)
    except KeyboardInterrupt:
        complain(f"{len(ledger.discs)} discs are read and kept; run it again to go on")
        raise
    return Shelf.of(ledger, reads)


@contextmanager
def _progress(name: str) -> Iterator[Show]:
    """A bar on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda done, total, doing: None
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("discs  {task.fields[pace]}  {task.fields[doing]}"),
        console=Console(stderr=True),
        transient=True,
    )
    pace = _Pace()
    with bar:
        task = bar.add_task(name, total=None, pace="", doing="")

        def show(done: int, total: int, doing: str) -> None:
            words = pace.words(done, total)
            bar.update(task, completed=done, total=total, pace=words, doing=printable(doing))

        yield show


class _Pace:
    """How fast it goes since it began, without the discs that were known before."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._first: int | None = None

    def words(self, done: int, total: int) -> str:
        """Rate and time left; nothing before the first disc."""
        if self._first is None:
            self._first = done
        new, seconds = done - self._first, time.monotonic() - self._start_s
        if not new or seconds <= 0:
            return ""
        left_s = (total - done) * seconds / new
        return f"{new * 3600 / seconds:.0f} an hour, {duration_words(left_s)} left"
