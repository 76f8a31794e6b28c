"""A drive is known by its serial number, not by its device's name, which may change.

After a command without an answer the device is asked who it is before it gets another one. If
another drive answers there, or none, the drive is looked for among all devices of its kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from hsmfs.changer.discovery import UNITS_MAX, units_of
from hsmfs.changer.identity import TYPE_DRIVE, identify
from hsmfs.changer.transport.address import DeviceAddress
from hsmfs.changer.transport.interface import Reply, Transport, transfer_bytes_max
from hsmfs.changer.transport.iscsi import discover
from hsmfs.errors import HsmError, TransientError

log = structlog.get_logger(__name__)
LOOK_S: Final = 10.0
"""A drive that was not found is looked for again after so long."""
DEVICES: Final = Path("/dev")
Open = Callable[[str], Transport]
"""The transport to a device by its address as the configuration writes it."""


def serial_at(transport: Transport) -> str:
    """Of the drive that answers; empty if none does."""
    try:
        return identify(transport, TYPE_DRIVE).serial
    except HsmError:
        return ""


def find(serial: str, candidates: Iterable[str], open_device: Open) -> tuple[str, Transport] | None:
    """The device of the drive with a serial number, opened; None if there is none."""
    for number, device in enumerate(candidates):
        if number >= UNITS_MAX:
            break
        try:
            transport = open_device(device)
        except HsmError:
            continue
        if serial_at(transport) == serial:
            return device, transport
        transport.close()
    return None


def neighbours(address: DeviceAddress, devices: Path = DEVICES) -> Iterator[str]:
    """Where else a drive may be: all devices of its kind here, all units of its iSCSI portal."""
    if address.iscsi is None:
        folder = devices / "bsg" if "/bsg/" in address.path else devices
        names = sorted(folder.glob("*" if folder.name == "bsg" else "sg[0-9]*"))
        yield from (f"{address.kind}:{path}" for path in names)
        return
    with suppress(HsmError):
        for target in discover(address.iscsi.portal):
            yield from map(str, units_of(address.iscsi._replace(target=target)))


class Followed:
    """A transport that stays with one drive, whatever its device is called."""

    def __init__(
        self,
        inner: Transport,
        device: str,
        candidates: Callable[[], Iterable[str]],
        open_device: Open,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.device = device
        """Where it is now."""
        self.serial = ""
        """Whom to stay with; empty: with whatever is at the device."""
        self._inner = inner
        self._candidates = candidates
        self._open = open_device
        self._monotonic_s = monotonic_s
        self._doubt = False
        self._looked_s = float("-inf")

    @property
    def transfer_bytes_max(self) -> int:
        return transfer_bytes_max(self._inner)

    def execute(
        self,
        cdb: bytes,
        data_out: bytes | memoryview = b"",
        data_in_len: int = 0,
        timeout_s: float = 60.0,
    ) -> Reply:
        """As the transport below; TransientError while the drive is nowhere."""
        if self._doubt and self.serial:
            self._make_sure()
        try:
            return self._inner.execute(cdb, data_out, data_in_len, timeout_s)
        except TransientError:
            self._doubt = True
            raise

    def _make_sure(self) -> None:
        """It is the drive that answers here, or it was found elsewhere."""
        if serial_at(self._inner) == self.serial:
            self._doubt = False
            return
        now_s = self._monotonic_s()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            if self.look_for(self.serial):
                self._doubt = False
                return
        raise TransientError(
            f"the drive with serial number {self.serial!r} is not at {self.device} any more, and "
            "at no other device; look at its cable and power"
        )

    def look_for(self, serial: str) -> bool:
        """Go over to the device where this drive is; False if there is none."""
        found = find(serial, self._candidates(), self._open)
        if found is None:
            return False
        log.warning("drive has another name", serial=serial, was=self.device, now=found[0])
        self._inner.close()
        self.device, self._inner = found
        self.serial = serial
        return True

    def close(self) -> None:
        """Give the device back."""
        self._inner.close()
