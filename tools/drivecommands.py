"""``hsm drive quarantine`` and ``hsm drive return``: a drive is left alone, and used again."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from hsmfs.tools.apiclient import segment
from hsmfs.tools.output import print_json, say
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

QUARANTINE: Final = "quarantine"
RETURN: Final = "return"
DriveArgument = Annotated[str, typer.Argument(help="A drive, see hsm drive ls.")]


def add(drive: typer.Typer) -> None:
    """The commands of ``hsm drive``."""
    drive.command(QUARANTINE)(quarantine)
    drive.command(RETURN)(give_back)


def quarantine(
    ctx: typer.Context,
    name: DriveArgument,
    why: Annotated[str, typer.Option("--why", help="Shown by hsm drive ls.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a drive no more work; what it does now comes to its end."""
    _post(ctx, name, QUARANTINE, {"why": why}, json, config)


def give_back(
    ctx: typer.Context,
    name: DriveArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Use a drive again that was out of service; its errors are forgotten."""
    _post(ctx, name, RETURN, {}, json, config)


def _post(
    ctx: typer.Context,
    name: str,
    verb: str,
    body: dict[str, str],
    json: bool,
    config: ConfigOption,
) -> None:
    with open_system(ctx, config).api() as api:
        found = api.post(f"/v1/drives/{segment(name)}/{verb}", body)
    if json:
        print_json(found)
    else:
        say(f"drive {found['name']}: {found['state']}")
