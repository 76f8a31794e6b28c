"""``make demo``: the whole system at work on real files, ended by a comparison.

Everything is done by the commands that a person would use: cp, rsync, hsm,
7z, and pydicom on the mounted path. The sandbox is stopped and removed at the
end, however the demo ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pydicom
from rich.console import Console

from hsmfs.tools.compare import compare_trees
from hsmfs.tools.demodata import carried_files, ct_series
from hsmfs.tools.output import size_words, table

DISC_BYTES: Final = 100_000_000
SPACE_BYTES: Final = 2_500_000_000
COMMAND_TIMEOUT_S: Final = 150.0
TASK_TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.1
SEVENZIP_WARNING: Final = 1
"""7-Zip warns of the metadata mirror behind the data, and reads everything."""


class DemoError(Exception):
    """Something did not go as it must."""


class Demo:
    """One run in one directory."""

    mover = "robot moves"

    def __init__(self, work: Path) -> None:
        self.originals = work / "originals"
        self.sandbox = work / "sandbox"
        self.mount = self.sandbox / "mnt"
        self.unpacked = work / "unpacked"
        self.compared = ""
        self.screen = Console(width=None if sys.stdout.isatty() else 100, highlight=False)

    # -- the programs used -------------------------------------------------------

    def run(self, *command: str | Path, ok: tuple[int, ...] = (0,)) -> str:
        """Run a command to its end; its output, or DemoError with what it said."""
        words = [str(word) for word in command]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        if done.returncode not in ok:
            raise DemoError(
                f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def hsm(self, *command: str | Path) -> Any:
        """Run ``hsm ... --json`` on the sandbox; its JSON."""
        where = ["--config", str(self.sandbox / "hsmfs.toml")]
        return json.loads(
            self.run(sys.executable, "-m", "hsmfs.tools.hsm", *where, *command, "--json")
        )

    def sandbox_command(self, verb: str, *options: str) -> Any:
        """Run ``hsm sandbox VERB``."""
        words = ["hsmfs.tools.hsm", "sandbox", verb, str(self.sandbox), *options, "--json"]
        return json.loads(self.run(sys.executable, "-m", *words))

    def moves(self) -> int:
        """Robot moves since hsmd started."""
        return int(self.hsm("status")["library"]["moves"])

    def loads(self) -> int:
        """How often a disc was put into a drive, of all discs."""
        return sum(disc["loads"] for disc in self.hsm("disc", "ls")["discs"])

    # -- what is shown -------------------------------------------------------------

    def step(self, number: int, title: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do one step and show it as a short table."""
        moves, start = self.moves() if number > 1 else 0, time.monotonic()
        facts = work()
        facts[self.mover] = self.moves() - moves
        facts["seconds"] = f"{time.monotonic() - start:.1f}"
        self.screen.print(f"{number}. {title}")
        self.screen.print(table(list(facts), [list(facts.values())]))
        self.screen.print()

    def main(self) -> None:
        """All steps in order."""
        self.make_originals()
        self.step(1, "A system on an emulated library", self.start)
        self.step(2, "Copied in with cp -a and rsync", self.copy_in)
        self.step(3, "Migrated: two copies on discs in different magazines, verified", self.migrate)
        self.step(4, "Released: the cache keeps only heads", self.release)
        self.step(5, "DICOM headers of all stubs read: no disc is needed", self.read_headers)
        self.step(6, "Pixels of every tenth slice read through the mount", self.read_pixels)
        self.step(7, "A disc opened with 7-Zip, without hsmfs", self.open_disc)
        self.step(8, "Magazines on the shelf: a reader waits, a person is asked", self.shelf)
        self.step(9, "Everything compared with the originals", self.compare)

    # -- steps -----------------------------------------------------------------------

    def make_originals(self) -> None:
        start = time.monotonic()
        carried_files(self.originals / "carried")
        ct_series(self.originals / "ct")
        files, size = self.weight(self.originals)
        self.screen.print(
            f"Originals: {files} DICOM and other files, {size_words(size)} "
            f"({time.monotonic() - start:.1f} s)\n"
        )

    def start(self) -> dict[str, Any]:
        self.sandbox_command(
            "start", "--drives", "2", "--slots", "24", "--disc-bytes", str(DISC_BYTES)
        )
        discs = self.hsm("disc", "ls")["discs"]
        return {
            "drives": len(self.hsm("drive", "ls")["drives"]),
            "magazines": len(self.hsm("magazine", "ls")["magazines"]),
            "blank discs": sum(disc["state"] == "blank" for disc in discs),
        }

    def copy_in(self) -> dict[str, Any]:
        self.run("cp", "-a", self.originals / "carried", self.mount)
        self.run("rsync", "-a", self.originals / "ct", self.mount)
        os.sync()
        files, size = self.weight(self.mount)
        return {"files": files, "bytes": size_words(size)}

    def migrate(self) -> dict[str, Any]:
        job = self.hsm("migrate", "-r", "--wait", self.mount)
        discs = [disc for disc in self.hsm("disc", "ls")["discs"] if disc["state"] == "verified"]
        self.expect(self.states() == {"premigrated"}, f"not all premigrated: {self.states()}")
        return {
            "files": job["files_done"],
            "bytes": size_words(job["bytes_done"]),
            "discs verified": len(discs),
            "in magazines": ", ".join(sorted({disc["magazine"] for disc in discs})),
        }

    def release(self) -> dict[str, Any]:
        before = self.cache_bytes()
        job = self.hsm("release", "-r", self.mount)
        listed = self.hsm("ls", "-r", self.mount)["files"]
        files = [entry for entry in listed if entry["type"] == "file"]
        big = [entry for entry in files if entry["state"] == "migrated"]
        self.expect(len(big) == len(files), "hsm ls shows files that are no stubs")
        return {
            "files": job["files_done"],
            "stubs": len(big),
            "copies of each": min(entry["copies"] for entry in big),
            "cache before": size_words(before),
            "cache after": size_words(self.cache_bytes()),
        }

    def read_headers(self) -> dict[str, Any]:
        loads = self.loads()
        files = sorted((self.mount / "ct").iterdir())
        for path in files:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            self.expect(header.PatientID == "DEMO-1", f"{path}: another patient")
        self.expect(self.loads() == loads, "reading headers loaded discs")
        self.expect(self.states() == {"migrated"}, "reading headers recalled files")
        return {"files": len(files), "disc loads": 0}

    def read_pixels(self) -> dict[str, Any]:
        files = sorted((self.mount / "ct").iterdir())[::10]
        size = 0
        for path in files:
            pixels = pydicom.dcmread(path).pixel_array
            original = pydicom.dcmread(self.originals / "ct" / path.name).pixel_array
            self.expect(bool((pixels == original).all()), f"{path}: other pixels")
            size += pixels.nbytes
        return {"files": len(files), "bytes": size_words(size)}

    def open_disc(self) -> dict[str, Any]:
        image = max((self.sandbox / "library" / "discs").glob("*.img"), key=self.used_bytes)
        codes = (0, SEVENZIP_WARNING)
        self.run("7z", "x", "-bd", "-y", f"-o{self.unpacked}", image, ok=codes)
        files = size = 0
        for path in sorted(self.unpacked.rglob("*")):
            name = path.relative_to(self.unpacked)
            if path.is_file() and name.parts[0] in ("carried", "ct"):
                same = path.read_bytes() == (self.originals / name).read_bytes()
                self.expect(same, f"{name} on {image.name} differs from the original")
                files, size = files + 1, size + path.stat().st_size
        self.expect(files > 0, f"7-Zip found no files of ours on {image.name}")
        return {"disc": image.stem, "files identical": files, "bytes": size_words(size)}

    def shelf(self) -> dict[str, Any]:
        self.hsm("release", "-r", self.mount)
        name = Path("ct") / "IM0005.dcm"
        magazines = sorted(
            {copy["magazine"] for copy in self.hsm("locate", self.mount / name)["copies"]}
        )
        for magazine in magazines:
            self.hsm("magazine", "export", magazine)
        reader = subprocess.Popen(["cat", self.mount / name], stdout=subprocess.PIPE)
        try:
            task = self.task_for(reader.pid)
            self.screen.print(f"   hsm tasks: {task['text']}")
            for waiting in task["waiting"]:
                self.screen.print(f"   waiting: {waiting['program']} for {waiting['path']}")
            self.hsm("magazine", "import", task["magazine"])
            data, _ = reader.communicate(timeout=COMMAND_TIMEOUT_S)
        finally:
            reader.kill()
            reader.wait()
        self.expect(data == (self.originals / name).read_bytes(), f"{name}: other bytes")
        for magazine in magazines:
            if magazine != task["magazine"]:
                self.hsm("magazine", "import", magazine)
        return {
            "exported": ", ".join(magazines),
            "asked for": task["magazine"],
            "reader got": size_words(len(data)),
        }

    def task_for(self, pid: int) -> Any:
        """The operator task that a waiting reader caused."""
        end = time.monotonic() + TASK_TIMEOUT_S
        while time.monotonic() < end:
            for task in self.hsm("tasks")["tasks"]:
                if any(waiting["pid"] == pid for waiting in task["waiting"]):
                    return task
            time.sleep(POLL_S)
        raise DemoError(f"no operator task within {TASK_TIMEOUT_S:.0f} s of the reader")

    def compare(self) -> dict[str, Any]:
        found = compare_trees(self.originals, self.mount)
        if found.differences:
            raise DemoError("\n".join(["not identical:", *found.differences]))
        self.compared = f"compared identical: {found.files} files, {found.bytes:,} bytes"
        return {"files": found.files, "bytes": size_words(found.bytes)}

    # -- small questions -----------------------------------------------------------------

    def expect(self, true: bool, text: str) -> None:
        if not true:
            raise DemoError(text)

    def states(self) -> set[str]:
        files = self.hsm("ls", "-r", self.mount)["files"]
        return {entry["state"] for entry in files if entry["type"] == "file"}

    def weight(self, root: Path) -> tuple[int, int]:
        sizes = [path.lstat().st_size for path in root.rglob("*") if path.is_file()]
        return len(sizes), sum(sizes)

    def cache_bytes(self) -> int:
        cache = self.sandbox / "cache"
        return sum(self.used_bytes(path) for path in cache.rglob("*") if path.is_file())

    def used_bytes(self, path: Path) -> int:
        return path.stat().st_blocks * 512

    def clean_up(self) -> None:
        """Stop the sandbox, if it was started."""
        if (self.sandbox / "hsmfs.toml").exists():
            self.sandbox_command("stop")


