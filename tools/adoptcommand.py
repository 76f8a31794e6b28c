"""``hsm adopt``: files that lie on the cache's disk become files of the mount, without copying."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import trio
import typer

from hsmfs.errors import CallerError
from hsmfs.tools.adopt.look import Found, check_source, look, shown
from hsmfs.tools.adopt.run import Outcome, adopt
from hsmfs.tools.output import complain, print_json, say, size_words
from hsmfs.tools.system import ConfigOption, JsonOption, System, open_system

EXIT_IN_PART: Final = 3
SHOWN_MAX: Final = 20
TOLD_FILES: Final = 10_000
"""Progress is told once in so many files, on a terminal."""


def add(app: typer.Typer) -> None:
    """Put this module's command into the application."""
    app.command("adopt")(adopt_command)


def adopt_command(
    ctx: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="On the file system of the cache tier.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="PATH",
            help="New place in the mount; default: its name in the mount's root.",
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would come and what not.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take a directory into the mount by renaming, without copying its data."""
    system = open_system(ctx, config)
    real = check_source(system.config, source)
    target = _target(system, to or Path(system.config.fuse.mount) / real.name)
    found = look(real)
    if plan:
        _show(real, target, system, None, found, found, json)
        raise typer.Exit(EXIT_IN_PART if found.left_count else 0)
    outcome, rest = trio.run(adopt, system.config, real, target, found, _teller(found.files))
    _show(real, target, system, outcome, found, rest, json)
    raise typer.Exit(EXIT_IN_PART if rest.left_count else 0)


def _target(system: System, to: Path) -> bytes:
    mount = Path(system.config.fuse.mount)
    inside = Path(system.inside(to))
    for root in (mount, mount.parent.resolve() / mount.name, mount.resolve()):
        if inside.is_relative_to(root):
            target = os.fsencode(inside.relative_to(root))
            if target == b".":
                raise CallerError(f"--to {to}: the mount's root is there already; name a new place")
            return target
    raise CallerError(f"--to {to}: found no path in the mount {mount}")


def _teller(total: int) -> Any:
    told = [0]

    def tell(files: int) -> None:
        if sys.stderr.isatty() and files - told[0] >= TOLD_FILES:
            told[0] = files
            complain(f"{files} of {total} files adopted")

    return tell


def _show(
    source: Path,
    target: bytes,
    system: System,
    outcome: Outcome | None,
    found: Found,
    rest: Found,
    json: bool,
) -> None:
    to = Path(system.config.fuse.mount) / os.fsdecode(target)
    counted = outcome or found
    if json:
        print_json(
            {
                "source": str(source),
                "to": str(to),
                "done": outcome is not None,
                "resumed": outcome is not None and outcome.resumed,
                "files": counted.files,
                "directories": counted.directories,
                "others": counted.others,
                "bytes": counted.data_bytes,
                "left": rest.left_count,
                "reasons": [
                    {"path": os.fsdecode(os.fsencode(source) + b"/" + left.path), "why": left.why}
                    for left in rest.left
                ],
            }
        )
        return
    for left in rest.left[:SHOWN_MAX]:
        complain(f"stays: {shown(source, left.path)}: {left.why}")
    if rest.left_count > SHOWN_MAX:
        complain(f"... and {rest.left_count - SHOWN_MAX} more (--json has up to {len(rest.left)})")
    words = "would be adopted as" if outcome is None else "adopted as"
    say(
        f"{counted.files} files ({size_words(counted.data_bytes)}), {counted.directories} "
        f"directories, {counted.others} links and special files {words} {to}"
    )
    if outcome is not None and rest.left_count:
        say("the rest is in its old place: put right what is named, and run the same again")
