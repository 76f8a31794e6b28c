"""Commands about the policy: check it here, run it in hsmd."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from hsmfs.accesslog import access_path
from hsmfs.daemon.policy.rules import Policy
from hsmfs.daemon.policyload import load_of
from hsmfs.errors import HsmError
from hsmfs.tools import policyplans
from hsmfs.tools.filecommands import WaitOption, show_job
from hsmfs.tools.output import print_json, say
from hsmfs.tools.progress import exit_of, follow
from hsmfs.tools.system import ConfigOption, JsonOption, System, open_system
from hsmfs.types import Residency

NOUNS: Final = ("pools", "migrate", "release", "pin", "demote", "recall_ahead", "retain", "limit")
CHECKED_FILES_MAX: Final = 1_000_000
"""With more the check of a policy would take its time."""
ALWAYS: Final = NOUNS[:4]
"""Told even where there is none."""


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    policy = typer.Typer(help="The rules that move data by themselves.", no_args_is_help=True)
    policy.command("check")(check)
    policy.command("run")(run)
    policy.command("explain")(explain)
    policy.command("dry-run")(dry_run)
    policy.command("whatif")(whatif)
    policy.command("accept-clock")(accept_clock)
    app.add_typer(policy, name="policy")


def load_policy_of(system: System, file: Path | None = None) -> Policy:
    """The policy of a system, or another file checked as if it were."""
    return load_of(system.config, file or Path(system.config.policy.file), None)


def check(
    ctx: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Default: the system's policy.")
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Check a policy file; needs no daemon and changes nothing."""
    system = open_system(ctx, config)
    path = file or Path(system.config.policy.file)
    try:
        policy = load_policy_of(system, file)
    except HsmError as error:
        if not json:
            raise
        print_json({"file": str(path), "ok": False, "error": str(error)})
        raise typer.Exit(1) from error
    counts = {noun: len(getattr(policy, noun)) for noun in NOUNS}
    warnings, undone = [*policy.warnings, *_of_stock(system, policy)], policy.not_carried_out()
    if json:
        told = {"warnings": warnings, "not_carried_out": undone}
        print_json({"file": str(path), "ok": True, **counts, **told})
        return
    say(f"{path}: good; " + ", ".join(f"{n} {c}" for n, c in counts.items() if c or n in ALWAYS))
    for warning in (*warnings, *undone):
        say(f"warning: {warning}")


def run(
    ctx: typer.Context,
    wait: WaitOption = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Apply all rules now instead of at the next interval."""
    with open_system(ctx, config).api() as api:
        number = int(api.post("/v1/policy/run")["job"])
        job = follow(api, number, "policy run") if wait else api.get(f"/v1/jobs/{number}")
    show_job(job, json)
    raise typer.Exit(exit_of(job))


def _of_stock(system: System, policy: Policy) -> list[str]:
    """What the files and discs of this system say to the rules; nothing where it is new."""
    stores = (system.config.namespace.path, system.config.catalog.path)
    if not all((Path(path) / "data.mdb").exists() for path in stores):
        return []
    with policyplans.namespace_of(system.config) as view:
        files = view.bulk.counters().files[Residency.RESIDENT]
    if files > CHECKED_FILES_MAX:
        return [f"the stock of discs was not looked at for {files} files; hsm policy dry-run does"]
    return policyplans.make_plan(system.config, policy).warnings()


FileOption = Annotated[
    Path | None,
    typer.Option("--policy", metavar="FILE", help="Another file of rules than the system's."),
]


def explain(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="PATH")],
    policy: FileOption = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Which rules match a file, each condition with its value, and when they will."""
    system = open_system(ctx, config)
    rules = load_policy_of(system, policy)
    mount = str(system.config.fuse.mount)
    inside = os.fsencode(system.inside(path))
    relative = inside[len(os.fsencode(os.path.normpath(mount))) :].strip(b"/")
    told = policyplans.explain_path(system.config, rules, relative)
    policyplans.show_told(told, relative, json=json)


def dry_run(
    ctx: typer.Context,
    policy: FileOption = None,
    files: Annotated[bool, typer.Option("--files", help="Tell every file.")] = False,
    disc_price: Annotated[
        float | None, typer.Option("--disc-price", help="Of one disc, for the cost.", min=0.0)
    ] = None,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """What a run would do now: files, bytes, discs and cost of each rule; changes nothing."""
    system = open_system(ctx, config)
    plan = policyplans.make_plan(system.config, load_policy_of(system, policy))
    policyplans.show_plan(plan, disc_price, files=files, json=json)


def whatif(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rules to try.")],
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="DIR", help="Default: the system's own log.")
    ] = None,
    drives: Annotated[int, typer.Option("--drives", help="Discs that stay loaded.", min=1)] = 2,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Play the recorded accesses through other rules: recalls, loads, waiting, discs, cache."""
    system = open_system(ctx, config)
    policies = {"in_force": load_policy_of(system), "tried": load_policy_of(system, file)}
    log = trace or access_path(system.config)
    found = policyplans.compare(system.config, policies, log, drives)
    policyplans.show_comparison(found, json=json)


def accept_clock(ctx: typer.Context, json: JsonOption = False, config: ConfigOption = None) -> None:
    """Say that the clock is right after it jumped: rules go by it again."""
    with open_system(ctx, config).api() as api:
        answer = api.post("/v1/policy/accept-clock")
    if json:
        print_json(answer)
    else:
        say("rules go by the clock again")
