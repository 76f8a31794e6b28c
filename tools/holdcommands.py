"""``hsm hold``: files that nobody may change or remove, for a reason."""

from __future__ import annotations

from typing import Annotated

import typer

from hsmfs.errors import CallerError
from hsmfs.namespace import keeping
from hsmfs.namespace.settling import shown_path
from hsmfs.namespace.wormview import WormView
from hsmfs.rpc.messages import Call
from hsmfs.rpc.wormmessages import HoldClear, HoldSet, WormResults
from hsmfs.tools.output import print_json, print_table
from hsmfs.tools.retentioncommands import (
    PathsArgument,
    RecursiveOption,
    batches,
    tell_results,
)
from hsmfs.tools.system import ConfigOption, JsonOption, open_system
from hsmfs.tools.wormsystem import ask, files_at, store_of, who

ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Such as a case.")]


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    group = typer.Typer(help="Legal holds on files.", no_args_is_help=True)
    group.command("set")(set_command)
    group.command("clear")(clear)
    group.command("ls")(ls)
    app.add_typer(group, name="hold")


def set_command(
    ctx: typer.Context,
    paths: PathsArgument,
    reason: ReasonOption,
    recursive: RecursiveOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Nobody changes or removes these files, whatever their date says."""
    system = open_system(ctx, config)
    with store_of(system) as reader:
        files = files_at(system, reader, paths, recursive)
    calls: list[Call] = [HoldSet(some, reason, who()) for some in batches(list(files))]
    tell_results(files, ask(system, calls, WormResults), json)


def clear(
    ctx: typer.Context,
    paths: PathsArgument,
    reason: ReasonOption = "",
    every: Annotated[bool, typer.Option("--all", help="All holds of these files.")] = False,
    recursive: RecursiveOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """End the hold of a reason, or all holds."""
    if bool(reason) == every:
        raise CallerError("hold clear: expected --reason of the hold that ends, or --all")
    system = open_system(ctx, config)
    with store_of(system) as reader:
        files = files_at(system, reader, paths, recursive)
    calls: list[Call] = [HoldClear(some, reason, who()) for some in batches(list(files))]
    tell_results(files, ask(system, calls, WormResults), json)


def ls(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """All held files and why."""
    system = open_system(ctx, config)
    with store_of(system) as reader:
        rows = [
            {
                "path": "/" + shown_path(path),
                "ino": ino,
                "reason": hold.reason,
                "by": hold.by,
                "since": keeping.shown(hold.set_ns),
            }
            for ino, path, holds in WormView(reader).holds()
            for hold in holds
        ]
    if json:
        print_json(rows)
        return
    columns = ("path", "reason", "by", "since")
    print_table(columns, [[row[name] for name in columns] for row in rows])
