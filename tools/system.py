"""Which system a command is about: its configuration, its daemon, its paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hsmfs.config import DEFAULT_PATH, Config
from hsmfs.configload import load
from hsmfs.tools.apiclient import ANSWER_TIMEOUT_S, ApiClient

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help=f"Configuration (or HSM_CONFIG; default {DEFAULT_PATH})."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
SOCKET_NAME = "hsmd.sock"


class System:
    """One installation of hsmfs, as its configuration file tells."""

    def __init__(self, config_path: Path) -> None:
        self.config_path = config_path
        self.config: Config = load(config_path)

    def api(self, timeout_s: float = ANSWER_TIMEOUT_S) -> ApiClient:
        """A connection to its hsmd."""
        socket = Path(self.config.run.path) / SOCKET_NAME
        return ApiClient(socket, self.config_path, timeout_s)

    def inside(self, path: Path) -> str:
        """The absolute path under the mount, as hsmd takes it.

        The last component is not followed, so that a symbolic link inside the
        mount names itself; one outside that points into the mount is followed.
        """
        mount = _parent_resolved(Path(self.config.fuse.mount))
        for candidate in (_parent_resolved(path), path.resolve()):
            if candidate.is_relative_to(mount):
                return str(candidate)
        raise typer.BadParameter(f"{path} is not inside the mount {mount} ({self.config_path})")


def _parent_resolved(path: Path) -> Path:
    absolute = Path(os.path.normpath(Path.cwd() / path)) if ".." not in path.parts else path
    if ".." in path.parts or absolute == absolute.parent:
        return absolute.resolve()
    return absolute.parent.resolve() / absolute.name


def open_system(ctx: typer.Context, config: Path | None) -> System:
    """The system of ``--config`` after the command, before it, or of HSM_CONFIG."""
    chosen = config or ctx.find_root().obj or DEFAULT_PATH
    return System(Path(chosen))
