"""Commands that say where magazines belong and where they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsmfs.tools.apiclient import segment
from hsmfs.tools.labelcommand import magazine_labels
from hsmfs.tools.output import moment_words, print_json, print_table, say, since_words, size_words
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

Row = dict[str, Any]
NameArgument = Annotated[str, typer.Argument(help="As `hsm magazine ls` shows it.")]


def add(app: typer.Typer) -> None:
    """Put this module's commands into ``hsm magazine``."""
    app.command("offsite")(offsite)
    app.command("onsite")(onsite)
    app.command("place")(place)
    app.command("show")(show)
    app.command("plan-export")(plan_export)
    app.command("labels")(magazine_labels)
    app.command("missing")(missing)
    app.command("found")(found)
    app.command("stay")(stay)


def show_list(rows: list[Row]) -> None:
    """The table of ``hsm magazine ls``."""
    columns = ("name", "where", "since", "slots", "discs", "blank", "volumes", "volumes only here")
    print_table(
        columns,
        (
            (
                m["name"],
                _where(m),
                since_words(m.get("since")),
                _span(m["slots"]),
                m["discs"],
                m.get("blank"),
                m["volumes"],
                m["last_copies"],
            )
            for m in rows
        ),
        right=("discs", "blank", "volumes only here"),
        empty="no magazines",
    )


def blanks_words(blanks: Row) -> str:
    """The stock of blank discs in a line."""
    kept = blanks["library"] - blanks["usable"]
    parts = [f"{blanks['library']} in the library" + (f" ({kept} kept for parity)" if kept else "")]
    if blanks["outside"]:
        parts.append(f"{blanks['outside']} outside")
    parts += [f"{pool or 'no pool'} {rate:.2g} a day" for pool, rate in blanks["per_day"].items()]
    if blanks["days_left"] is None:
        parts.append("" if blanks["per_day"] else f"none burned in {blanks['rate_days']:g} days")
    else:
        day = moment_words(blanks["ends"])[:10]
        parts.append(f"they end in about {blanks['days_left']:.0f} days ({day})")
    return f"blank discs: {', '.join(filter(None, parts))}"


def _where(magazine: Row) -> str:
    """Where a magazine is, and whether it is meant to leave."""
    state = str(magazine["state"])
    if magazine.get("exporting"):
        return f"{state}, to be taken out"
    if state in ("library", "blank") and magazine.get("offsite"):
        return f"{state}, for off-site"
    location = magazine.get("location")
    return f"{state}: {location}" if location else state


def _span(slots: list[int]) -> str:
    return f"{min(slots)}-{max(slots)}" if slots else "-"


def show(
    ctx: typer.Context, name: NameArgument, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """Show one magazine with its discs, and where it was."""
    with open_system(ctx, config).api() as api:
        found = api.get(f"/v1/magazines/{segment(name)}")
    _show(found, json)


def _show(found: Row, json: bool) -> None:
    if json:
        print_json(found)
        return
    show_list([found])
    columns = ("position", "barcode", "state", "volume", "place")
    rows = ([disc[column] for column in columns] for disc in found["contents"])
    print_table(columns, rows, right=("position",), empty="no discs")
    print_table(
        ("when", "state", "where", "note"),
        ((moment_words(h["time"]), h["state"], h["location"], h["text"]) for h in found["history"]),
        empty="nothing is known to have happened to it",
    )


def plan_export(
    ctx: typer.Context,
    count: Annotated[int, typer.Option("--count", min=1, help="So many magazines.")] = 1,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Which magazines to take out: the coldest, each volume keeping a copy. Changes nothing."""
    with open_system(ctx, config).api() as api:
        plan = api.get("/v1/magazines/plan-export", count=str(count))
    if json:
        print_json(plan)
        return
    right = ("bytes", "volumes", "heat", "blank")
    print_table(
        ("take out", "to", *right, "last read", "its volumes stay in"),
        ((*_plan_row(m), m["kept_in"]) for m in plan["take"]),
        right=right,
        empty="no magazine can leave",
    )
    print_table(
        ("stays", "to", *right, "last read", "why"),
        ((*_plan_row(m), m["why"]) for m in plan["stay"]),
        right=right,
        empty="no other magazine is in the library",
    )
    for magazine in plan["take"]:
        say(f"hsm magazine export {magazine['name']}")


def _plan_row(m: Row) -> tuple[Any, ...]:
    volumes, read = len(m["volumes"]), moment_words(m["last_read"])
    return m["name"], m["to"], size_words(m["bytes"]), volumes, m["heat"], m["blank"], read


def missing(
    ctx: typer.Context,
    name: NameArgument,
    why: Annotated[str, typer.Option("--why", help="Kept in the magazine's history.")] = "",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Nobody knows where it is: its discs are no copies until it is found."""
    with open_system(ctx, config).api() as api:
        answer = api.post(f"/v1/magazines/{segment(name)}/missing", {"why": why})
    _show(answer, json)


def found(
    ctx: typer.Context,
    name: NameArgument,
    where: Annotated[str | None, typer.Option("--place", help="Where it stands, in words.")] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """A missing magazine stands outside again; one that is put in is found by itself."""
    body = {} if where is None else {"location": where}
    with open_system(ctx, config).api() as api:
        answer = api.post(f"/v1/magazines/{segment(name)}/found", body)
    _show(answer, json)


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


def stay(
    ctx: typer.Context, name: NameArgument, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """It is not to be taken out after all: ends its export."""
    with open_system(ctx, config).api() as api:
        answer = api.post(f"/v1/magazines/{segment(name)}/stay")
    _show(answer, json)


def _mark(
    ctx: typer.Context, name: str, body: dict[str, Any], json: bool, config: Path | None
) -> None:
    with open_system(ctx, config).api() as api:
        found = api.post(f"/v1/magazines/{segment(name)}/mark", body)
    if json:
        print_json(found)
        return
    kind = "for off-site" if found["offsite"] else "for here"
    where = _where(found)
    say(f"magazine {name}: {kind}, now: {where}")
