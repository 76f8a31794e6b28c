"""Faults as arguments: what fails, where, how often, with which sense.

``faults.json`` in the library's directory is a list of ``Fault``s; it is read
again whenever it changes, so a running system can be given faults.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import structlog

log = structlog.get_logger(__name__)
FAULTS_FILE: Final = "faults.json"
Op = Literal[
    "any",
    "load",
    "eject",
    "read",
    "write",
    "sync",
    "close",
    "prevent",
    "move",
    "status",
    "initialize",
]
Key = Annotated[int, msgspec.Meta(ge=0, le=15)]
Code = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One fault; ``device`` is drive0, changer or a barcode."""

    device: str
    op: Op = "any"
    sense: tuple[Key, Code, Code] = (4, 0x44, 0)
    lba_from: int = 0
    lba_to: int = 1 << 40
    after_bytes: int = 0
    count: int = 1 << 40
    """How often it strikes."""
    probability: float = 1.0
    seed: int = 0
    done: bool = False
    """For moves: the robot does it all the same, then reports the error."""


class Faults:
    """All faults of a library; thread-safe."""

    def __init__(self, root: Path, faults: Sequence[Fault] = ()) -> None:
        self._file = root / FAULTS_FILE
        self._lock = threading.RLock()
        self._stamp: tuple[int, int] | None = None
        self.set(faults)

    def set(self, faults: Sequence[Fault]) -> None:
        """Replace all faults."""
        with self._lock:
            self._faults = list(faults)
            self._hits = [0] * len(self._faults)
            self._bytes: dict[tuple[str, str], int] = {}
            self._random = [random.Random(fault.seed) for fault in self._faults]

    def _reload(self) -> None:
        try:
            facts = self._file.stat()
        except FileNotFoundError:
            if self._stamp is not None:
                self._stamp = None
                self.set(())
            return
        stamp = (facts.st_mtime_ns, facts.st_size)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            faults = msgspec.json.decode(self._file.read_bytes(), type=list[Fault])
        except (msgspec.MsgspecError, OSError) as error:
            log.error("faults.json is not used", error=str(error))
            return
        self.set(faults)

    def strike(
        self, devices: Sequence[str], op: str, lba: int = 0, sectors: int = 0, size: int = 0
    ) -> Fault | None:
        """The first fault that hits this operation."""
        with self._lock:
            self._reload()
            if not self._faults:
                return None
            for device in devices:
                self._bytes[device, op] = self._bytes.get((device, op), 0) + size
            for index, fault in enumerate(self._faults):
                if self._hits_now(index, fault, devices, op, lba, sectors):
                    self._hits[index] += 1
                    return fault
        return None

    def _hits_now(
        self, index: int, fault: Fault, devices: Sequence[str], op: str, lba: int, sectors: int
    ) -> bool:
        if fault.device not in devices or fault.op not in ("any", op):
            return False
        if self._hits[index] >= fault.count:
            return False
        if op in ("read", "write") and not (lba < fault.lba_to and lba + sectors > fault.lba_from):
            return False
        if fault.after_bytes and self._bytes.get((fault.device, op), 0) < fault.after_bytes:
            return False
        return fault.probability >= 1.0 or self._random[index].random() < fault.probability
