"""Commands that say where magazines belong and where they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsmfs.tools.apiclient import segment
from hsmfs.tools.output import print_json, say
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

NameArgument = Annotated[str, typer.Argument(help="As `hsm magazine ls` shows it.")]


def add(app: typer.Typer) -> None:
    """Put this module's commands into ``hsm magazine``."""
    app.command("offsite")(offsite)
    app.command("onsite")(onsite)
    app.command("place")(place)


def offsite(
    ctx: typer.Context, name: NameArgument, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Off-site copies go to its discs; when it is full, a task says to take it away."""
    _mark(ctx, name, {"offsite": True}, json, config)


def onsite(
    ctx: typer.Context, name: NameArgument, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """It stays here: its discs count as copies at hand."""
    _mark(ctx, name, {"offsite": False}, json, config)


def place(
    ctx: typer.Context,
    name: NameArgument,
    where: Annotated[str, typer.Argument(help="In words, such as 'bank vault, shelf 3'.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say where a magazine stands that is not in the library."""
    _mark(ctx, name, {"location": where}, json, config)


def _mark(
    ctx: typer.Context, name: str, body: dict[str, Any], json: bool, config: Path | None
) -> None:
    with open_system(ctx, config).api() as api:
        found = api.post(f"/v1/magazines/{segment(name)}/mark", body)
    if json:
        print_json(found)
        return
    kind = "for off-site" if found["offsite"] else "for here"
    where = found["location"] or found["state"]
    say(f"magazine {name}: {kind}, now: {where}")
