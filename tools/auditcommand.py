"""``hsm library audit``: where belief and library differ."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hsmfs.tools.output import print_json, print_table, say
from hsmfs.tools.progress import FAILED, PARTIAL, follow
from hsmfs.tools.system import ConfigOption, JsonOption, open_system


def audit(
    ctx: typer.Context,
    discs: Annotated[
        bool, typer.Option("--discs", help="Read in idle drives what each disc is.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Take over what is provable.")] = False,
    rescan: Annotated[
        bool, typer.Option("--rescan", help="The robot looks into all elements first.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare what hsmd believes with the library; exit status 3 where they differ."""
    body = {"discs": discs, "repair": repair, "rescan": rescan}
    with open_system(ctx, config).api() as api:
        job = follow(api, int(api.post("/v1/library/audit", body)["job"]), "audit")
    found: dict[str, Any] = job.get("details") or {}
    if json:
        print_json(found | {"errors": job["errors"]})
    else:
        _show(found, job["errors"])
    if job["errors"]:
        raise typer.Exit(FAILED)
    if any(not finding["repaired"] for finding in found["findings"]):
        raise typer.Exit(PARTIAL)


def _show(found: dict[str, Any], errors: list[str]) -> None:
    for error in errors:
        say(error)
    columns = ("kind", "disc", "place", "found", "expected")
    print_table(
        (*columns, "repaired, or what to do"),
        (
            (*(one[column] for column in columns), one["repaired"] or one["todo"])
            for one in found.get("findings", [])
        ),
        empty="library and belief agree",
    )
    if found.get("discs_read"):
        say(f"{found['discs_read']} discs were read")
