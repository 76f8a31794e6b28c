"""Commands about the library: drives, discs, magazines, volumes, pools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hsmfs.errors import HsmError
from hsmfs.tools import healthcommands, magazinecommands, poolcommands
from hsmfs.tools.apiclient import segment
from hsmfs.tools.auditcommand import audit
from hsmfs.tools.filecommands import WaitOption, show_job
from hsmfs.tools.labelcommand import disc_labels
from hsmfs.tools.output import complain, moment_words, print_json, print_table, say, size_words
from hsmfs.tools.progress import exit_of, follow
from hsmfs.tools.qualifycommand import qualify
from hsmfs.tools.scancommand import scan, trace
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

Row = dict[str, Any]
EXIT_FAILED: Final = 1
EXIT_IN_PART: Final = 3


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    from hsmfs.tools import importcommands

    magazine = _noun("Trays of discs that a person moves.", "magazines", magazinecommands.show_list)
    magazine.command("export")(export_magazine)
    magazine.command("import")(import_magazine)
    magazine.command("parity")(parity_magazine)
    magazinecommands.add(magazine)
    volume = _noun("What is recorded, one volume on one disc.", "volumes", _volume_table)
    volume.command("show")(show_volume)
    for verb, text in VOLUME_JOBS.items():
        volume.command(verb, help=text)(_volume_job(verb))
    volume.command("dump")(dump_volume)
    volume.command("extract")(extract_volume)
    volume.command("rebuild")(rebuild_volume)
    volume.command("mend")(mend_volume)
    pool = typer.Typer(help="Volumes written for one class of data.", no_args_is_help=True)
    pool.command("ls")(list_pools)
    poolcommands.add(pool)
    app.add_typer(_library_app(), name="library")
    drive = _noun("Drives of the library.", "drives", _drive_table)
    drive.command("trace")(trace)
    app.add_typer(drive, name="drive")
    disc = _noun("Physical discs.", "discs", _disc_table)
    disc.command("show")(show_disc)
    disc.command("history", hidden=True)(show_disc)
    disc.command("verify")(verify_disc)
    disc.command("identify")(identify_disc)
    importcommands.add(disc)
    disc.command("labels")(disc_labels)
    healthcommands.add(drive, disc)
    app.add_typer(disc, name="disc")
    app.add_typer(magazine, name="magazine")
    app.add_typer(volume, name="volume")
    app.add_typer(pool, name="pool")


def _noun(text: str, plural: str, show: Callable[[list[Row]], None]) -> typer.Typer:
    """An application with ``ls`` of one noun."""
    app = typer.Typer(help=text, no_args_is_help=True)

    def ls(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
        with open_system(ctx, config).api() as api:
            found = api.get(f"/v1/{plural}")
        if json:
            print_json(found)
            return
        show(found[plural])
        if found.get("blanks"):
            say(magazinecommands.blanks_words(found["blanks"]))

    app.command("ls", help=f"List all {plural}.")(ls)
    app.callback()(_keep_as_group)
    return app


def _keep_as_group() -> None:
    """Without a callback typer folds an application of one command into it."""


def _library_app() -> typer.Typer:
    app = typer.Typer(help="Robots with their slots and drives.", no_args_is_help=True)
    app.callback()(_keep_as_group)
    app.command("ls")(list_library)
    app.command("scan")(scan)
    app.command("audit")(audit)
    app.command("qualify")(qualify)
    return app


def list_library(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Show each library's elements and what is in them."""
    with open_system(ctx, config).api() as api:
        found = api.get("/v1/library")
    if json:
        print_json(found)
        return
    for library in found["libraries"]:
        state = library.get("problem") or "works"
        say(f"library {library['name']} ({library['kind']}): {state}")
        _drive_table(library["drives"])
        print_table(
            ("slot", "disc"),
            ((slot["address"], slot["barcode"]) for slot in library["slots"]),
            right=("slot",),
        )


def _drive_table(rows: list[Row]) -> None:
    columns = ("name", "state", "disc", "volume", "errors", "note")
    print_table(columns, ([row.get(c) for c in columns] for row in rows), right=("errors",))


def _disc_table(rows: list[Row]) -> None:
    plain = ("barcode", "state", "volume", "magazine", "place")
    print_table(
        (*plain, "used", "capacity", "loads", "read errors"),
        (
            (
                *(row.get(c) for c in plain),
                size_words(row["used_bytes"]),
                size_words(row["capacity_bytes"]),
                row["loads"],
                row["read_errors"],
            )
            for row in rows
        ),
        right=("used", "capacity", "loads", "read errors"),
        empty="no discs",
    )


def _volume_table(rows: list[Row]) -> None:
    columns = ("label", "pool", "state", "copies", "files", "bytes", "discs")
    print_table(
        columns,
        ([size_words(row[c]) if c == "bytes" else row.get(c) for c in columns] for row in rows),
        right=("copies", "files", "bytes"),
        empty="no volumes",
    )