def interrupt(number: int, frame: FrameType | None) -> None:
    """A signal ends the demo like Ctrl-C: everything is cleaned up."""
    raise KeyboardInterrupt


def logs_of(sandbox: Path) -> str:
    """The last log lines of both programs, for the person who looks into a failure."""
    texts = []
    for path in sorted((sandbox / "log").glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()[-15:]
        texts.append("\n".join([f"-- {path.name}", *lines]))
    return "\n".join(texts)


def main(kind: type[Demo] = Demo) -> int:
    """Run the demo; 0 if every byte was identical."""
    signal.signal(signal.SIGTERM, interrupt)
    base = Path(tempfile.gettempdir())
    if shutil.disk_usage(base).free < SPACE_BYTES:
        need = size_words(SPACE_BYTES)
        print(f"demo: {base} has less than {need} free; set TMPDIR elsewhere", file=sys.stderr)
        return 1
    start = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="hsmfs-demo-", dir=base))
    demo = kind(work)
    try:
        demo.main()
    except (DemoError, subprocess.TimeoutExpired, OSError) as error:
        print(f"demo: {error}\n{logs_of(demo.sandbox)}", file=sys.stderr)
        return 1
    finally:
        try:
            demo.clean_up()
        finally:
            if not os.path.ismount(demo.mount):
                shutil.rmtree(work, ignore_errors=True)
    print(f"demo done in {time.monotonic() - start:.0f} s")
    print(demo.compared)
    return 0


if __name__ == "__main__":
    sys.exit(main())
