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

from hsmfs.changer import cdb as codes

log = structlog.get_logger(__name__)
FAULTS_FILE: Final = "faults.json"
LIBRARY: Final = "library"
"""All devices at once."""
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
Effect = Literal["sense", "slow", "lost", "power", "wrong", "double"]
"""The command ends with the sense; takes longer; its answer is lost; the device's power goes;
another disc is where a barcode says this one is; the robot takes two discs at once."""
OPS: Final[dict[int, Op]] = {
    codes.TEST_UNIT_READY: "load",
    codes.READ_DISC_INFORMATION: "load",
    codes.READ_TRACK_INFORMATION: "load",
    codes.START_STOP_UNIT: "load",
    codes.READ_10: "read",
    codes.READ_12: "read",
    codes.WRITE_10: "write",
    codes.WRITE_12: "write",
    codes.SYNCHRONIZE_CACHE: "sync",
    codes.CLOSE_TRACK_SESSION: "close",
    codes.PREVENT_ALLOW: "prevent",
    codes.MOVE_MEDIUM: "move",
    codes.READ_ELEMENT_STATUS: "status",
    codes.INITIALIZE_ELEMENT_STATUS: "initialize",
}
"""What a command counts as; others only as ``any``."""
Key = Annotated[int, msgspec.Meta(ge=0, le=15)]
Code = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One fault; ``device`` is drive0, changer, library (all devices) or a barcode."""

    device: str
    op: Op = "any"
    effect: Effect = "sense"
    sense: tuple[Key, Code, Code] = (4, 0x44, 0)
    lba_from: int = 0
    lba_to: int = 1 << 40
    after_bytes: int = 0
    after_commands: int = 0
    """It begins after so many commands that it would fit; a wrong disc, after so many of all."""
    count: int = 1 << 40
    """How often it strikes."""
    probability: float = 1.0
    rising: float = 0.0
    """Added to the probability with each command that it fits: a drive that dies."""
    seed: int = 0
    done: bool = False
    """For moves: the robot does it all the same, then reports the error. Of a lost answer or
    power: the command is done before."""
    delay_s: float = 1.0
    """What a slow command takes longer."""
    other: str = ""
    """The disc that is really where ``device`` should be, and the other way round."""


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
            self._commands = 0
            self._seen = [0] * len(self._faults)
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
        self,
        devices: Sequence[str],
        op: str,
        lba: int = 0,
        sectors: int = 0,
        size: int = 0,
        effects: tuple[Effect, ...] = ("sense",),
    ) -> Fault | None:
        """The first fault that hits this operation."""
        with self._lock:
            self._reload()
            if not self._faults:
                return None
            if "sense" in effects:
                for device in devices:
                    self._bytes[device, op] = self._bytes.get((device, op), 0) + size
            for index, fault in enumerate(self._faults):
                if fault.effect not in effects:
                    continue
                if self._hits_now(index, fault, devices, op, lba, sectors):
                    self._hits[index] += 1
                    return fault
        return None

    @property
    def struck(self) -> bool:
        """Whether any fault of these has struck; a wrong disc, whether it was met."""
        return any(self._hits)

    def on_the_way(self, devices: Sequence[str], cdb: bytes) -> Fault | None:
        """What befalls a command as a whole, whatever it is: slow, lost or power."""
        self._commands += 1
        op = OPS.get(cdb[0], "any") if cdb else "any"
        if cdb[:1] == bytes([codes.START_STOP_UNIT]) and cdb[4] & 3 == codes.START_EJECT:
            op = "eject"
        lba, sectors = codes.address_and_count(cdb) if op in ("read", "write") else (0, 0)
        return self.strike((*devices, LIBRARY), op, lba, sectors, 0, ("slow", "lost", "power"))

    def really(self, barcode: str) -> str:
        """The disc that lies where this barcode is believed to be."""
        with self._lock:
            self._reload()
            for index, fault in enumerate(self._faults):
                if self._commands < fault.after_commands:
                    continue
                if fault.effect == "wrong" and barcode in (fault.device, fault.other):
                    self._hits[index] += 1
                    return fault.other if barcode == fault.device else fault.device
        return barcode

    def _hits_now(
        self, index: int, fault: Fault, devices: Sequence[str], op: str, lba: int, sectors: int
    ) -> bool:
        if fault.device not in devices or fault.op not in ("any", op):
            return False
        if op in ("read", "write") and not (lba < fault.lba_to and lba + sectors > fault.lba_from):
            return False
        if fault.after_bytes and self._bytes.get((fault.device, op), 0) < fault.after_bytes:
            return False
        self._seen[index] += 1
        seen = self._seen[index] - fault.after_commands
        if self._hits[index] >= fault.count or seen <= 0:
            return False
        chance = fault.probability + fault.rising * seen
        return chance >= 1.0 or self._random[index].random() < chance
