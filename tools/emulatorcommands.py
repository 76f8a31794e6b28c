"""``hsm emulator``: an emulated library for other programs, as an iSCSI target."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from hsmfs.changer.emulated import EmulatedLibrary, open_library
from hsmfs.changer.emulated.desk import Desk, create_desk
from hsmfs.changer.emulated.deskstate import DESK_FILE
from hsmfs.changer.emulated.iscsi.login import Chap
from hsmfs.changer.emulated.iscsi.target import NAME, IscsiTarget
from hsmfs.changer.emulated.library import Speed
from hsmfs.clock import SystemClock
from hsmfs.errors import CallerError
from hsmfs.tools import deskcommands
from hsmfs.tools.output import say
from hsmfs.tools.system import ConfigOption, open_system

LISTEN = "127.0.0.1:3260"


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    emulator = typer.Typer(help="An emulated library for other programs.", no_args_is_help=True)
    emulator.command("create")(create)
    emulator.command("serve")(serve)
    deskcommands.add(emulator)
    app.add_typer(emulator, name="emulator")


def create(
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    drives: Annotated[int, typer.Option(min=1)] = 2,
    slots: Annotated[int, typer.Option(min=1)] = 24,
    magazine_slots: Annotated[int, typer.Option(min=1)] = 12,
    mailslots: Annotated[int, typer.Option(min=0)] = 0,
    disc_bytes: Annotated[int, typer.Option(min=1)] = 25_025_314_816,
    manual: Annotated[
        bool, typer.Option("--manual", help="Drives for a person to load, and discs beside them.")
    ] = False,
) -> None:
    """Make a library full of blank discs (sparse files) in DIR."""
    if manual:
        create_desk(directory, drives, slots, disc_bytes)
        say(f"{drives} drives without a robot and {slots} discs in {directory}")
        return
    EmulatedLibrary.create(directory, drives, slots, magazine_slots, disc_bytes, mailslots)
    say(f"library of {drives} drives and {slots} discs in {directory}")


def serve(
    ctx: typer.Context,
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="A library; or that of --config.")
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0: any.")] = LISTEN,
    name: Annotated[str, typer.Option(metavar="IQN", help="The target's name.")] = NAME,
    speed: Annotated[str, typer.Option(help="instant or realistic")] = "",
    user: Annotated[str, typer.Option(help="Who may log in, by CHAP.")] = "",
    secret_file: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    config: ConfigOption = None,
) -> None:
    """Offer a library as an iSCSI target: the changer is unit 0, drives follow. Ctrl-C ends it."""
    path, found_speed = _library(ctx, directory, config)
    library = _opened(path, _speed(speed) if speed else found_speed)
    host, port = _listen(listen)
    target = IscsiTarget(library, host, port, name, _chap(user, secret_file))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    with target:
        say(f"serving {name} at {target.portal}")
        for lun, device in enumerate(target.units.devices):
            what = device.product.decode().strip()
            say(f"iscsi://{target.portal}/{name}/{lun}  {what}  {device.serial}")
        sys.stdout.flush()  # who started it waits for these lines
        stop.wait()


def _opened(path: Path, speed: Speed) -> EmulatedLibrary | Desk:
    """For this process alone."""
    if (path / DESK_FILE).exists():
        return Desk(path, SystemClock(), speed)
    library = open_library(path, SystemClock(), speed)
    library.hold()
    return library


def _library(ctx: typer.Context, directory: Path | None, config: Path | None) -> tuple[Path, Speed]:
    if directory is not None:
        return directory, "instant"
    if config is None and ctx.find_root().obj is None:
        raise typer.BadParameter("give a library's directory, or --config")
    library = open_system(ctx, config).config.library[0]
    if not library.path:
        raise CallerError(f"library {library.name}: kind {library.kind}, expected emulated")
    return Path(library.path), library.speed


def _speed(text: str) -> Speed:
    if text == "instant":
        return "instant"
    if text == "realistic":
        return "realistic"
    raise typer.BadParameter(f"--speed {text}: expected instant or realistic")


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 0xFFFF:
        raise typer.BadParameter(f"--listen {text}: expected HOST:PORT")
    return host.strip("[]"), int(port)


def _chap(user: str, secret_file: Path | None) -> Chap | None:
    if not user and secret_file is None:
        return None
    if not user or secret_file is None:
        raise typer.BadParameter("--user and --secret-file go together")
    try:
        secret = secret_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CallerError(f"{secret_file}: {error}") from None
    if not secret:
        raise CallerError(f"{secret_file}: empty, expected a secret")
    return Chap(user, secret)