MailslotsOption = Annotated[
    bool, typer.Option("--mailslots", help="Disc by disc, where magazines do not come out.")
]


def export_magazine(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="As `hsm magazine ls` shows it.")],
    mailslots: MailslotsOption = False,
    wait: WaitOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Give a magazine out of the library, to the shelf."""
    _move(ctx, name, "export", wait, json, config, {"mailslots": mailslots})


def import_magazine(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="As `hsm magazine ls` shows it.")],
    mailslots: MailslotsOption = False,
    wait: WaitOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Take a magazine from the shelf back into the library."""
    _move(ctx, name, "import", wait, json, config, {"mailslots": mailslots})


def parity_magazine(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="As `hsm magazine ls` shows it.")],
    wait: WaitOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Make parity over the discs that are in a magazine now, and burn it to blanks in it."""
    _move(ctx, name, "parity", wait, json, config)


def rebuild_volume(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Images of the set: members and parity.")
    ],
    label: Annotated[str, typer.Option("--label", help="Which volume is to be made anew.")],
    into: Annotated[Path, typer.Option("--into", metavar="FILE", help="The image to write.")],
    json: JsonOption = False,
) -> None:
    """Make the image of a lost volume anew from its parity set, without any daemon."""
    from hsmfs.tools.volrebuild import rebuild_image

    found = rebuild_image(label, into, images)
    if json:
        print_json(found)
        return
    for note in found["notes"]:
        complain(note)
    say(f"{into}: volume {label}, made anew from {', '.join(found['used'])}")


def _move(
    ctx: typer.Context,
    name: str,
    verb: str,
    wait: bool,
    json: bool,
    config: Path | None,
    body: Row | None = None,
) -> None:
    with open_system(ctx, config).api() as api:
        number = int(api.post(f"/v1/magazines/{segment(name)}/{verb}", body or {})["job"])
        job = follow(api, number, verb) if wait else api.get(f"/v1/jobs/{number}")
    show_job(job, json)
    raise typer.Exit(exit_of(job))


def show_volume(
    ctx: typer.Context,
    label: Annotated[str, typer.Argument(help="As `hsm volume ls` shows it.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one volume with its files."""
    with open_system(ctx, config).api() as api:
        found = api.get(f"/v1/volumes/{segment(label)}")
    if json:
        print_json(found)
        return
    _volume_table([found])
    for barcode, place in found.get("places", {}).items():
        say(f"disc {barcode}: {place}")
    if found.get("offsite"):
        say(f"{found['offsite']} of its {found['verified']} proved copies are for off-site")
    if found.get("dead_bytes") is not None:
        say(f"deleted or changed since: {size_words(found['dead_bytes'])}")
    print_table(
        ("offset", "ino", "live", "path"),
        ((f["offset"], f["ino"], f["live"], f["path"]) for f in found["contents"]),
        right=("offset", "ino"),
    )


PercentOption = Annotated[
    float,
    typer.Option("--sample", metavar="PERCENT", help="Read so much of the data, by chance."),
]
VOLUME_JOBS: Final = {
    "verify": "Read a volume's discs that are in the library, and prove every byte.",
    "repair": "Burn fresh discs until the volume has all its copies.",
    "reclaim": "Burn what lives on a volume into new ones, and retire it.",
    "refresh": "Burn fresh discs in place of all that the volume has; the old are retired.",
}
BarcodeArgument = Annotated[str, typer.Argument(help="As `hsm disc ls` shows it.")]


def _volume_job(verb: str) -> Callable[..., None]:
    """A command about one volume that becomes a job."""

    def plain(
        ctx: typer.Context,
        label: Annotated[str, typer.Argument(help="As `hsm volume ls` shows it.")],
        wait: WaitOption = True,
        json: JsonOption = False,
        config: ConfigOption = None,
    ) -> None:
        _run_job(ctx, f"/v1/volumes/{segment(label)}/{verb}", verb, {}, wait, json, config)

    def verify(
        ctx: typer.Context,
        label: Annotated[str, typer.Argument(help="As `hsm volume ls` shows it.")],
        sample: PercentOption = 100.0,
        wait: WaitOption = True,
        json: JsonOption = False,
        config: ConfigOption = None,
    ) -> None:
        body = {"percent": sample}
        _run_job(ctx, f"/v1/volumes/{segment(label)}/verify", verb, body, wait, json, config)

    return verify if verb == "verify" else plain


def _run_job(
    ctx: typer.Context,
    path: str,
    verb: str,
    body: Row,
    wait: bool,
    json: bool,
    config: Path | None,
) -> None:
    with open_system(ctx, config).api() as api:
        number = int(api.post(path, body)["job"])
        job = follow(api, number, verb) if wait else api.get(f"/v1/jobs/{number}")
    show_job(job, json)
    if job.get("note") and not json:
        say(job["note"])
    raise typer.Exit(exit_of(job))


