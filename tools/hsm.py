"""``hsm``: the command line of everything but mounting.

Exit status: 0 done, 1 failed (says why), 2 wrong use, 3 done in part.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

import typer

from hsmfs.errors import FsError, HsmError
from hsmfs.tools.output import complain

EXIT_FAILED = 1
MODULES: Final = {
    "statuscommand": ("status", "tasks"),
    "filecommands": ("ls", "locate", "migrate", "release", "recall", "pin", "unpin"),
    "adoptcommand": ("adopt",),
    "librarycommands": ("library", "drive", "disc", "magazine", "volume", "pool"),
    "fsckcommand": ("fsck",),
    "checkcommand": ("check",),
    "rebuildcommand": ("rebuild",),
    "policycommands": ("policy",),
    "retentioncommands": ("retention",),
    "holdcommands": ("hold",),
    "logcommands": ("log",),
    "sandboxcommands": ("sandbox",),
    "emulatorcommands": ("emulator",),
}
"""Which module has which commands: importing all of them takes half a second."""


def make_app(words: Iterable[str] = ()) -> typer.Typer:
    """The command line: of the commands among these words, or of all if there is none."""
    app = typer.Typer(
        name="hsm",
        help="Look at and steer a hsmfs system.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(choose_system)
    given = set(words)
    wanted = [module for module, names in MODULES.items() if given.intersection(names)]
    for module in wanted or MODULES:
        importlib.import_module(f"hsmfs.tools.{module}").add(app)
    return app


def choose_system(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", envvar="HSM_CONFIG", metavar="FILE", help="Which system."),
    ] = None,
) -> None:
    """Look at and steer a hsmfs system."""
    ctx.obj = config


def main() -> None:
    """Run one command; expected errors are one line, never a traceback."""
    try:
        make_app([*sys.argv[1:], *os.environ.get("COMP_WORDS", "").split()])()
    except (HsmError, FsError) as error:
        complain(str(error))
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
