"""``hsm sandbox``: a whole system to try, under one directory."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hsmfs.tools.output import print_json, say
from hsmfs.tools.sandbox import Options, Sandbox
from hsmfs.tools.system import JsonOption

DirArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Holds everything of it.")]


class Session(StrEnum):
    """How the file system is mounted."""

    PYFUSE3 = "pyfuse3"
    NATIVE = "native"


class Speed(StrEnum):
    """How long the emulated devices take."""

    INSTANT = "instant"
    REALISTIC = "realistic"


class Kind(StrEnum):
    """Who loads the drives."""

    EMULATED = "emulated"
    MANUAL = "manual"


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    sandbox = typer.Typer(
        help="A whole system on an emulated library, under one directory.", no_args_is_help=True
    )
    sandbox.command("start")(start)
    sandbox.command("stop")(stop)
    sandbox.command("status")(status)
    app.add_typer(sandbox, name="sandbox")


def start(
    directory: DirArgument,
    session: Annotated[Session | None, typer.Option(help="Default: native.")] = None,
    speed: Annotated[Speed | None, typer.Option(help="Default: instant.")] = None,
    drives: Annotated[int | None, typer.Option(min=1, max=36, help="Default: 2.")] = None,
    slots: Annotated[int | None, typer.Option(min=2, max=10_000, help="Default: 24.")] = None,
    disc_bytes: Annotated[
        int | None,
        typer.Option(min=4_000_000, max=200_000_000_000, help="Default: 200000000."),
    ] = None,
    pool_copies: Annotated[int | None, typer.Option(min=1, max=9, help="Default: 2.")] = None,
    library: Annotated[
        Kind | None, typer.Option(help="A robot (emulated, the default), or a person (manual).")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make or go on with a sandbox; ready when this returns."""
    sandbox = Sandbox(directory)
    sandbox.start(
        Options(
            session=session.value if session else None,
            speed=speed.value if speed else None,
            drives=drives,
            slots=slots,
            disc_bytes=disc_bytes,
            pool_copies=pool_copies,
            library=library.value if library else None,
        )
    )
    if json:
        print_json({**_status(sandbox), "notes": sandbox.notes})
        return
    for note in sandbox.notes:
        say(f"note: {note}")
    say(f"ready: {sandbox.mount}\nits commands: hsm --config {sandbox.config_path} status")


def stop(directory: DirArgument, json: JsonOption = False) -> None:
    """End it; everything stays for the next start."""
    sandbox = Sandbox(directory)
    words = sandbox.stop()
    if json:
        print_json({"dir": str(sandbox.dir), "done": words})
    else:
        say("\n".join(words))


def status(directory: DirArgument, json: JsonOption = False) -> None:
    """Say what of it runs."""
    found = _status(Sandbox(directory))
    if json:
        print_json(found)
        return
    for key, value in found.items():
        say(f"{key}: {'not running' if value is None else value}")


def _status(sandbox: Sandbox) -> dict[str, object]:
    return {"dir": str(sandbox.dir), **asdict(sandbox.health())}