def verify_disc(
    ctx: typer.Context,
    barcode: BarcodeArgument,
    sample: PercentOption = 100.0,
    wait: WaitOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Read one disc and prove every byte."""
    path, body = f"/v1/discs/{segment(barcode)}/verify", {"percent": sample}
    _run_job(ctx, path, "verify", body, wait, json, config)


def identify_disc(
    ctx: typer.Context,
    barcode: BarcodeArgument,
    wait: WaitOption = True,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """See what a blank or foreign disc is; a copy of a known volume is taken in and proved."""
    path = f"/v1/discs/{segment(barcode)}/identify"
    _run_job(ctx, path, "identify", {}, wait, json, config)


def show_disc(
    ctx: typer.Context,
    barcode: BarcodeArgument,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Show one disc and what happened to it."""
    with open_system(ctx, config).api() as api:
        found = api.get(f"/v1/discs/{segment(barcode)}")
    if json:
        print_json(found)
        return
    _disc_table([found])
    print_table(
        ("when", "what", "volume", "drive", "read or written", "MB/s", "errors", "note"),
        (
            (
                moment_words(h["time"]),
                h["what"],
                h["volume"],
                h["drive"],
                size_words(h["bytes"]),
                f"{h['bytes'] / 1e6 / h['seconds']:.1f}" if h["seconds"] else "",
                h["errors"],
                h["text"],
            )
            for h in found["history"]
        ),
        right=("read or written", "MB/s", "errors"),
        empty="nothing is known to have happened to it",
    )


def extract_volume(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Images, or devices with a disc in them.")
    ],
    into: Annotated[Path, typer.Option("--into", metavar="DIRECTORY", help="Where to copy to.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATH", help="This path and what is below it; repeatable."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Copy files out of volumes, proved by their hashes, without any daemon."""
    from hsmfs.tools.volextract import extract

    found = extract(images, into, only or [])
    if json:
        print_json(found)
    else:
        say(
            f"{found['restored']} entries, {size_words(found['bytes'])}, "
            f"of {', '.join(found['volumes']) or 'no volume'}"
        )
        for note in found["notes"]:
            complain(note)
        for path, why in found["missing"].items():
            complain(f"missing: {path}: {why}")
    if found["missing"] or found["notes"]:
        raise typer.Exit(EXIT_IN_PART if found["restored"] else EXIT_FAILED)


def mend_volume(
    image: Annotated[Path, typer.Argument(help="An image file, or a device with a disc in it.")],
    into: Annotated[Path, typer.Option("--into", metavar="FILE", help="The image to write.")],
    json: JsonOption = False,
) -> None:
    """Make a damaged image whole by the recovery data in it, without any daemon."""
    from hsmfs.tools.volmend import mend

    found = mend(image, into)
    if json:
        print_json(found)
    else:
        say(
            f"{into}: {found['unreadable_sectors']} sectors could not be read, "
            f"{found['repaired_blocks']} blocks of {found['block_sectors']} sectors are repaired"
        )
        for sector in found["lost"]:
            complain(f"not repaired: sectors {sector} to {sector + found['block_sectors'] - 1}")
    if found["lost"]:
        raise typer.Exit(EXIT_IN_PART)


def dump_volume(
    image: Annotated[Path, typer.Argument(help="An image file, or a device with a disc in it.")],
    json: JsonOption = False,
) -> None:
    """Read a volume's header and manifest without any daemon."""
    from hsmfs.tools.voldump import dump

    try:
        found = dump(image)
    except OSError as error:
        raise HsmError(f"{image}: {error.strerror}; expected a disc image or a device") from error
    if json:
        print_json(found)
        return
    for key, value in found.items():
        if not isinstance(value, list | dict):
            say(f"{key}: {value}")
    files = found.get("files") or found.get("entries") or []
    print_table(
        ("kind", "size", "path"),
        ((f.get("kind", "file"), size_words(f.get("size") or 0), f["path"]) for f in files),
        right=("size",),
    )


def list_pools(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """List the pools of the policy, with what was written for each."""
    with open_system(ctx, config).api() as api:
        volumes = api.get("/v1/volumes")["volumes"]
        pools = [_with_volumes(pool, volumes) for pool in api.get("/v1/pools")["pools"]]
    if json:
        print_json({"pools": pools})
        return
    columns = ("name", "copies", "spread", "volumes", "files", "bytes")
    print_table(
        columns,
        ([size_words(p[c]) if c == "bytes" else p[c] for c in columns] for p in pools),
        right=columns[3:],
        empty="no pools in the policy",
    )


def _with_volumes(pool: Row, volumes: list[Row]) -> Row:
    mine = [volume for volume in volumes if volume["pool"] == pool["name"]]
    return {
        **pool,
        "volumes": len(mine),
        "files": sum(v["files"] for v in mine),
        "bytes": sum(v["bytes"] for v in mine),
    }
