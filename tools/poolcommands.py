"""``hsm pool show``: what a pool asks for, and what is on discs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hsmfs.tools.apiclient import segment
from hsmfs.tools.output import duration_words, print_json, say, size_words
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

DAY_S = 86_400


def add(app: typer.Typer) -> None:
    """Put this module's command into ``hsm pool``."""
    app.command("show")(show_pool)


def show_pool(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="As `hsm pool ls` shows it.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one pool: its settings, its volumes, where their copies are."""
    with open_system(ctx, config).api() as api:
        found = api.get(f"/v1/pools/{segment(name)}")
    if json:
        print_json(found)
        return
    for line in _lines(found):
        say(line)


def _lines(pool: dict[str, Any]) -> list[str]:
    scrub = "never"
    if pool["scrub_s"]:
        scrub = f"every {_long(pool['scrub_s'])}, {pool['scrub_percent']:g} % of a disc"
    reclaim = "only by hand"
    if pool["reclaim_dead"] is not None:
        reclaim = f"when more than {pool['reclaim_dead'] * 100:g} % is dead"
    lines = [
        f"pool {pool['name']}: {pool['copies']} copies by {pool['spread']}, of them "
        f"{pool['offsite']} off-site; parity {pool['parity']}",
        f"read again: {scrub}; reclaimed: {reclaim}",
        f"{pool['volumes']} volumes, {pool['files']} files, {size_words(pool['bytes'])}, "
        f"{size_words(pool['dead_bytes'])} of it dead",
        f"{pool['copies_verified']} proved copies, {pool['copies_offsite']} of them off-site "
        f"({', '.join(pool['offsite_magazines']) or 'no magazine'})",
    ]
    if pool["volumes_without_offsite"]:
        labels = ", ".join(pool["volumes_without_offsite"])
        lines.append(f"without their off-site copies: {labels}")
    return lines


def _long(seconds: float) -> str:
    days = seconds / DAY_S
    return f"{days:g} days" if days >= 1 else duration_words(seconds)
