"""``hsm disc import``: discs of others as read-only trees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hsmfs.tools.apiclient import segment
from hsmfs.tools.filecommands import WaitOption
from hsmfs.tools.librarycommands import Row
from hsmfs.tools.librarycommands import _run_job as run_job
from hsmfs.tools.system import ConfigOption, JsonOption, open_system


def add(disc: typer.Typer) -> None:
    """Put this module's commands beside the others about discs."""
    disc.command("import")(import_disc)
    disc.command("forget-import")(forget_import)


def import_disc(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(metavar="BARCODE|IMAGE", help="In the library; or a file."),
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="New or empty directory of the mount.")
    ],
    hashed: Annotated[
        bool, typer.Option("--hash", help="Read all data now, so that it can be proved later.")
    ] = False,
    copies: Annotated[
        int | None,
        typer.Option("--copies", help="Of an image: discs to burn it to; as the default pool has."),
    ] = None,
    wait: WaitOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show an ISO 9660 or UDF disc that others wrote as a read-only tree of stubs.

    The image of one is burned to discs first, as it is.
    """
    body: Row = {"to": open_system(ctx, config).inside(to), "hash": hashed}
    path = f"/v1/discs/{segment(source)}/import"
    if "/" in source or Path(source).exists():
        path = "/v1/images/import"
        body |= {"image": str(Path(source).resolve()), "copies": copies}
    elif copies is not None:
        raise typer.BadParameter("--copies is for images; a disc is the only copy of itself")
    run_job(ctx, path, "import", body, wait, json, config)


def forget_import(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="BARCODE", help="Or the volume's label.")],
    wait: WaitOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take the tree of an imported disc away; the disc itself stays as it is."""
    path = f"/v1/discs/{segment(name)}/forget-import"
    run_job(ctx, path, "forget", {}, wait, json, config)
