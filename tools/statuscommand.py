"""The overview: states, tiers, drives, queues, alarms, and operator tasks."""

from __future__ import annotations

from typing import Any

import typer

from hsmfs.tools.magazinecommands import blanks_words
from hsmfs.tools.output import console, print_json, print_table, say, since_words, size_words, table
from hsmfs.tools.system import ConfigOption, JsonOption, open_system


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    app.command("status")(status)
    app.add_typer(_tasks_app(), name="tasks")


def status(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Overview: tiers, states, queues, drives, tasks, alarms."""
    with open_system(ctx, config).api() as api:
        found = api.get("/v1/status")
    if json:
        print_json(found)
        return
    _show_file_system(found["hsmfs"])
    _show_library(found)
    _show_work(found)


def _show_file_system(hsmfs: dict[str, Any]) -> None:
    screen = console()
    if not hsmfs["connected"]:
        say("hsmfs: not connected; the mount is down or starting")
        return
    screen.print(
        table(
            ("state", "files", "bytes"),
            ((s["state"], s["files"], size_words(s["bytes"])) for s in hsmfs["states"]),
            right=("files", "bytes"),
        )
    )
    screen.print(
        table(
            ("tier", "used", "capacity", "free"),
            (
                (t["name"], *(size_words(t[f"{k}_bytes"]) for k in ("used", "capacity", "free")))
                for t in hsmfs["tiers"]
            ),
            right=("used", "capacity", "free"),
        )
    )
    say(f"waiting readers: {hsmfs['waiting_readers']}")


def _show_library(found: dict[str, Any]) -> None:
    columns = ("name", "state", "disc", "volume", "errors", "note")
    console().print(
        table(
            ("drive", *columns[1:]),
            ([drive.get(key) for key in columns] for drive in found["drives"]),
            right=("errors",),
        )
    )
    aside = ", ".join(f"{n} {noun}" for noun, n in found.get("quarantined", {}).items() if n)
    if aside:
        say(f"in quarantine: {aside}")
    for noun in ("discs", "volumes"):
        counts = ", ".join(f"{number} {state}" for state, number in found[noun].items() if number)
        say(f"{noun}: {counts or 'none'}")
    if found.get("blanks"):
        say(blanks_words(found["blanks"]))


def _show_work(found: dict[str, Any]) -> None:
    queues = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in found["queues"].items())
    say(f"queues: {queues}")
    tasks = found["tasks"]
    say(f"operator tasks: {tasks}" + ("  (hsm tasks)" if tasks else ""))
    for alarm in found["alarms"]:
        say(f"ALARM {alarm['kind']}: {alarm['text']} ({since_words(alarm['since']) or 'now'})")


def _tasks_app() -> typer.Typer:
    app = typer.Typer(help="What a person must do.", invoke_without_command=True)
    app.callback()(tasks)
    app.command("done")(done)
    return app


def tasks(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """List what a person must do, and who waits for it."""
    if ctx.invoked_subcommand is not None:
        return
    with open_system(ctx, config).api() as api:
        found = api.get("/v1/tasks")
    if json:
        print_json(found)
        return
    print_table(
        ("id", "kind", "magazine", "since", "state", "what", "waiting"),
        (
            (
                task["id"],
                task["kind"],
                task["magazine"],
                since_words(task["since"]),
                task.get("state"),
                task["text"],
                [f"{w['program']}[{w['pid']}] {w['path']}" for w in task.get("waiting", [])],
            )
            for task in found["tasks"]
        ),
        empty="nothing to do",
    )
    for task in found["tasks"]:
        for key, word in (("place", "where"), ("why", "why"), ("problem", "PROBLEM")):
            if task.get(key):
                say(f"task {task['id']}: {word}: {task[key]}")


def done(
    ctx: typer.Context,
    number: int = typer.Argument(..., metavar="ID", help="As `hsm tasks` shows it."),
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Say that a task is done."""
    with open_system(ctx, config).api() as api:
        answer = api.post(f"/v1/tasks/{number}/done")
    if json:
        print_json(answer)
    else:
        say(f"task {number}: done")
