"""``hsm retention``: write-once trees, their dates, and what is removed after them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
import typer

from hsmfs.clock import SystemClock
from hsmfs.configload import read_text
from hsmfs.errors import CallerError, FsError
from hsmfs.namespace import keeping
from hsmfs.namespace.settling import shown_path
from hsmfs.namespace.wormview import WormView
from hsmfs.rpc.messages import Done
from hsmfs.rpc.wormmessages import (
    WORM_FILES_MAX,
    RetentionClear,
    RetentionConfirm,
    RetentionExtend,
    RetentionSet,
    TimeAccept,
    WormResults,
    WormTaken,
    WormTime,
)
from hsmfs.tools.output import complain, print_json, print_table, say
from hsmfs.tools.system import ConfigOption, JsonOption, System, open_system
from hsmfs.tools.wormsystem import ask, files_at, inside, store_of, trusted_now, who

EXIT_FAILED: Final = 1
EXIT_IN_PART: Final = 3
LIST_LINE: Final = "INODE DATE_NS PATH"
PathArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A directory of the mount.")]
PathsArgument = Annotated[list[Path], typer.Argument(metavar="PATH...")]
RecursiveOption = Annotated[bool, typer.Option("-r", "--recursive", help="All files below.")]
KeepOption = Annotated[
    str, typer.Option("--keep", metavar="TIME", help="How long files are kept, such as 15y.")
]


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    """A table ``[[retention]]`` of a file for ``apply``."""

    path: str
    settle: str
    keep: str


class Rules(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    retention: list[Rule]


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    group = typer.Typer(
        help="Write-once directories: files are kept until a date.", no_args_is_help=True
    )
    for name, command in (
        ("set", set_command), ("apply", apply), ("clear", clear), ("ls", ls), ("extend", extend),
        ("expired", expired), ("confirm", confirm), ("time", time_command),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(group, name="retention")


def set_command(
    ctx: typer.Context,
    path: PathArgument,
    keep: KeepOption,
    settle: Annotated[
        str, typer.Option("--settle", metavar="TIME", help="Without a change for so long.")
    ] = "1d",
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Files below a directory settle: from then on nobody changes or removes them."""
    system = open_system(ctx, config)
    result = _set(system, inside(system, path), settle, keep)
    if json:
        print_json(result)
    else:
        _say_set(result)


def _set(system: System, at: bytes, settle: str, keep: str) -> dict[str, Any]:
    keeping.check(settle, "--settle")
    keeping.check(keep, "--keep")
    taken = ask(system, [RetentionSet(at, settle, keep, who())], WormTaken)[0]
    path = "/" + shown_path(at)
    return {"path": path, "settle": settle, "keep": keep, "files": taken.files}


def _say_set(result: dict[str, Any]) -> None:
    say(
        f"{result['path']}: files settle after {result['settle']} and are kept "
        f"{result['keep']}; {result['files']} files were there"
    )


