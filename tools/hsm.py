"""``hsm``: the command line of everything but mounting.

Exit status: 0 done, 1 failed (says why), 2 wrong use, 3 done in part.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hsmfs.errors import FsError, HsmError
from hsmfs.tools import (
    adoptcommand,
    emulatorcommands,
    filecommands,
    fsckcommand,
    librarycommands,
    policycommands,
    rebuildcommand,
    sandboxcommands,
    statuscommand,
)
from hsmfs.tools.output import complain

EXIT_FAILED = 1


def make_app() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="hsm",
        help="Look at and steer a hsmfs system.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(choose_system)
    for module in (
        statuscommand,
        filecommands,
        adoptcommand,
        librarycommands,
        fsckcommand,
        rebuildcommand,
        policycommands,
        sandboxcommands,
        emulatorcommands,
    ):
        module.add(app)
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
        make_app()()
    except (HsmError, FsError) as error:
        complain(str(error))
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
