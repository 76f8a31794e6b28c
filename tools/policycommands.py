"""Commands about the policy: check it here, run it in hsmd."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from hsmfs.daemon.policy.rules import Policy
from hsmfs.daemon.policyload import load_of
from hsmfs.errors import HsmError
from hsmfs.tools.filecommands import WaitOption, show_job
from hsmfs.tools.output import print_json, say
from hsmfs.tools.progress import exit_of, follow
from hsmfs.tools.system import ConfigOption, JsonOption, System, open_system

NOUNS: Final = ("pools", "migrate", "release", "pin", "demote", "recall_ahead", "retain", "limit")
ALWAYS: Final = NOUNS[:4]
"""Told even where there is none."""


def add(app: typer.Typer) -> None:
    """Put this module's commands into the application."""
    policy = typer.Typer(help="The rules that move data by themselves.", no_args_is_help=True)
    policy.command("check")(check)
    policy.command("run")(run)
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
    undone = policy.not_carried_out()
    if json:
        told = {"warnings": list(policy.warnings), "not_carried_out": undone}
        print_json({"file": str(path), "ok": True, **counts, **told})
        return
    say(f"{path}: good; " + ", ".join(f"{n} {c}" for n, c in counts.items() if c or n in ALWAYS))
    for warning in (*policy.warnings, *undone):
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
