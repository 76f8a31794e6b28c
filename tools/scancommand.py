"""``hsm library scan`` and ``hsm drive trace``: devices found, and what was said to them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from hsmfs.changer.discovery import Device, config_text, scan_machine, scan_portal
from hsmfs.changer.transport.address import parse_portal
from hsmfs.errors import CallerError
from hsmfs.tools.apiclient import segment
from hsmfs.tools.output import complain, print_json, print_table, say
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

EXIT_FAILED = 1
TRACE_SHOWN = 50


def scan(
    portal: Annotated[
        str, typer.Option(metavar="HOST[:PORT]", help="Look at an iSCSI portal.")
    ] = "",
    user: Annotated[str, typer.Option(metavar="NAME", help="CHAP user of the portal.")] = "",
    secret_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the user's secret.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find changers and drives (/dev/sg*, or a portal's); print a configuration to start from."""
    try:
        secret = secret_file.read_text("utf-8").strip() if secret_file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise CallerError(f"{secret_file}: {error}") from None
    devices = scan_portal(parse_portal(portal), user, secret) if portal else scan_machine()
    if json:
        print_json({"devices": [_plain(device) for device in devices]})
    else:
        typer.echo(config_text([device for device in devices if device.kind]), nl=False)
    for device in devices:
        if not device.kind:
            complain(f"{device.address}: {device.problem}")
    if not any(device.kind == "changer" for device in devices):
        where = portal or "/dev/sg*"
        complain(f"no changer found at {where}; may this user open the devices, is sg loaded?")
        raise typer.Exit(EXIT_FAILED)


def _plain(device: Device) -> dict[str, Any]:
    elements = {}
    if device.inventory is not None:
        elements = {
            "slots": len(device.inventory.slots),
            "mailslots": len(device.inventory.mailslots),
            "drives": [
                {"element": int(one.address), "serial": one.drive_serial or ""}
                for one in device.inventory.drives
            ],
        }
    return {
        "address": device.address,
        "kind": device.kind,
        **device.identity._asdict(),
        **elements,
        "problem": device.problem,
    }


def trace(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A drive, or changer.")],
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, help="How many of the last commands.")
    ] = TRACE_SHOWN,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show the last SCSI commands of a drive or the changer, with reply, time and sense."""
    with open_system(ctx, config).api() as api:
        found = api.get(f"/v1/drives/{segment(name)}/trace")
    found["entries"] = found["entries"][-lines:]
    if json:
        print_json(found)
        return
    columns = ("time", "ms", "command", "out", "in", "outcome", "cdb")
    rows = [
        (
            datetime.fromtimestamp(entry["time_ns"] / 1e9).strftime("%H:%M:%S.%f")[:-3],
            f"{entry['seconds'] * 1000:.1f}",
            entry["command"],
            entry["sent_bytes"],
            entry["received_bytes"],
            _outcome(entry),
            entry["cdb"],
        )
        for entry in found["entries"]
    ]
    print_table(columns, rows, right=("ms", "out", "in"), empty="no commands yet")
    say(f"{len(rows)} commands")


def _outcome(entry: dict[str, Any]) -> str:
    if entry["error"]:
        return str(entry["error"])
    if entry["sense"]:
        return f"{entry['sense']} {entry['meaning']}"
    return "good" if entry["status"] == 0 else f"status {entry['status']:02X}h"
