"""``hsm library qualify``: does this robot with this drive do what hsmfs needs."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from hsmfs.tools.system import ConfigOption, JsonOption, open_system

EXIT_FAILED: Final = 1
TEST_BYTES: Final = 256 << 20


def qualify(
    ctx: typer.Context,
    drive: Annotated[
        str, typer.Option("--drive", metavar="D", help="drive0 …, its device or its serial.")
    ],
    scratch: Annotated[
        str, typer.Option("--scratch", metavar="BARCODE", help="A blank disc, to be used up.")
    ],
    size: Annotated[
        int, typer.Option("--bytes", min=1, help="Data of the test volume.")
    ] = TEST_BYTES,
    spares: Annotated[
        str, typer.Option("--spares", help="none, least or default: spare areas, before the burn.")
    ] = "none",
    library: Annotated[str, typer.Option("--library", help="Where there are several.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Try robot and drive step by step with one blank disc; hsmd must not run."""
    from hsmfs.tools.qualifyrun import run  # heavy, and of use here only

    if spares not in ("none", "least", "default"):
        raise typer.BadParameter(f"--spares {spares}: expected none, least or default")
    settings = open_system(ctx, config).config
    if not run(settings, library, drive, scratch, size, spares, json):
        raise typer.Exit(EXIT_FAILED)
