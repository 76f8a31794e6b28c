"""Copy files out of volumes, from images or discs in drives, with no configuration.

The work is that of ``recover.py``, which is on every disc; files of which the
manifest tells no more are copied by the disc's own UDF tree, and it is said that
nothing proves them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hsmfs.errors import CallerError, HsmError
from hsmfs.tools.voldump import sector_reader
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import recover
from hsmfs.volume.reader import VolumeReader, WalkEntry


def extract(images: Sequence[Path], into: Path, only: Sequence[str]) -> dict[str, Any]:
    """Everything, or what is at or below the paths ``only``; what happened as plain values.

    Nothing that exists is written over. Raises CallerError where no image can be read.
    """
    with ExitStack() as stack:
        return _extract(images, into, [os.fsencode(path).strip(b"/") for path in only], stack)


def _extract(
    images: Sequence[Path], into: Path, wanted: list[bytes], stack: ExitStack
) -> dict[str, Any]:
    sources, unusable = [], []
    for image in images:
        try:
            sources.append(recover.Source(str(image)))
            stack.callback(sources[-1].close)
        except (recover.Unusable, OSError) as error:
            unusable.append((image, str(error)))
    if len({str(s.header["site"]) for s in sources if "site" in s.header}) > 1:
        raise CallerError("found discs of different sites, expected those of one; give these alone")
    recovery = recover.Recovery(sources)
    recovery.restore(os.fsencode(into), wanted)
    facts: dict[str, Any] = {
        "volumes": [source.label for source in recovery.sources],
        "restored": len(recovery.restored),
        "bytes": recovery.bytes,
        "missing": {recover.text_of(path): why for path, why in sorted(recovery.missing.items())},
        "notes": [f"{source.place}: {note}" for source in sources for note in source.notes],
        "unproved": len(recovery.unproved),
        "unproved_files": sorted(map(recover.text_of, recovery.unproved)),
    }
    for image, why in unusable:
        _by_tree(image, why, into, wanted, facts)
    known = recovery.restored | recovery.missing.keys()
    for path in wanted:
        here = any(one == path or one.startswith(path + b"/") for one in known)
        if not here and not facts["unproved"]:
            facts["missing"][recover.text_of(path)] = "is on none of these volumes"
    return facts


def _by_tree(image: Path, why: str, into: Path, wanted: list[bytes], facts: dict[str, Any]) -> None:
    """A volume whose manifest cannot be found."""
    facts["notes"].append(why)
    try:
        descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CallerError(
            f"{image}: {error.strerror}; expected a disc image or a device"
        ) from error
    try:
        total = os.lseek(descriptor, 0, os.SEEK_END) // SECTOR_BYTES
        reader = VolumeReader(sector_reader(descriptor), total)
        facts["notes"].append(f"{image}: files are copied by the UDF tree, nothing proves them")
        facts["volumes"].append(reader.label)
        for entry in reader.walk():
            path = os.fsencode(entry.path)
            if recover.plain(path) and recover.chosen(path, wanted):
                _copy(reader, entry, os.path.join(os.fsencode(into), path), facts)
    except HsmError as error:
        facts["missing"][str(image)] = str(error)
    finally:
        os.close(descriptor)


def _copy(reader: VolumeReader, entry: WalkEntry, target: bytes, facts: dict[str, Any]) -> None:
    try:
        if entry.is_directory:
            os.makedirs(target, exist_ok=True)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb") as out:
            for piece in reader.stream_walked(entry):
                out.write(piece)
            facts["bytes"] += out.tell()
        os.chmod(target, stat.S_IMODE(entry.mode))
        os.utime(target, ns=(entry.atime_ns, entry.mtime_ns))
        facts["restored"] += 1
        facts["unproved"] += 1
        facts["unproved_files"].append(entry.path)
    except (OSError, HsmError) as error:
        facts["missing"][entry.path] = str(error)
