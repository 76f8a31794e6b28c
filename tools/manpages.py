"""Manual pages in roff (man(7)), made from the programs' own help texts.

``python -m hsmfs.tools.manpages DIRECTORY`` writes hsm.1, hsmfs.8, hsmd.8 and mount.hsmfs.8.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from hsmfs.tools.hsm import make_app

FILES: Final = """\
.SH FILES
.TP
.I /etc/hsmfs/hsmfs.toml
The configuration, where nothing else is said; the environment variable HSM_CONFIG names another.
"""
STATUS: Final = """\
.SH EXIT STATUS
0 done, 1 failed (says why), 2 wrong use, 3 done in part.
"""
DAEMONS: Final = {
    "hsmfs": (
        "mount a hierarchical file system",
        "hsmfs [--config FILE] [-o OPTIONS]",
        "Mounts the file system that the configuration describes, owns its namespace and its "
        "cache, and stays in the foreground. It ends when it is unmounted, or by SIGTERM. It tells "
        "systemd when the mount is served (Type=notify) and that it lives (WatchdogSec=).",
    ),
    "hsmd": (
        "policy and library daemon of hsmfs",
        "hsmd [--config FILE]",
        "Burns, verifies, releases and recalls by policy, drives the robot, and asks a person for "
        "magazines. Ends by SIGTERM.",
    ),
    "mount.hsmfs": (
        "mount helper of hsmfs for mount(8) and /etc/fstab",
        "mount -t hsmfs FILE DIRECTORY [-o OPTIONS]",
        "Starts hsmfs in the background and returns when the mount is served, or says why not. "
        "FILE is the configuration, DIRECTORY its fuse.mount.",
    ),
}


def pages() -> Iterator[tuple[str, str]]:
    """File name and text of each."""
    yield "hsm.1", "".join(_hsm())
    for name, (short, usage, text) in DAEMONS.items():
        body = _head(name, 8, short) + f".SH SYNOPSIS\n.B {_roff(usage)}\n"
        yield f"{name}.8", body + f".SH DESCRIPTION\n{_roff(text)}\n" + FILES + _see_also(name)


def _hsm() -> Iterator[str]:
    group = typer.main.get_group(make_app())
    yield _head("hsm", 1, "look at and steer a hsmfs system")
    yield ".SH SYNOPSIS\n.B hsm\n[\\-\\-config FILE] COMMAND [ARGUMENTS]\n.SH OPTIONS\n"
    yield from _options(group)
    yield ".SH COMMANDS\n"
    yield from _commands(group, "hsm")
    yield STATUS + FILES + _see_also("hsm")


def _commands(group: Any, path: str) -> Iterator[str]:
    for name in group.commands:
        command = group.commands[name]
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
            continue
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        words = " ".join(one.metavar or (one.name or "").upper() for one in arguments)
        yield f".SS {_roff(f'{path} {name} {words}'.strip())}\n{_roff(command.help or '')}\n"
        yield from _options(command)


def _options(command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=command.name)
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and (record[1] or parameter.param_type_name == "option"):
            yield f".TP\n.B {_roff(record[0])}\n{_roff(record[1] or ' ')}\n"


def _head(name: str, section: int, short: str) -> str:
    return f'.TH {name.upper()} {section} "" hsmfs hsmfs\n.SH NAME\n{name} \\- {_roff(short)}\n'


def _see_also(name: str) -> str:
    others = ["hsm(1)", *(f"{one}(8)" for one in DAEMONS)]
    listed = ", ".join(one for one in others if not one.startswith(f"{name}("))
    return f".SH SEE ALSO\n{listed}\n"


def _roff(text: str) -> str:
    """One line of text; nothing in it is a request."""
    line = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{line}" if line[:1] in (".", "'") else line


def write(directory: Path) -> None:
    """All pages into a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