def apply(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML with [[retention]] tables.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Set several directories from a file; paths in it begin at the mount's root."""
    system = open_system(ctx, config)
    try:
        rules = msgspec.toml.decode(read_text(file), type=Rules)
    except msgspec.MsgspecError as error:
        raise CallerError(f"{file}: {error}; expected tables [[retention]] with path, settle, "
                          "keep") from None  # fmt: skip
    for rule in rules.retention:
        keeping.check(rule.settle, f"{file}: settle of {rule.path}")
        keeping.check(rule.keep, f"{file}: keep of {rule.path}")
    results, failed = [], 0
    for rule in rules.retention:
        try:
            at = rule.path.strip("/").encode("utf-8", "surrogateescape")
            results.append(_set(system, at, rule.settle, rule.keep))
            if not json:
                _say_set(results[-1])
        except FsError as error:
            failed += 1
            complain(f"{rule.path}: {error.why}")
    if json:
        print_json({"set": results, "failed": failed})
    _exit(failed, len(rules.retention))


def clear(
    ctx: typer.Context, path: PathArgument, json: JsonOption = False, config: ConfigOption = None
) -> None:
    """No further file settles below a directory; settled ones stay as they are."""
    system = open_system(ctx, config)
    at = inside(system, path)
    ask(system, [RetentionClear(at, who())], Done)
    if json:
        print_json({"path": "/" + shown_path(at), "off": True})
    else:
        say(f"{path}: no further file settles")


def ls(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Directories with a retention, and how many files wait, are settled or held."""
    system = open_system(ctx, config)
    with store_of(system) as reader:
        view = WormView(reader)
        trees, (waiting, settled, held) = view.trees(), view.counts()
    rows = [
        {
            "path": "/" + shown_path(path),
            "settle": tree.settle,
            "keep": tree.keep,
            "state": "off" if tree.off else "being set" if tree.taking else "on",
        }
        for path, tree in trees
    ]
    if json:
        print_json({"trees": rows, "waiting": waiting, "settled": settled, "held": held})
        return
    print_table(("path", "settle", "keep", "state"), [list(row.values()) for row in rows])
    say(f"{waiting} files wait to settle, {settled} are settled, {held} are held")


def extend(
    ctx: typer.Context,
    paths: PathsArgument,
    keep: KeepOption,
    recursive: RecursiveOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Keep settled files for so long from now on; a date never comes earlier."""
    system = open_system(ctx, config)
    keeping.check(keep, "--keep")
    with store_of(system) as reader:
        files = files_at(system, reader, paths, recursive)
    calls = [RetentionExtend(some, keep, who()) for some in batches(list(files))]
    tell_results(files, ask(system, calls, WormResults), json)


def batches(inodes: list[Any]) -> list[list[Any]]:
    """As many as one call takes."""
    return [inodes[at : at + WORM_FILES_MAX] for at in range(0, len(inodes), WORM_FILES_MAX)]


def tell_results(files: dict[int, bytes], answers: list[WormResults], json: bool) -> None:
    """What was refused, how many were not; exits."""
    refused = [why for answer in answers for why in answer.refused]
    failed = [
        {"path": "/" + shown_path(path), "why": why}
        for path, why in zip(files.values(), refused, strict=True)
        if why
    ]
    if json:
        print_json({"done": len(refused) - len(failed), "refused": failed})
    else:
        for one in failed:
            complain(f"{one['path']}: {one['why']}")
        say(f"{len(refused) - len(failed)} files, {len(failed)} refused")
    _exit(len(failed), len(refused))


def _exit(failed: int, of: int) -> None:
    if failed:
        raise typer.Exit(EXIT_FAILED if failed == of else EXIT_IN_PART)


def expired(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="LIST", help="Write the list for confirm there."),
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Settled files whose date has passed; nothing is removed."""
    system = open_system(ctx, config)
    with store_of(system) as reader:
        view = WormView(reader)
        files = list(view.expired(trusted_now(view)))
    if out is not None:
        lines = [
            f"{one.ino} {one.until_ns} /{shown_path(one.path)}\n" for one in files if not one.held
        ]
        header = "# removed by hsm retention confirm: take out the lines of what is to stay\n"
        out.write_text(header + "".join(lines))
    if json:
        print_json(
            [
                {
                    "ino": one.ino,
                    "path": "/" + shown_path(one.path),
                    "until": keeping.shown(one.until_ns),
                    "until_ns": one.until_ns,
                    "bytes": one.size,
                    "held": one.held,
                }
                for one in files
            ]
        )
        return
    rows = [
        ["/" + shown_path(one.path), keeping.shown(one.until_ns), "held" if one.held else ""]
        for one in files
    ]
    print_table(("path", "kept until", ""), rows)
    say(f"{len(files)} files, {sum(one.held for one in files)} of them held")


def confirm(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="LIST", help="From expired --out.")],
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Remove the files of a list, of which each date has passed and none is held."""
    system = open_system(ctx, config)
    chosen = _read_list(file)
    calls = [RetentionConfirm(some, who()) for some in batches([one[:2] for one in chosen])]
    answers = ask(system, calls, WormResults)
    tell_results({number: one[2] for number, one in enumerate(chosen)}, answers, json)


def _read_list(file: Path) -> list[tuple[int, int, bytes]]:
    found = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = line.split(" ", 2)
        if len(words) != 3 or not words[0].isdigit() or not words[1].isdigit():
            raise CallerError(
                f"{file}:{number}: found {line[:80]!r}, expected {LIST_LINE}; make the list with "
                "hsm retention expired --out; nothing was removed"
            )
        found.append((int(words[0]), int(words[1]), unquote_to_bytes(words[2].lstrip("/"))))
    return found


def time_command(
    ctx: typer.Context,
    accept: Annotated[
        bool, typer.Option("--accept", help="The clock is right: trusted time goes on from it.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Trusted time, which dates count from, and the clock."""
    system = open_system(ctx, config)
    by_ns = 0
    if accept:
        by_ns = ask(system, [TimeAccept(who())], WormTime)[0].by_ns
        if not json:
            say(f"trusted time went forward by {by_ns // 10**9} s")
    with store_of(system) as reader:
        found = WormView(reader).time(*SystemClock().boot())
    if found is None:
        raise CallerError("there is no retention and no hold yet, so no trusted time")
    clock_ns = SystemClock().now_ns()
    if json:
        print_json(
            {
                "trusted_ns": found[0],
                "clock_ns": clock_ns,
                "credit_s": found[1].credit_ns // 10**9,
                "apart": found[1].apart,
                "forward_ns": by_ns,
            }
        )
        return
    say(f"trusted time {keeping.shown(found[0])}, clock {keeping.shown(clock_ns)}")
    say(f"after a start of the machine it follows the clock by {found[1].credit_ns // 10**9} s")
