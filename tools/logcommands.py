"""``hsm log``: the audit log of retention and holds, shown and proved."""

from __future__ import annotations

import zlib
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from hsmfs.daemon.namespaceset import SetLog
from hsmfs.daemon.ownfiles import NAMESPACE_NAME
from hsmfs.errors import CallerError
from hsmfs.namespace import keeping
from hsmfs.namespace.audit import FAULTS_MAX, parsed
from hsmfs.namespace.wormrows import Head
from hsmfs.namespace.wormview import WormView
from hsmfs.tools.output import print_json, say
from hsmfs.tools.rebuild.images import opened
from hsmfs.tools.system import ConfigOption, JsonOption, open_system
from hsmfs.tools.wormsystem import store_of

EXIT_FAILED: Final = 1
FIRST_LINE_BYTES_MAX: Final = 65_536
OWN: Final = ("n", "op", "time_ns", "clock_ns", "journal", "prev")


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    group = typer.Typer(help="The audit log of retention and holds.", no_args_is_help=True)
    group.command("show")(show)
    group.command("verify")(verify)
    group.command("head")(head)
    app.add_typer(group, name="log")


def show(
    ctx: typer.Context,
    since: Annotated[int, typer.Option("--since", metavar="N", help="From this entry on.")] = 1,
    raw: Annotated[
        bool, typer.Option("--raw", help="Each entry a line, byte by byte as it is hashed.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """All entries of the log."""
    with store_of(open_system(ctx, config)) as reader:
        entries = WormView(reader).entries(max(1, since))
        if json:
            print_json([parsed(entry) or {"n": number} for number, entry in entries])
            return
        for number, entry in entries:
            if raw:
                typer.echo(entry)
                continue
            fields = parsed(entry)
            say(f"{number} damaged: {entry[:80]!r}" if fields is None else _words(number, fields))


def _words(number: int, fields: dict[str, Any]) -> str:
    moment = fields.get("time_ns")
    shown = keeping.shown(moment) if isinstance(moment, int) else "?"
    facts = []
    for name, value in fields.items():
        if name not in OWN and not (name == "left_out" and not value):
            facts.append(f"{name}={_short(value)}")
    return f"{number} {shown} {fields.get('op')} " + " ".join(facts)


def _short(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    paths = [str(one[-1]) if isinstance(one, list) and one else str(one) for one in value]
    return ",".join("/" + path for path in paths)


def head(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Number and hash of the last entry, to be kept elsewhere: N:SHA256."""
    with store_of(open_system(ctx, config)) as reader:
        found = WormView(reader).head()
    if found is None:
        raise CallerError("there is no audit log yet: no retention and no hold was ever set")
    if json:
        print_json({"number": found.number, "sha256": found.sha256})
    else:
        say(f"{found.number}:{found.sha256}")


def verify(
    ctx: typer.Context,
    heads: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="N:SHA256", help="Noted earlier, or from a disc."),
    ] = None,
    discs: Annotated[
        list[Path] | None,
        typer.Option("--disc", metavar="IMAGE", help="A disc's image or device: its head."),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Prove that no entry was changed, cut or put in, and that the log goes through heads
    that were noted elsewhere."""
    noted = [_head(text) for text in heads or []] + [head_of_disc(one) for one in discs or []]
    with store_of(open_system(ctx, config)) as reader:
        view = WormView(reader)
        if not view.has_log() and not noted:
            raise CallerError("there is no audit log yet: no retention and no hold was ever set")
        faults = [
            {"entry": fault.number, "why": fault.why} for fault in islice(view.faults(), FAULTS_MAX)
        ]
        faults += [
            {"entry": one.number, "why": "is not the entry whose hash was noted elsewhere"}
            for one in noted
            if not view.has_head(one)
        ]
        last = view.head()
    if json:
        print_json({"ok": not faults, "entries": last.number if last else 0, "faults": faults})
    else:
        for fault in faults:
            say(f"entry {fault['entry']} {fault['why']}")
        if not faults and last is not None:
            say(f"good: {last.number} entries, head {last.number}:{last.sha256}")
    if faults:
        raise typer.Exit(EXIT_FAILED)


def head_of_disc(image: Path) -> Head:
    """The head that was burned with a volume. CallerError where it has none."""
    unpacker, line = zlib.decompressobj(wbits=31), b""
    with opened(image) as reader:
        for piece in reader.stream_file(f"/.hsm/{NAMESPACE_NAME}"):
            line += unpacker.decompress(piece, FIRST_LINE_BYTES_MAX)
            if b"\n" in line or len(line) >= FIRST_LINE_BYTES_MAX:
                break
    told = (parsed(line.partition(b"\n")[0]) or {}).get("log")
    try:
        log = msgspec.convert(told, type=SetLog)
    except msgspec.ValidationError:
        raise CallerError(
            f"--disc {image}: its namespace changes tell of no audit log; it was burned before the "
            "first retention or hold"
        ) from None
    return Head(log.number, log.sha256)


def _head(text: str) -> Head:
    number, _, sha256 = text.partition(":")
    if not number.isdigit() or len(sha256) != 64:
        raise CallerError(f"--head: found {text!r}, expected N:SHA256 as hsm log head prints it")
    return Head(int(number), sha256.lower())
