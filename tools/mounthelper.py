"""``mount.hsmfs``: what mount(8) calls, also by /etc/fstab, for the type ``hsmfs``.

``mount.hsmfs CONFIG TARGET [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]`` starts
hsmfs in the background and returns when the mount is served, or with one line
that says why it is not and with the exit status that mount(8) documents.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final, NoReturn

from hsmfs import mountoptions
from hsmfs.config import Config
from hsmfs.configload import load
from hsmfs.errors import CallerError, HsmError

NAME: Final = "mount.hsmfs"
MODULE: Final = "hsmfs.tools.mounthelper"
EXIT_USAGE, EXIT_SYSTEM, EXIT_INTERRUPTED, EXIT_MOUNT = 1, 2, 8, 32
"""See mount(8)."""
TYPES: Final = ("hsmfs", "fuse.hsmfs")
START_TIMEOUT_S: Final = 600.0
"""Work that a crash cut is settled before the mount."""
END_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.1
STDERR: Final = 2
LOG_BYTES_MAX: Final = 10 << 20
"""A log this large is put aside at the next mount."""
NEWS_BYTES: Final = 4096
WRONG_USE: Final = 2
"""Exit status of hsmfs for a wrong configuration."""


def main(argv: Sequence[str] | None = None) -> int:
    """Mount in the background; the exit status of mount(8)."""
    arguments = _arguments(argv)
    if arguments.namespace:
        return _in_namespace(arguments.namespace, sys.argv[1:] if argv is None else argv)
    try:
        config = _checked(arguments)
        words = _options(arguments)
    except HsmError as error:
        return _say(str(error), EXIT_USAGE)
    if "remount" in words:
        return _remount(arguments.target, words)
    if arguments.fake:
        return 0
    try:
        return _start(config, arguments, words)
    except OSError as error:
        return _say(f"cannot start hsmfs: {error}", EXIT_SYSTEM)
    except KeyboardInterrupt:
        return _say("interrupted", EXIT_INTERRUPTED)


# -- what is asked ---------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """mount(8) has a number of its own for wrong use."""
        self.exit(EXIT_USAGE, f"{NAME}: {message}; see '{NAME} --help'\n")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog=NAME, description="Mount hsmfs in the background, for mount(8).")
    parser.add_argument("source", metavar="CONFIG", help="the configuration file")
    parser.add_argument("target", metavar="TARGET", help="fuse.mount of that file")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTIONS")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="drop unknown options")
    parser.add_argument("-f", dest="fake", action="store_true", help="check, but do not mount")
    parser.add_argument("-n", dest="no_mtab", action="store_true", help="no effect")
    parser.add_argument("-v", dest="verbose", action="store_true", help="say what is done")
    parser.add_argument("-N", dest="namespace", default="", help="in another mount namespace")
    parser.add_argument("-t", dest="type", choices=TYPES, default=TYPES[0], metavar="TYPE")
    return parser.parse_args(argv)


def _checked(arguments: argparse.Namespace) -> Config:
    config = load(Path(arguments.source).absolute())
    if os.path.realpath(arguments.target) != os.path.realpath(config.fuse.mount):
        raise CallerError(
            f"{arguments.target}: found {config.fuse.mount} as fuse.mount in {arguments.source}, "
            "expected the directory to mount on; make both the same"
        )
    return config


def _options(arguments: argparse.Namespace) -> list[str]:
    """Those that mean something; mount(8) says ``rw`` whenever nobody said ``ro``."""
    words = [word for text in arguments.options for word in mountoptions.split(text)]
    kept = []
    for word in words:
        wrong = None if word == "remount" else mountoptions.problem(word)
        if wrong is None and word != "rw":
            kept.append(word)
        elif wrong is not None and not arguments.sloppy:
            found, expected, todo = wrong
            raise CallerError(f"-o: found {found}, expected {expected}; {todo}")
    return kept


def _in_namespace(namespace: str, words: Sequence[str]) -> int:
    """Once more, inside: what mount(8) -N asks of its helpers."""
    path = f"/proc/{namespace}/ns/mnt" if namespace.isdecimal() else namespace
    rest = list(words)
    place = next(number for number, word in enumerate(rest) if word.startswith("-N"))
    del rest[place : place + (2 if rest[place] == "-N" else 1)]
    command = ["nsenter", f"--mount={path}", "--", sys.executable, "-m", MODULE, *rest]
    return _program(command)


def _remount(target: str, words: list[str]) -> int:
    """The kernel does that without hsmfs."""
    flags = [word for word in words if word == "remount" or word in mountoptions.FLAGS]
    return _program(["mount", "-i", "-o", ",".join(flags), "--", target])


def _program(command: list[str]) -> int:
    try:
        return subprocess.run(command, check=False).returncode
    except OSError as error:
        return _say(f"{command[0]}: {error.strerror}", EXIT_SYSTEM)


# -- starting --------------------------------------------------------------------------


def _start(config: Config, arguments: argparse.Namespace, words: list[str]) -> int:
    source = os.path.abspath(arguments.source)
    # So that mount -a and umount(8) find what they know from /etc/fstab.
    words = [f'fsname="{source}"', *words]
    command = [sys.executable, "-m", "hsmfs.main", "--config", source, "-o", ",".join(words)]
    if arguments.verbose:
        print(f"{NAME}: {' '.join(command)}", flush=True)
    with _News() as news, _log(Path(config.run.path)) as log:
        process = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(os.environ, NOTIFY_SOCKET=news.address),
            start_new_session=True,
        )
        try:
            why = _wait(process, news)
        except BaseException:
            _end(process)
            raise
    if why is None:
        return 0
    if not why:
        why = f"hsmfs ended with exit status {process.returncode}; see {getattr(log, 'name', log)}"
    return _say(why, EXIT_USAGE if process.returncode == WRONG_USE else EXIT_MOUNT)


def _wait(process: subprocess.Popen[bytes], news: _News) -> str | None:
    """None when it serves the mount; else why it does not, as far as it said so."""
    why = ""
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s:
        ended = process.poll() is not None
        for word in news.lines():
            if word == "READY=1":
                return None
            if word.startswith("STATUS="):
                why = word.removeprefix("STATUS=")
        if ended:
            return why
    _end(process)
    return f"hsmfs does not serve the mount after {START_TIMEOUT_S:.0f} s; see its log"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _News:
    """What hsmfs tells of its start, as it would tell systemd (sd_notify(3))."""

    def __init__(self) -> None:
        name = f"hsmfs-mount-{secrets.token_hex(16)}"
        self.address = f"@{name}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(f"\0{name}")
        self._socket.settimeout(POLL_S)

    def __enter__(self) -> _News:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def lines(self) -> list[str]:
        """What came, or came within a moment."""
        try:
            return self._socket.recv(NEWS_BYTES).decode(errors="replace").split("\n")
        except TimeoutError:
            return []


@contextlib.contextmanager
def _log(run: Path) -> Iterator[IO[bytes] | int]:
    """Where the log goes: the journal where systemd reads our stderr, else a file."""
    if _is_journal(STDERR):
        yield STDERR
        return
    run.mkdir(parents=True, exist_ok=True)
    path = run / "hsmfs.log"
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(run / "hsmfs.log.1")
    with path.open("ab") as file:
        yield file


def _is_journal(fd: int) -> bool:
    """See JOURNAL_STREAM in systemd.exec(5)."""
    facts = os.fstat(fd)
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def _say(text: str, status: int) -> int:
    print(f"{NAME}: {text}", file=sys.stderr, flush=True)
    return status


def run() -> int:
    """The program; SIGTERM ends the wait as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(run())
