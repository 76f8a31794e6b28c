"""Commands about files: where they are, and moving their data by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hsmfs.tools.output import (
    complain,
    duration_words,
    moment_words,
    print_json,
    print_table,
    say,
    size_words,
)
from hsmfs.tools.progress import exit_of, follow
from hsmfs.tools.system import ConfigOption, JsonOption, System, open_system

PathsArgument = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Inside the mount.")]
RecursiveOption = Annotated[
    bool, typer.Option("-r", "--recursive", help="Directories with all that is in them.")
]
AllBelowOption = Annotated[
    bool,
    typer.Option(
        "-r/-R", "--recursive/--no-recursive", help="Directories with all that is below them."
    ),
]
PlanOption = Annotated[
    bool, typer.Option("--plan", help="Only say what it would take; change nothing.")
]
WaitOption = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Return when it is done, or when it is accepted.")
]
ERRORS_SHOWN_MAX = 20


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    app.command("ls")(ls)
    app.command("locate")(locate)
    app.command("migrate")(migrate)
    app.command("release")(release)
    app.command("recall")(recall)
    app.command("pin")(pin)
    app.command("unpin")(unpin)


def ls(
    ctx: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH...]", help="Default: the whole mount.")
    ] = None,
    recursive: AllBelowOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """List files with where their data is."""
    system = open_system(ctx, config)
    insides = [system.inside(path) for path in paths or [Path(system.config.fuse.mount)]]
    files: list[dict[str, Any]] = []
    with system.api() as api:
        for inside in insides:
            files += api.get("/v1/ls", path=inside, recursive="1" if recursive else "0")["files"]
    if json:
        print_json({"files": files})
        return
    print_table(
        ("state", "copies", "size", "cached", "magazines", "volumes", "path"),
        (
            (
                f["state"],
                f["copies"],
                size_words(f["size"]),
                size_words(f.get("cached_bytes") or 0),
                f["magazines"],
                f["volumes"],
                f["path"],
            )
            for f in files
        ),
        right=("copies", "size", "cached"),
        empty="no files",
    )


def locate(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="A file inside the mount.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show every copy of a file: volume, disc, place, offset, hash."""
    system = open_system(ctx, config)
    inside = system.inside(path)
    with system.api() as api:
        found = api.get("/v1/locate", path=inside)
    if json:
        print_json(found)
        return
    plain = ("volume", "disc", "magazine", "place", "state")
    print_table(
        (*plain, "verified", "offset", "size", "sha256"),
        (
            (
                *(copy.get(key) for key in plain),
                moment_words(copy["verified"]),
                copy["offset"],
                size_words(copy["size"]),
                copy["sha256"],
            )
            for copy in found["copies"]
        ),
        right=("offset", "size"),
        empty=f"{found['path']}: no copy on any disc yet",
    )


def migrate(
    ctx: typer.Context,
    paths: PathsArgument,
    recursive: RecursiveOption = False,
    wait: WaitOption = False,
    plan: PlanOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Burn copies to discs and verify them."""
    system = open_system(ctx, config)
    _request(system, "migrate", paths, recursive, wait, plan, json)


def release(
    ctx: typer.Context,
    paths: PathsArgument,
    recursive: RecursiveOption = False,
    wait: WaitOption = True,
    plan: PlanOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Drop cached data of files with enough proved copies, leaving stubs."""
    system = open_system(ctx, config)
    _request(system, "release", paths, recursive, wait, plan, json)


def recall(
    ctx: typer.Context,
    paths: PathsArgument,
    recursive: RecursiveOption = False,
    wait: WaitOption = False,
    plan: PlanOption = False,
    background: Annotated[
        bool, typer.Option("--background", help="Let all other recalls go first.")
    ] = False,
    within_s: Annotated[
        float | None, typer.Option("--within", min=0, help="Seconds in which it should be there.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Bring data back from the discs, each disc loaded once."""
    system = open_system(ctx, config)
    more: dict[str, object] = {"uid": os.getuid()}
    if background:
        more["background"] = True
    if within_s is not None:
        more["within_s"] = within_s
    _request(system, "recall", paths, recursive, wait, plan, json, more)


def pin(
    ctx: typer.Context,
    paths: PathsArgument,
    recursive: RecursiveOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Forbid release."""
    _request(open_system(ctx, config), "pin", paths, recursive, True, False, json)


def unpin(
    ctx: typer.Context,
    paths: PathsArgument,
    recursive: RecursiveOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Allow release again."""
    _request(open_system(ctx, config), "unpin", paths, recursive, True, False, json)


def _request(
    system: System,
    verb: str,
    paths: Sequence[Path],
    recursive: bool,
    wait: bool,
    plan: bool,
    json: bool,
    more: dict[str, object] | None = None,
) -> None:
    body: dict[str, object] = {
        "paths": [system.inside(path) for path in paths],
        "recursive": recursive,
        "plan": plan,
        **(more or {}),
    }
    with system.api() as api:
        answer: dict[str, Any] = api.post(f"/v1/{verb}", body)
        if plan:
            show_plan(answer, json)
            return
        number = int(answer["job"])
        job = follow(api, number, verb) if wait else api.get(f"/v1/jobs/{number}")
    show_job(job, json)
    raise typer.Exit(exit_of(job))


def show_plan(plan: dict[str, Any], json: bool) -> None:
    """What a request would take."""
    if json:
        print_json(plan)
        return
    say(
        f"{plan['files']} files, {size_words(plan['bytes'])}, {plan['discs']} discs, "
        f"{plan['loads']} loads, about {duration_words(plan['seconds'])}"
    )
    if plan.get("magazines"):
        say(f"magazines to fetch first: {', '.join(plan['magazines'])}")


def show_job(job: dict[str, Any], json: bool) -> None:
    """How a job went; reasons go to standard error."""
    if json:
        print_json(job)
        return
    running = job["state"] == "running"
    text = (
        f"{job['kind']} (job {job['id']}): {job['state']}, {job['files_done']} of "
        f"{job['files_total']} files, {size_words(job['bytes_done'])}"
    )
    say(text + ("; it goes on in hsmd, see: hsm status" if running else ""))
    for error in job["errors"][:ERRORS_SHOWN_MAX]:
        complain(error)
    if len(job["errors"]) > ERRORS_SHOWN_MAX:
        complain(f"... and {len(job['errors']) - ERRORS_SHOWN_MAX} more (all with --json)")
