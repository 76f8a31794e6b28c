"""A whole system whose hsmd can be killed at a step; quick to drive."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hsmfs.daemon.catalog import Catalog
from hsmfs.errors import HsmError
from hsmfs.store.lmdbstore import LmdbStore
from hsmfs.tools.hsm import make_app
from support.crashpoints import CrashFile
from support.sandboxes import Sandbox, differing, write_files

DISC = "20000000"
FILES, BYTES = 3, 1_500_000
LARGE_BYTES = 14_000_000
"""Of several chunks."""
APP = make_app()


class Crashing(Sandbox):
    """A sandbox whose hsmd can be killed at a step."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        root.parent.mkdir(parents=True, exist_ok=True)
        self.crash = CrashFile(root.parent / f"{root.name}.crash")
        self._number = itertools.count()

    def hsm(self, *words: str, check: bool = True, timeout: float = 0) -> Any:
        """As ever, but in this process: a program's start costs more than what it does."""
        said, code = io.StringIO(), 1
        environment = self.crash.environment | {"HSM_CONFIG": str(self.root / "hsmfs.toml")}
        with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(said):
            for name, value in environment.items():
                patched.setenv(name, value)
            try:
                code = APP([*words, "--json"], standalone_mode=False) or 0
            except HsmError as error:
                said.write(str(error))
        assert code == 0 or not check, f"{words}: {code} {said.getvalue()}"
        try:
            return json.loads(said.getvalue())
        except json.JSONDecodeError:
            return said.getvalue()

    def fresh(self, count: int = FILES, size: int = BYTES) -> dict[str, bytes]:
        """Files that no test had before, in a directory of their own."""
        number = next(self._number)
        return write_files(self.mnt / f"d{number}", count, size, seed=number)

    def migrated(self, count: int = FILES, size: int = BYTES) -> tuple[dict[str, bytes], str, str]:
        """Fresh files on a disc, as stubs; volume and disc."""
        made = self.fresh(count, size)
        self.migrate_and_release(Path(next(iter(made))).parent)
        label = volume_of(next(iter(made)))
        (disc,) = [d["barcode"] for d in self.discs() if d["volume"] == label]
        return made, label, disc

    def killed(self, trigger: Callable[[], object], point: str, when: str, **more: Any) -> None:
        """hsmd is gone, at this step."""
        pid = self.pid("hsmd")
        self.crash.arm(point, when, **more)
        trigger()
        self.until(lambda: self.crash.note.exists() and not Path(f"/proc/{pid}").exists())
        self.crash.disarm()
        assert json.loads(self.crash.note.read_text())["pid"] == pid

    def migrating(self, made: dict[str, bytes]) -> Callable[[], object]:
        """Asks for it; hsmd may be gone before it answers."""
        folder = str(Path(next(iter(made))).parent)
        return lambda: self.hsm("migrate", "-r", folder, check=False)

    # -- what is left ---------------------------------------------------------------------

    def catalog(self) -> Catalog:
        """Its records as they are on disk; hsmd does not run."""
        store = LmdbStore(self.state / "catalog", 1 << 38, read_only=True)
        try:
            return Catalog(store)
        finally:
            store.close()

    def catalog_splits(self) -> int:
        """Files that are being burned in parts, as hsmd has noted them."""
        store = LmdbStore(self.state / "catalog", 1 << 38, read_only=True)
        try:
            with store.snapshot() as reader:
                return sum(1 for _ in reader.scan(b"S", b"T"))
        finally:
            store.close()

    @property
    def state(self) -> Path:
        return self.root / "state"

    def cached(self, side: str) -> list[Path]:
        """Files of the cache that stand for something under way."""
        return list((self.root / "cache" / side).glob("*"))

    def image(self, barcode: str) -> Path:
        return self.root / "library" / "discs" / f"{barcode}.img"

    # -- what comes of it -----------------------------------------------------------------

    def state_of(self, barcode: str) -> str:
        return str(next(d["state"] for d in self.discs() if d["barcode"] == barcode))

    def discs_of(self, label: str) -> dict[str, str]:
        return {d["barcode"]: d["state"] for d in self.discs() if d["volume"] == label}

    def volumes(self) -> dict[str, str]:
        return {v["label"]: v["state"] for v in self.hsm("volume", "ls")["volumes"]}

    def until_premigrated(self, made: dict[str, bytes]) -> str:
        """All are; on which volume."""
        self.until(lambda: {state_of(path) for path in made} == {"premigrated"})
        assert not differing(made)
        (label,) = {volume_of(path) for path in made}
        assert self.volumes()[label] == "complete"
        return label

    def release(self, made: dict[str, bytes]) -> None:
        self.hsm("release", "-r", "--wait", str(Path(next(iter(made))).parent))


def state_of(path: str) -> str:
    return os.getxattr(path, "user.hsm.state").decode()


def volume_of(path: str) -> str:
    return os.getxattr(path, "user.hsm.volumes").decode()


@contextlib.contextmanager
def running(root: Path, *options: str) -> Iterator[Crashing]:
    box = Crashing(root)
    box.start("--drives", "2", "--disc-bytes", DISC, "--pool-copies", "1", *options)
    try:
        yield box
    finally:
        box.stop()
