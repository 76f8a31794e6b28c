"""``hsm magazine labels`` and ``hsm disc labels``: sheets of barcodes to print."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from hsmfs.errors import CallerError
from hsmfs.tools.apiclient import segment
from hsmfs.tools.output import print_json, say
from hsmfs.tools.system import ConfigOption, JsonOption, open_system

Row = dict[str, Any]
NUMBER: Final = re.compile(r"(?P<head>.*?)(?P<number>[0-9]+)(?P<tail>[^0-9]*)")
OutOption = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="labels.pdf, or labels.svg.")
]
SkipOption = Annotated[
    int, typer.Option("--skip", min=0, help="Places of the first sheet that are used up.")
]
CodeOption = Annotated[
    str, typer.Option("--code", help="39, 128, or auto: Code 39 where it can be.")
]


def magazine_labels(
    ctx: typer.Context,
    names: Annotated[list[str], typer.Argument(help="As `hsm magazine ls` shows them.")],
    out: OutOption,
    only: Annotated[str, typer.Option("--only", help="magazines or discs; else both.")] = "",
    skip: SkipOption = 0,
    code: CodeOption = "auto",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Labels for magazines and the discs in them, on A4 sheets to print."""
    if only not in ("", "magazines", "discs"):
        raise typer.BadParameter(f"--only {only}: expected magazines or discs")
    with open_system(ctx, config).api() as api:
        site = str(api.get("/v1/status")["site"])
        found = [api.get(f"/v1/magazines/{segment(name)}") for name in names]
    rows: list[tuple[str, str]] = []
    for magazine in found:
        if only != "discs":
            rows.append((magazine["name"], f"{site}  magazine, {magazine['discs']} discs"))
        if only != "magazines":
            rows += [_disc_row(site, magazine, disc) for disc in magazine["contents"]]
    _write(out, rows, skip, code, json)


def _disc_row(site: str, magazine: Row, disc: Row) -> tuple[str, str]:
    what = disc["volume"] or disc["state"]
    return disc["barcode"], f"{site}  {magazine['name']} place {disc['position'] + 1}  {what}"


def disc_labels(
    barcodes: Annotated[list[str], typer.Argument(help="What the labels are to say.")],
    out: OutOption,
    count: Annotated[
        int, typer.Option("--count", min=1, help="So many, counting on from the last barcode.")
    ] = 1,
    skip: SkipOption = 0,
    code: CodeOption = "auto",
    json: JsonOption = False,
) -> None:
    """Labels for new discs, without any daemon: `hsm disc labels HSM00100 --count 24`."""
    texts = [*barcodes[:-1], *counted(barcodes[-1], count)]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise CallerError(f"barcode {twice[0]} would be printed twice; no two discs may share one")
    _write(out, [(text, "") for text in texts], skip, code, json)


def counted(first: str, count: int) -> list[str]:
    """Barcodes that go on from the first; CallerError where its number gets another width."""
    if count == 1:
        return [first]
    parts = NUMBER.fullmatch(first)
    if parts is None:
        raise CallerError(f"{first!r}: found no number to count on from")
    width, start = len(parts["number"]), int(parts["number"])
    if len(str(start + count - 1)) > width:
        raise CallerError(f"{first!r}: {count} more do not fit into {width} digits")
    numbers = range(start, start + count)
    return [f"{parts['head']}{number:0{width}d}{parts['tail']}" for number in numbers]


def _write(out: Path, rows: list[tuple[str, str]], skip: int, code: str, json: bool) -> None:
    from hsmfs.tools.labels import Label, write_sheets  # heavy, and of use here only

    if code not in ("auto", "39", "128"):
        raise typer.BadParameter(f"--code {code}: expected auto, 39 or 128")
    labels = [Label(text, note) for text, note in rows]
    paths = write_sheets(out, labels, skip, code)  # type: ignore[arg-type]
    if json:
        print_json({"labels": len(labels), "files": [str(path) for path in paths]})
        return
    say(f"{len(labels)} labels in {', '.join(map(str, paths))}; print without scaling to the page")
