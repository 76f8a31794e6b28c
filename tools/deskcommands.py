"""``hsm emulator put``, ``take`` and the like: the hands of a person at emulated drives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hsmfs.changer.emulated.desk import Person
from hsmfs.errors import CallerError
from hsmfs.tools.output import print_json, print_table, say, size_words
from hsmfs.tools.system import ConfigOption, JsonOption, open_system
from hsmfs.types import SECTOR_BYTES

DiscArgument = Annotated[str, typer.Argument(help="Its name, or what is written on it.")]
DriveArgument = Annotated[str, typer.Argument(help="Such as drive0.")]
DirOption = Annotated[
    Path | None, typer.Option("--dir", metavar="DIR", help="Of the drives; or that of --config.")
]


def add(emulator: typer.Typer) -> None:
    """Put this module's commands into ``hsm emulator``."""
    emulator.command("shelf")(shelf)
    emulator.command("press")(press)
    emulator.command("put")(put)
    emulator.command("take")(take)
    emulator.command("buy")(buy)


def shelf(
    ctx: typer.Context,
    directory: DirOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show drives, and discs with what is written on them and where they lie."""
    state = _person(ctx, directory, config).look()
    inside = {tray.disc: f"drive{number}" for number, tray in enumerate(state.trays)}
    discs: list[dict[str, Any]] = [
        {
            "name": name,
            "bytes": disc.sectors * SECTOR_BYTES,
            "written": disc.written,
            "box": disc.box,
            "drive": inside.get(name, ""),
        }
        for name, disc in state.discs.items()
    ]
    trays = [
        {"drive": f"drive{number}", "open": tray.is_open, "disc": tray.disc}
        for number, tray in enumerate(state.trays)
    ]
    if json:
        print_json({"drives": trays, "discs": discs})
        return
    for tray in trays:
        state_words = "open" if tray["open"] else "closed"
        say(f"{tray['drive']}: {state_words}, {tray['disc'] or 'no disc'}")
    print_table(
        ("disc", "size", "written", "box", "in"),
        ((d["name"], size_words(d["bytes"]), d["written"], d["box"], d["drive"]) for d in discs),
        empty="no discs",
    )


def press(
    ctx: typer.Context,
    drive: DriveArgument,
    directory: DirOption = None,
    config: ConfigOption = None,
) -> None:
    """Press a drive's button: its tray opens or closes."""
    is_open = _person(ctx, directory, config).press(drive)
    say(f"{drive}: {'open' if is_open else 'closed'}")


def put(
    ctx: typer.Context,
    disc: DiscArgument,
    drive: DriveArgument,
    directory: DirOption = None,
    config: ConfigOption = None,
) -> None:
    """Lay a disc on the open tray and push it in."""
    name = _person(ctx, directory, config).put(disc, drive)
    say(f"{name} is in {drive}")


def take(
    ctx: typer.Context,
    drive: DriveArgument,
    write: Annotated[str | None, typer.Option(help="On the disc, with a pen.")] = None,
    box: Annotated[str | None, typer.Option(help="Where to lay it.")] = None,
    directory: DirOption = None,
    config: ConfigOption = None,
) -> None:
    """Take the disc from the open tray."""
    name = _person(ctx, directory, config).take(drive, write, box)
    say(f"{name} is out of {drive}")


def buy(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Of the new disc: letters and digits.")],
    disc_bytes: Annotated[int, typer.Option(min=1)] = 200_000_000,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What somebody else burned on it.")
    ] = None,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Its burn was cut.")] = False,
    directory: DirOption = None,
    config: ConfigOption = None,
) -> None:
    """One more disc: blank, or somebody else's."""
    _person(ctx, directory, config).buy(disc_bytes, name, image, closed=not unfinished)
    say(f"{name} is there")


def _person(ctx: typer.Context, directory: Path | None, config: Path | None) -> Person:
    if directory is not None:
        return Person(directory)
    library = open_system(ctx, config).config.library[0]
    if library.kind != "manual" or not library.path:
        raise CallerError(
            f"library {library.name}: kind {library.kind}, expected manual with emulated drives"
        )
    return Person(Path(library.path))
