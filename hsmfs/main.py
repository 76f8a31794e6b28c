"""The program ``hsmfs``: mounts the file system and serves it, in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import lmdb
import msgspec
import trio

from hsmfs import logs, mountoptions, runlock
from hsmfs.config import DEFAULT_PATH, Config
from hsmfs.configload import check_cache_paths, load, read_text
from hsmfs.configplace import Pointer, line_of
from hsmfs.errors import CallerError, ConfigError, HsmError
from hsmfs.service import Service
from hsmfs.servicemanager import notify
from hsmfs.session import mounting
from hsmfs.store.lmdbstore import damaged

EXIT_FAILED: Final = 1
EXIT_WRONG_USE: Final = 2
_KEY: Final = re.compile(r"((?:fuse|run|namespace)\.[a-z_]+|tier\[0\]\.path): ")
LOCK_WAIT_UNMOUNTED_S: Final = 60.0
"""How long a run whose mount is gone may take to write what it has."""
SOCKET_PATH_BYTES_MAX: Final = 107
"""``sun_path`` of unix(7), without its final zero."""
LONGEST_SOCKET: Final = "hsmfs-metrics.sock"

log = logs.get(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until unmounted or stopped; returns the exit status."""
    path, words = _arguments(argv)
    try:
        config = _with_options(load(path), words)
        check_cache_paths(config, path)
    except ConfigError as error:
        return _say(error, EXIT_WRONG_USE)
    logs.set_up(config.log.level, config.log.json, "hsmfs")
    try:
        _run(config)
    except (HsmError, lmdb.Error) as error:
        return _say(_placed(error, config, path), EXIT_FAILED)
    except BaseExceptionGroup as group:
        known = _first_known(group)
        if known is not None:
            return _say(_placed(known, config, path), EXIT_FAILED)
        log.exception("bug: hsmfs ends")
        return EXIT_FAILED
    except Exception:
        log.exception("bug: hsmfs ends")
        return EXIT_FAILED
    return 0


def _arguments(argv: Sequence[str] | None) -> tuple[Path, list[str]]:
    parser = argparse.ArgumentParser(
        prog="hsmfs", description="Mount a hierarchical file system; runs in the foreground."
    )
    default = Path(os.environ.get("HSM_CONFIG") or DEFAULT_PATH)
    parser.add_argument(
        "--config", type=Path, default=default, help="configuration file (default: %(default)s)"
    )
    parser.add_argument(
        "-o",
        dest="options",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="options of mount(8), with commas; they win over fuse.options of the configuration",
    )
    found = parser.parse_args(argv)
    path: Path = found.config.absolute()
    return path, [word for text in found.options for word in mountoptions.split(text)]


def _with_options(config: Config, words: list[str]) -> Config:
    for word in words:
        wrong = mountoptions.problem(word)
        if wrong is not None:
            raise ConfigError("-o", *wrong)
    options = [*config.fuse.options, *words]
    return msgspec.structs.replace(
        config, fuse=msgspec.structs.replace(config.fuse, options=options)
    )


def _say(error: BaseException, status: int) -> int:
    """On the terminal, and to who started us."""
    print(f"hsmfs: {error}", file=sys.stderr, flush=True)
    notify("STATUS=" + " ".join(str(error).split("\n")))
    return status


def _placed(error: BaseException, config: Config, path: Path) -> BaseException:
    """With file and line, if it is about a key of the configuration."""
    if isinstance(error, lmdb.Error):
        error = damaged(Path(config.namespace.path), str(error))  # while it was written
    text = str(error)
    if text.startswith(config.namespace.path):
        text = f"namespace.path: {text}"
    key = _KEY.match(text)
    if key is None:
        return error
    pointer: Pointer = tuple(key[1].split("."))
    if key[1].startswith("tier"):
        pointer = ("tier", 0, "path")
    line = line_of(read_text(path), pointer)
    return CallerError(f"{path}:{line}: {text}" if line else text)


def _first_known(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The error that says what is wrong, if all of the group are of that sort."""
    known, rest = group.split((HsmError, OSError, lmdb.Error))
    if rest is not None or known is None:
        return None
    error: BaseException = known
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _run(config: Config) -> None:
    run = Path(config.run.path)
    _make_run_directory(run)
    mount = Path(config.fuse.mount)
    with runlock.only_one(run, "hsmfs", lambda: _lock_wait_s(run, mount)):
        mounting.check_device()
        mounting.check_mount_point(mount)
        os.chdir("/")
        service = Service(config, lambda: _announce(mount), lambda: notify("STOPPING=1"))
        trio.run(service.run)


def _make_run_directory(run: Path) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallerError(
            f"run.path: {run}: {error.strerror}; make it a directory that hsmfs can write to"
        ) from None
    longest = run / LONGEST_SOCKET
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES_MAX:
        raise CallerError(
            f"run.path: {longest} is {len(os.fsencode(longest))} bytes long, a socket's path may "
            f"have {SOCKET_PATH_BYTES_MAX}; choose a shorter run.path"
        )


def _lock_wait_s(run: Path, mount: Path) -> float:
    """After umount(8) the other one still writes what it has."""
    ending = runlock.holder(run, "hsmfs") and mounting.mounted_at(mount) is None
    return LOCK_WAIT_UNMOUNTED_S if ending else runlock.LOCK_WAIT_S


def _announce(mount: Path) -> None:
    """Tell a person and systemd that the mount works."""
    with contextlib.suppress(OSError):  # nobody reads it any more
        print(f"hsmfs: ready, {mount} is mounted, process id {os.getpid()}", flush=True)
    notify("READY=1")


if __name__ == "__main__":
    sys.exit(main())
