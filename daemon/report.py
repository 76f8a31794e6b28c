"""What the API tells: plain dictionaries out of the daemon's state."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric

from hsmfs.daemon import magazinereport, statusmetrics
from hsmfs.daemon.catalogrecords import DiscRecord, TaskRecord, VolumeRecord
from hsmfs.daemon.commands import Commands
from hsmfs.daemon.coverage import size_of
from hsmfs.daemon.discchoice import is_offsite
from hsmfs.daemon.hsmd import Hsmd
from hsmfs.daemon.metrics import gauge, plain
from hsmfs.daemon.packing import Found, regular_files
from hsmfs.daemon.runs import is_hashed
from hsmfs.errors import CallerError, TransientError
from hsmfs.namespace.view import NamespaceView
from hsmfs.types import SECTOR_BYTES, FileVersion, Residency

_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}


class Report:
    """Answers questions; changes nothing."""

    def __init__(self, hsmd: Hsmd, commands: Commands) -> None:
        self.hsmd = hsmd
        self.core = hsmd.core
        self.commands = commands

    async def status(self) -> dict[str, Any]:
        """The overview."""
        return {
            "site": self.core.config.site.id,
            "hsmfs": await self._hsmfs(),
            "library": {
                "name": self.core.librarian.config.name,
                "problem": self.core.librarian.problem,
                "moves": self.core.librarian.robot.moves,
            },
            "drives": self.drives(),
            "discs": self.hsmd.magazines.counts(),
            "blanks": self.hsmd.stock.report(),
            "quarantined": self.core.ward.counts(),
            "volumes": dict(Counter(v.state.value for v in self.core.catalog.volumes.values())),
            "queues": self._queues(),
            "tasks": len(self.hsmd.magazines.open_tasks()),
            "alarms": [
                {"kind": a.kind, "text": a.text, "since": a.since_ns / 1e9, "count": a.count}
                for a in self.core.alarms.active.values()
            ],
        }

    async def _hsmfs(self) -> dict[str, Any]:
        if not self.core.link.connected:
            return {"connected": False, "states": [], "tiers": [], "waiting_readers": 0}
        try:
            status = await self.core.link.status()
        except TransientError:
            return {"connected": False, "states": [], "tiers": [], "waiting_readers": 0}
        return {
            "connected": True,
            "states": [
                {"state": s.state, "files": s.files, "bytes": s.bytes} for s in status.states
            ],
            "tiers": [
                {
                    "name": t.name,
                    "used_bytes": t.used_bytes,
                    "capacity_bytes": t.capacity_bytes,
                    "free_bytes": t.free_bytes,
                }
                for t in status.tiers
            ],
            "waiting_readers": status.waiting_readers,
        }

    def _queues(self) -> dict[str, int]:
        active = self.hsmd.migrator.active.values()
        discs = self.core.catalog.discs.values()
        return {
            "migrate_files": self.hsmd.migrator.waiting_files,
            "recall_files": len(self.hsmd.recaller.requests),
            "burns": sum(max(0, self.hsmd.migrator.copies_left(a)) + a.burning for a in active),
            "verifies": sum(disc.state.value == "burned" for disc in discs),
        }

    def drives(self) -> list[dict[str, Any]]:
        found = []
        for unit in self.core.librarian.units:
            disc = self.core.catalog.discs.get(unit.disc)
            found.append(
                {
                    "name": unit.name,
                    "state": unit.state.value,
                    "disc": unit.disc,
                    "volume": disc.volume if disc else "",
                    "errors": unit.errors,
                    "loads": unit.loads,
                    "error_rate": round(unit.health.rate, 4),
                    "quarantined_until": self.core.ward.until_s(unit),
                    "note": unit.note,
                }
            )
        return found

    def trace(self, name: str) -> dict[str, Any] | None:
        """The last commands of a drive or the changer; None for an unknown name."""
        stack = self.core.librarian.stacks.get(name)
        if stack is None:
            return None
        return {"name": name, "entries": [entry.as_dict() for entry in stack.trace.entries()]}

    def disc(self, disc: DiscRecord) -> dict[str, Any]:
        """One disc."""
        return {
            "barcode": disc.barcode,
            "magazine": disc.magazine,
            "position": disc.position,
            "slot": self.core.librarian.place.get(disc.barcode),
            "place": self.core.librarian.in_words(disc),
            "state": disc.state.value,
            "volume": disc.volume,
            "capacity_bytes": disc.capacity_sectors * SECTOR_BYTES,
            "used_bytes": disc.used_sectors * SECTOR_BYTES,
            "loads": disc.loads,
            "read_errors": disc.read_errors,
            "write_errors": disc.write_errors,
            "burned_in": disc.burned_in,
            "verified_in": disc.verified_in,
            "verified": disc.verified_ns / 1e9,
            "error_rate": round(self.core.ward.disc_rate(disc.barcode), 4),
            "quarantined_until": disc.quarantined_until_ns / 1e9,
            "note": disc.quarantine_why or disc.note,
        }

    def disc_with_history(self, barcode: str) -> dict[str, Any]:
        """One disc and all that is known to have happened to it."""
        disc = self.hsmd.care.disc(barcode)
        history = [
            {"time": time_ns / 1e9, **msgspec.to_builtins(entry)}
            for time_ns, entry in self.core.catalog.history(barcode)
        ]
        return self.disc(disc) | {"history": history}

    def discs(self) -> list[dict[str, Any]]:
        ordered = sorted(self.core.catalog.discs.values(), key=lambda d: (d.magazine, d.position))
        return [self.disc(disc) for disc in ordered]

    def library(self) -> list[dict[str, Any]]:
        """The library with its slots and drives."""
        librarian = self.core.librarian
        inside = {address: code for code, address in librarian.place.items()}
        return [
            {
                "name": librarian.config.name,
                "kind": librarian.config.kind,
                "problem": librarian.problem,
                "moves": librarian.robot.moves,
                "drives": self.drives(),
                "slots": [
                    {"address": address, "barcode": inside.get(address, "")}
                    for address in librarian.slots
                ],
            }
        ]

    def magazines(self) -> list[dict[str, Any]]:
        return magazinereport.magazines(self.core)

    def volumes(self) -> list[dict[str, Any]]:
        return [self._volume(label) for label in sorted(self.core.catalog.volumes)]

    def _volume(self, label: str) -> dict[str, Any]:
        try:
            record = self.core.catalog.volumes[label]
        except KeyError:
            raise CallerError(f"volume {label!r} is not known; see hsm volume ls") from None
        discs = self.core.catalog.discs_of(label)
        return {
            "label": label,
            "pool": record.pool,
            "state": record.state.value,
            "files": record.files,
            "bytes": record.bytes,
            "total_bytes": record.total_sectors * SECTOR_BYTES,
            "copies": record.copies,
            "verified": len(self.core.catalog.verified_discs(label)),
            "offsite": sum(
                is_offsite(self.core, disc) for disc in self.core.catalog.verified_discs(label)
            ),
            "places": {
                disc.barcode: f"{disc.magazine} {self.core.librarian.in_words(disc)}"
                for disc in discs
            },
            "discs": [disc.barcode for disc in discs],
            "created": record.created_ns / 1e9,
            "image_xxh3": record.image_xxh3,
            "dead_bytes": record.dead_bytes if record.dead_ns else None,
            "parity": msgspec.to_builtins(record.parity),
            "foreign": _foreign(record),
            "note": record.note,
        }

    async def volume(self, label: str) -> dict[str, Any]:
        """One volume with its files."""
        found = self._volume(label)
        contents = self.core.catalog.contents(label)
        inodes = {file.ino for file, _ in contents}

        def names(view: NamespaceView) -> dict[int, tuple[int, bytes]]:
            known = {}
            for ino in inodes:
                record, paths = view.inode(ino), view.paths_of(ino)
                if record is not None and paths:
                    known[ino] = (record.data_version, paths[0])
            return known

        names_now = await self.core.namespace.read(names)
        found["contents"] = [
            {
                "ino": file.ino,
                "data_version": file.data_version,
                "offset": offset,
                "path": os.fsdecode(names_now.get(file.ino, (0, b""))[1]),
                "live": names_now.get(file.ino, (-1, b""))[0] == file.data_version,
            }
            for file, offset in contents
        ]
        return found

    def task(self, task: TaskRecord) -> dict[str, Any]:
        """One operator task, with who waits for it."""
        recaller = self.hsmd.recaller
        if task.drive:
            waiting = list(recaller.queues[task.volume]) if task.volume in recaller.queues else []
        else:
            waiting = recaller.offline_demand().get(task.magazine, [])
        readers = [
            {"path": self._full(w.path), "pid": w.pid, "program": w.program}
            for request in waiting
            for w in request.waiters.values()
        ]
        by_hand = [
            {"path": self._full(request.path), "pid": 0, "program": "hsm recall"}
            for request in waiting
            if not request.waiters
        ]
        return {
            "id": task.id,
            "kind": task.kind,
            "text": task.text,
            "magazine": task.magazine,
            "place": task.place,
            "why": task.why,
            "problem": task.problem,
            "since": task.since_ns / 1e9,
            "waiting": readers + by_hand,
            "state": "done" if task.done_ns else "open",
            "drive": task.drive,
            "take": task.take,
            "write": task.write,
            "box": task.box,
            "put": task.put,
            "put_box": task.put_box,
            "blank_bytes": task.blank_bytes,
            "volume": task.volume,
            "found": task.found,
        }

    def _full(self, path: str) -> str:
        return os.path.join(str(self.core.mount), path)

    def tasks(self) -> list[dict[str, Any]]:
        return [self.task(task) for task in self.hsmd.magazines.open_tasks()]

    # -- files ---------------------------------------------------------------------

    async def ls(self, paths: list[str], *, recursive: bool) -> list[dict[str, Any]]:
        """Residency of files; their real paths under the mount."""
        if self.core.link.connected:
            await self.core.link.sync()
        relative = [self.commands.relative(path) for path in paths]
        mount = self.core.mount

        def query(view: NamespaceView) -> list[tuple[Found, int, list[str], int]]:
            return [
                (item, *_more(view, item))
                for path in relative
                for item in regular_files(view, path, recursive=recursive)
            ]

        try:
            found = await self.core.namespace.read(query)
        except FileNotFoundError as error:
            raise CallerError(f"{error}: no such file or directory in the mount") from None
        return [self._entry(mount, *row) for row in found]

    def _entry(
        self, mount: Any, item: Found, copies: int, volumes: list[str], cached: int
    ) -> dict[str, Any]:
        discs = [d for label in volumes for d in self.core.catalog.verified_discs(label)]
        return {
            "path": os.path.join(str(mount), os.fsdecode(item.path)),
            "ino": item.ino,
            "type": "file",
            "size": item.size,
            "state": item.state.word,
            "copies": self._copies(item, discs, volumes) if volumes else copies,
            "volumes": volumes,
            "magazines": sorted({disc.magazine for disc in discs}),
            "cached_bytes": cached,
        }

    def _copies(self, item: Found, discs: list[DiscRecord], volumes: list[str]) -> int:
        """Of a file on several volumes each may hold a part only."""
        return self.core.catalog.copies(item.file) if len(volumes) > 1 else len(discs)

    async def locate(self, path: str) -> dict[str, Any]:
        """Every copy of a file."""
        items = await self.commands.files([path], recursive=False)
        if len(items) != 1:
            raise CallerError(f"{path}: found a directory, expected a file; use hsm ls -r")
        file = FileVersion(items[0].ino, items[0].data_version)
        copies = []
        for label, extent in self.core.catalog.extents(file):
            for disc in self.core.catalog.discs_of(label):
                about = self.disc(disc)
                copies.append(
                    {
                        "volume": label,
                        "disc": disc.barcode,
                        "magazine": disc.magazine,
                        "place": about["place"],
                        "slot": about["slot"],
                        "offset": extent.offset,
                        "size": extent.size,
                        "start": extent.start,
                        "total": size_of(extent),
                        "xxh3": extent.xxh3_128,
                        "sha256": extent.sha256,
                        "hashed": is_hashed(extent),
                        "verified": disc.verified_ns / 1e9 or None,
                        "state": disc.state.value,
                    }
                )
        return {"path": path, "copies": copies}

    # -- metrics ------------------------------------------------------------------------

    def gauges(self) -> Iterable[Metric]:
        """Read when /metrics is scraped."""
        drives = GaugeMetricFamily(
            "hsmd_drive_state", "1 for the state a drive is in.", labels=["drive", "state"]
        )
        errors = []
        for unit in self.core.librarian.units:
            drives.add_metric([unit.name, unit.state.value], 1)
            errors.append((unit.name, float(unit.errors)))
        yield drives
        ward, units = self.core.ward, self.core.librarian.units
        rates = [(unit.name, unit.health.rate) for unit in units]
        yield gauge("hsmd_drive_error_rate", "Moving average of a drive's errors.", "drive", rates)
        yield gauge(
            "hsmd_disc_error_rate",
            "Moving average of a disc's errors, of discs that failed.",
            "disc",
            ward.worst_discs(),
        )
        yield gauge(
            "hsmd_quarantined",
            "Drives and discs out of use for a time.",
            "what",
            ward.counts().items(),
        )
        yield gauge("hsmd_drive_errors", "Faults charged to a drive.", "drive", errors)
        counts = self.hsmd.magazines.counts().items()
        yield gauge("hsmd_discs", "Discs by state.", "state", ((s, float(n)) for s, n in counts))
        queues = self._queues().items()
        yield gauge("hsmd_queue", "Length of queues.", "queue", ((q, float(n)) for q, n in queues))
        tasks = len(self.hsmd.magazines.open_tasks())
        yield plain("hsmd_operator_tasks_open", "Operator tasks that are open.", tasks)
        yield plain("hsmd_alarms", "Alarms in force.", len(self.core.alarms.active))
        yield plain("hsmd_hsmfs_connected", "1 while hsmfs answers.", self.core.link.connected)
        alive = len(self.core.librarian.alive_units())
        yield plain("hsmd_drives_alive", "Drives in service.", alive)
        yield from statusmetrics.gauges(self.hsmd)


def _foreign(record: VolumeRecord) -> dict[str, Any] | None:
    """What a volume of others is."""
    known = record.foreign
    if known is None:
        return None
    return {
        "format": known.format,
        "volume_id": known.volume_id,
        "directory": os.fsdecode(known.directory),
        "stage": known.stage.value,
    }


def _more(view: NamespaceView, item: Found) -> tuple[int, list[str], int]:
    record = view.inode(item.ino)
    assert record is not None
    whole = item.state in (Residency.RESIDENT, Residency.PREMIGRATED)
    cached = item.size if whole else min(record.head_bytes, item.size)
    return record.copies, view.volumes(item.ino), cached
