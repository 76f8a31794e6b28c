"""``hsm check``: what is wrong with an installation, before and after its first start."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from hsmfs.config import DEFAULT_PATH
from hsmfs.configload import load
from hsmfs.errors import ConfigError
from hsmfs.tools.check import daemons, libraries, machine, places
from hsmfs.tools.check.findings import Check, Finding, Level, run
from hsmfs.tools.output import print_json, say
from hsmfs.tools.system import ConfigOption, JsonOption

SIGNS = {Level.OK: "ok   ", Level.NOTE: "note ", Level.FAULT: "FAULT"}


def add(app: typer.Typer) -> None:
    """Put this module's command into the application."""
    app.command("check")(check)


def check(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Look at configuration, machine, disks, rules, library and programs; changes nothing.

    Exit status 1 if anything is at fault.
    """
    found = findings(Path(config or ctx.find_root().obj or DEFAULT_PATH))
    if json:
        print_json(
            {
                "findings": [
                    {"name": one.name, "level": one.level.value, "text": one.text,
                     "remedy": one.remedy}
                    for one in found
                ]
            }
        )  # fmt: skip
    else:
        _show(found)
    if any(one.level is Level.FAULT for one in found):
        sys.exit(1)


def findings(file: Path) -> list[Finding]:
    """All that can be looked at with this configuration."""
    try:
        config = load(file)
    except ConfigError as error:
        return [Finding("configuration", Level.FAULT, str(error))]
    return run(
        [
            Check("configuration", lambda: iter(())),
            *machine.checks(config),
            *places.checks(config, file),
            *libraries.checks(config),
            *daemons.checks(config, file),
        ]
    )


def _show(found: list[Finding]) -> None:
    for one in found:
        say(f"{SIGNS[one.level]}  {one.name}{': ' if one.text else ''}{one.text}")
        if one.remedy:
            say(f"       do: {one.remedy}")
    faults = sum(one.level is Level.FAULT for one in found)
    notes = sum(one.level is Level.NOTE for one in found)
    say(f"{faults} faults, {notes} notes")
