"""``hsm rebuild``: namespace and catalog made anew from discs alone."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import IO, Annotated, Any, Final

import typer

from hsmfs.config import Config
from hsmfs.errors import CallerError, HsmError
from hsmfs.tools.fsckcommand import stopped
from hsmfs.tools.output import complain, print_json, say, size_words
from hsmfs.tools.rebuild.catalogonly import check_catalog_missing, rebuild_catalog
from hsmfs.tools.rebuild.collect import Collected
from hsmfs.tools.rebuild.images import FoundVolume
from hsmfs.tools.rebuild.reading import read_libraries, sort_sources
from hsmfs.tools.rebuild.run import check_empty, rebuild
from hsmfs.tools.rebuild.shelf import Shelf
from hsmfs.tools.rebuild.tree import Outcome
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

EXIT_IN_PART: Final = 3
SHOWN_MAX: Final = 20
"""Files that are not whole, on the screen; --report has all."""


def add(app: typer.Typer) -> None:
    """Put this module's command into the application."""
    app.command("rebuild")(rebuild_command)


def rebuild_command(
    ctx: typer.Context,
    sources: Annotated[
        list[str],
        typer.Option(
            "--from",
            metavar="LIBRARY|IMAGE|DRIVE|DIRECTORY",
            help="A library of the configuration by its name ('library': all), disc images, drives "
            "with a disc in them, or directories of images; repeat it for several, in any order.",
        ),
    ],
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="Each file that is not whole, as JSON lines."
        ),
    ] = None,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Read all discs of libraries, also those that a cut run has read."
        ),
    ] = False,
    catalog: Annotated[
        bool,
        typer.Option(
            "--catalog", help="Only the catalog: the namespace is there and stays as it is."
        ),
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make namespace and catalog anew from discs, on a stopped system without data."""
    system = open_system(ctx, config)
    told = _Told(report)
    with stopped(system.config):
        (check_catalog_missing if catalog else check_empty)(system.config)
        libraries, paths = sort_sources(system.config, sources)
        shelf = read_libraries(system.config, libraries, again=again)
        try:
            facts = (_only_catalog if catalog else _both)(system.config, paths, told, shelf)
        except OSError as error:
            raise HsmError(f"{error.filename}: {error.strerror}") from error
        finally:
            told.close()
    facts |= shelf.as_facts()
    if json:
        print_json(facts)
    else:
        _show_discs(facts)
        (_show_catalog if catalog else _show)(facts)
    in_part = facts["left_out"] or facts["damage"] or facts["not_whole"]
    if in_part or not facts.get("changes_complete", True):
        raise typer.Exit(EXIT_IN_PART)


def _both(config: Config, paths: list[Path], told: _Told, shelf: Shelf) -> dict[str, Any]:
    volumes, left_out, collected, outcome = rebuild(config, paths, told.tell, shelf)
    return _facts(volumes, left_out, collected, outcome, told)


def _only_catalog(config: Config, paths: list[Path], told: _Told, shelf: Shelf) -> dict[str, Any]:
    volumes, left_out, collected, matched = rebuild_catalog(config, paths, told.tell, shelf)
    waiting = sum(matched.waiting.values())
    return _disc_facts(volumes, left_out, collected) | {
        "missing_volumes": {
            label: matched.waiting.get(label, 0) for label in sorted(collected.missing)
        },
        "files": matched.files,
        "bytes": matched.bytes,
        "waiting": waiting,
        "lost": matched.lost,
        "uncopied": matched.uncopied,
        "newer_left_out": matched.newer,
        "not_whole": waiting + matched.lost + matched.uncopied,
        "examples": told.shown,
    }


class _Told:
    """Files that are not whole: the first in memory, all in the report's file."""

    def __init__(self, report: Path | None) -> None:
        self.shown: list[dict[str, str]] = []
        self._file: IO[str] | None = None
        try:
            if report is not None:
                self._file = report.open("w", encoding="ascii")
        except OSError as error:
            raise CallerError(f"--report: {report}: {error.strerror}") from error

    def tell(self, what: str, path: str, why: str) -> None:
        """One file."""
        line = {"what": what, "path": path, "why": why}
        if len(self.shown) < SHOWN_MAX:
            self.shown.append(line)
        if self._file is not None:
            self._file.write(jsonlib.dumps(line) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _facts(
    volumes: dict[str, FoundVolume],
    left_out: list[tuple[str, str]],
    collected: Collected,
    outcome: Outcome,
    told: _Told,
) -> dict[str, Any]:
    waiting = sum(outcome.waiting.values())
    return _disc_facts(volumes, left_out, collected) | {
        "missing_volumes": {
            label: outcome.waiting.get(label, 0) for label in sorted(collected.missing)
        },
        "changes_complete": collected.is_complete(),
        "files": outcome.files,
        "bytes": outcome.bytes,
        "directories": outcome.directories,
        "others": outcome.others,
        "older": outcome.older,
        "unproved": outcome.unproved,
        "waiting": waiting,
        "lost": outcome.lost,
        "superseded": outcome.superseded,
        "moved_to_lost_found": outcome.moved,
        "not_whole": outcome.older + waiting + outcome.lost,
        "examples": told.shown,
    }


def _disc_facts(
    volumes: dict[str, FoundVolume], left_out: list[tuple[str, str]], collected: Collected
) -> dict[str, Any]:
    return {
        "volumes": sorted(volumes),
        "discs": sum(len(volume.barcodes) for volume in volumes.values()),
        "without_barcode": sorted(v.label for v in volumes.values() if not v.barcodes),
        "left_out": [{"image": image, "why": why} for image, why in left_out],
        "damage": collected.notes,
    }


def _show_discs(facts: dict[str, Any]) -> None:
    if facts["read"]:
        say(
            f"{facts['read']} discs of the library ({facts['loads']} loads): "
            f"{facts['blank']} blank, {facts['cut']} of a cut burn"
        )
    say(f"{len(facts['volumes'])} volumes on {facts['discs']} discs: {', '.join(facts['volumes'])}")
    for one in facts["left_out"]:
        complain(f"left out: {one['image']}: {one['why']}")
    for problem in facts["problems"]:
        complain(problem)
    for note in facts["damage"]:
        complain(f"damage: {note}")
    for label in facts["without_barcode"]:
        complain(
            f"volume {label} was read in a drive, so its disc's barcode is not known: put the disc "
            "into the library and say hsm disc identify BARCODE"
        )
    for label, files in facts["missing_volumes"].items():
        complain(f"missing: volume {label}; {files} files wait for it")


def _show_catalog(facts: dict[str, Any]) -> None:
    say(
        f"{facts['files']} files of the namespace ({size_words(facts['bytes'])}) are on these discs"
    )
    if facts["not_whole"]:
        complain(
            f"{facts['waiting']} files wait for a missing volume, {facts['lost']} are on no disc, "
            f"{facts['uncopied']} only in the cache"
        )
    for one in facts["examples"]:
        complain(f"{one['what']}: {one['path']}: {one['why']}")
    if facts["newer_left_out"]:
        complain(
            f"{facts['newer_left_out']} versions on discs are newer than the namespace, and are "
            "left out; was it restored from an old backup?"
        )
    say(
        "next: hsm fsck --repair, which brings states and copies in line; then start hsmfs and hsmd"
    )


def _show(facts: dict[str, Any]) -> None:
    say(
        f"{facts['files']} files ({size_words(facts['bytes'])}) whole, {facts['directories']} "
        f"directories, {facts['others']} links and special files"
    )
    if facts["unproved"]:
        complain(
            f"{facts['unproved']} files were taken by the discs' UDF trees: their manifest lines "
            "are damaged, nothing proves their bytes; look at them, or rebuild with another copy"
        )
    if facts["not_whole"]:
        complain(
            f"{facts['older']} files only in an older version, {facts['waiting']} wait for a "
            f"missing volume, {facts['lost']} lost"
        )
    for one in facts["examples"]:
        complain(f"{one['what']}: {one['path']}: {one['why']}")
    if not facts["changes_complete"]:
        complain(
            "not all sets of namespace changes are on these discs: names, owners and deletions "
            "since may be missing; files then have the paths under which they were burned"
        )
    if facts["superseded"]:
        say(f"{facts['superseded']} older files were left out: newer ones have their paths")
    if facts["moved_to_lost_found"]:
        complain(f"{facts['moved_to_lost_found']} things without a place are in lost+found")
    say("next: start hsmfs and hsmd; hsm fsck proves the result")
