"""``make bench-discs``: first byte, recall and burn rates on drives of realistic speed.

The real programs on the emulated library; rates are compared with what its drives give.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hsmfs.changer.emulated.state import Timing

FILE_BYTES: Final = 300_000_000
DISC_BYTES: Final = 340_000_000
SMALL_FILES: Final = 300
SMALL_BYTES: Final = 526_000
READ_BYTES: Final = 1 << 20
BEYOND_HEAD: Final = 8 << 20
TIMEOUT_S: Final = 600.0


class _Box:
    """A sandbox, driven by its own commands."""

    def __init__(self, root: Path, drives: int, copies: int) -> None:
        self.root = root
        self.hsm(
            "sandbox", "start", str(root), "--speed", "realistic", "--drives", str(drives),
            "--slots", "64", "--disc-bytes", str(DISC_BYTES), "--pool-copies", str(copies),
        )  # fmt: skip

    def hsm(self, *words: str) -> Any:
        environment = dict(os.environ, HSM_CONFIG=str(self.root / "hsmfs.toml"))
        command = [str(Path(sys.executable).parent / "hsm"), *words, "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, check=False
        )
        if done.returncode:
            raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def file(self, name: str, size: int) -> Path:
        """Random bytes: nothing on the way may shrink them."""
        path = self.root / "mnt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            left = size
            while left > 0:
                out.write(os.urandom(min(left, READ_BYTES)))
                left -= READ_BYTES
            out.truncate(size)
        return path

    def away(self, path: Path) -> None:
        """On discs, and not in the cache."""
        self.hsm("migrate", "-r", "--wait", str(path))
        self.hsm("release", "-r", "--wait", str(path))

    def burn_rates(self) -> list[float]:
        """Bytes a second of each burn, from the discs' histories."""
        rates = []
        for disc in [one for one in self.hsm("disc", "ls")["discs"] if one["volume"]]:
            for entry in self.hsm("disc", "show", disc["barcode"])["history"]:
                if entry["what"] == "burn" and entry["seconds"]:
                    rates.append(entry["bytes"] / entry["seconds"])
        return rates

    def stop(self) -> None:
        self.hsm("sandbox", "stop", str(self.root))


def burns(root: Path) -> None:
    """Four copies of one volume by one read; two more drives, of which one is kept for recalls."""
    timing = Timing()
    box = _Box(root / "burn", 6, 4)
    try:
        box.hsm("migrate", "--wait", str(box.file("one", FILE_BYTES)))
        shares = [rate / timing.write_bytes_s for rate in box.burn_rates()]
        print("burn, 4 drives, share of write speed:", " ".join(f"{one:.3f}" for one in shares))
    finally:
        box.stop()


def recalls(root: Path) -> None:
    """One drive; the disc that is wanted lies in a slot, another one in the drive."""
    timing = Timing()
    box = _Box(root / "recall", 1, 1)
    try:
        large, study = box.file("large", FILE_BYTES), box.root / "mnt" / "study"
        box.away(large)
        for number in range(SMALL_FILES):
            box.file(f"study/{number:04d}", SMALL_BYTES)
        box.away(study)
        first_s, seconds = read_timed(large)
        load_s = 2 * timing.move_s + timing.load_s
        print(f"first byte: load time + {first_s - load_s:.2f} s (load time {load_s:.0f} s)")
        share = (FILE_BYTES - BEYOND_HEAD) / seconds / timing.read_bytes_s
        print(f"recall of {FILE_BYTES:,} bytes by a reader: {share:.3f} of the read speed")
        box.hsm("recall", "--wait", str(study / "0000"))
        command_s = _seconds(lambda: box.hsm("recall", "--wait", str(study / "0000")))
        study_s = _seconds(lambda: box.hsm("recall", "-r", "--wait", str(study)))
        bytes_s = SMALL_FILES * SMALL_BYTES / timing.read_bytes_s
        print(
            f"recall of a study of {SMALL_FILES} files: {bytes_s / (study_s - command_s):.3f} of "
            f"the read speed; {bytes_s / study_s:.3f} with the command's own {command_s:.2f} s"
        )
    finally:
        box.stop()


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def read_timed(path: Path) -> tuple[float, float]:
    """Seconds to the first byte beyond the head, and from then to the end."""
    started = time.monotonic()
    with path.open("rb", buffering=0) as file:
        file.seek(BEYOND_HEAD)
        file.read(READ_BYTES)
        first = time.monotonic()
        while file.read(READ_BYTES):
            pass
    return first - started, time.monotonic() - first


def main() -> None:
    """Print the figures, those named as arguments or all."""
    chosen = [work for work in (recalls, burns) if work.__name__ in sys.argv[1:]]
    root = Path(tempfile.mkdtemp(prefix="hsmfs-discs-"))
    try:
        for work in chosen or (recalls, burns):
            work(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
