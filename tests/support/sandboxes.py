"""A whole system for tests: the real programs on an emulated library."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
WAIT_S = 90.0


class Sandbox:
    """``hsm sandbox`` under a directory, with a few words to drive it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mnt = root / "mnt"

    def hsm(self, *words: str, check: bool = True, timeout: float = WAIT_S) -> Any:
        """Run hsm with --json; its answer, or the finished process if it is no JSON."""
        command = [str(BIN / "hsm"), *words, "--json"]
        environment = dict(os.environ, HSM_CONFIG=str(self.root / "hsmfs.toml"))
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=timeout, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        if check:
            assert done.returncode == 0, f"{words}: {done.returncode} {done.stdout} {done.stderr}"
        try:
            return json.loads(done.stdout)
        except json.JSONDecodeError:
            return done

    def start(self, *options: str) -> None:
        self.hsm("sandbox", "start", str(self.root), *options)

    def stop(self) -> None:
        self.hsm("sandbox", "stop", str(self.root), check=False)

    def pid(self, program: str) -> int:
        return int((self.root / "run" / f"{program}.pid").read_text().split()[0])

    def kill(self, program: str, number: int = signal.SIGKILL) -> None:
        """End one of our two programs and see it gone."""
        pid = self.pid(program)
        os.kill(pid, number)
        self.until(lambda: not _alive(pid))

    def until(self, true: Callable[[], Any], timeout: float = WAIT_S) -> Any:
        """Poll; the first true value. Fails with the logs after the time-out."""
        end = time.monotonic() + timeout
        while not (value := true()):
            assert time.monotonic() < end, f"never came true\n{self.logs()}"
            time.sleep(0.02)
        return value

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text()[-3000:]}"
            for path in sorted((self.root / "log").glob("*.log"))
        )

    def migrate_and_release(self, path: Path | None = None) -> None:
        where = str(path or self.mnt)
        self.hsm("migrate", "-r", "--wait", where)
        self.hsm("release", "-r", "--wait", where)

    def discs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.hsm("disc", "ls")["discs"]
        return found

    def files(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.hsm("ls", "-r", str(self.mnt))["files"]
        return found

    def faults(self, *faults: dict[str, Any]) -> None:
        """Give the emulated library faults while it runs."""
        (self.root / "library" / "faults.json").write_text(json.dumps(list(faults)))

    def configure(self, old: str, new: str) -> None:
        file = self.root / "hsmfs.toml"
        text = file.read_text()
        assert old in text, f"{old!r} is not in\n{text}"
        file.write_text(text.replace(old, new))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def write_files(
    folder: Path, count: int, size: int, seed: int = 1, sync: bool = False
) -> dict[str, bytes]:
    """Random files; their contents by path below ``folder``'s parent."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    made = {}
    for number in range(count):
        data = chance.randbytes(chance.randint(size // 2, size))
        path = folder / f"f{number:04d}"
        with path.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        made[str(path)] = data
    return made


def differing(files: dict[str, bytes]) -> list[str]:
    """Paths whose content is not what was written."""
    return [path for path, data in files.items() if Path(path).read_bytes() != data]
