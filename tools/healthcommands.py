"""Drives and discs out of use for a time, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsmfs.tools.apiclient import segment
from hsmfs.tools.output import print_json, say
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

WhyOption = Annotated[str, typer.Option("--why", help="Kept with it.")]
HoursOption = Annotated[
    float | None,
    typer.Option("--hours", min=0.0, help="It returns by itself; without: until it is released."),
]
DriveArgument = Annotated[str, typer.Argument(help="As `hsm drive ls` names it.")]
BarcodeArgument = Annotated[str, typer.Argument(help="As `hsm disc ls` names it.")]


def add(drive: typer.Typer, disc: typer.Typer) -> None:
    """The commands of both nouns."""
    drive.command("quarantine")(quarantine_drive)
    drive.command("release")(release_drive)
    disc.command("quarantine")(quarantine_disc)
    disc.command("release")(release_disc)


def quarantine_drive(
    ctx: typer.Context,
    name: DriveArgument,
    why: WhyOption = "",
    hours: HoursOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take a drive out of service when its present work has ended; its disc goes home."""
    body = {"why": why, "hours": hours}
    _post(ctx, f"/v1/drives/{segment(name)}/quarantine", body, json, config)


def release_drive(
    ctx: typer.Context,
    name: DriveArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take a drive into service again."""
    _post(ctx, f"/v1/drives/{segment(name)}/release", {}, json, config)


def quarantine_disc(
    ctx: typer.Context,
    barcode: BarcodeArgument,
    why: WhyOption = "",
    hours: HoursOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Do not count a disc as a copy any more (`hsm disc verify` takes it back); a blank one is
    not used for a time, or until `hsm disc release`."""
    body = {"why": why, "hours": hours}
    _post(ctx, f"/v1/discs/{segment(barcode)}/quarantine", body, json, config)


def release_disc(
    ctx: typer.Context,
    barcode: BarcodeArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Use a disc again that was set aside."""
    _post(ctx, f"/v1/discs/{segment(barcode)}/release", {}, json, config)


def _post(
    ctx: typer.Context, path: str, body: dict[str, Any], json: bool, config: Path | None
) -> None:
    with open_system(ctx, config).api() as api:
        found = api.post(path, body)
    if json:
        print_json(found)
        return
    name = found.get("name") or found.get("barcode")
    say(f"{name}: {found['state']}" + (f" ({found['note']})" if found["note"] else ""))
