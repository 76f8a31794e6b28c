"""Parts of files whose own lines are damaged: the line of any other part tells what they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from hsmfs.volume.names import is_part_name
from hsmfs.volume.source import FileSource, Part

DIGITS: Final = "0123456789"


def part_bytes(source: FileSource) -> int:
    """Of each part of a file but the last."""
    assert source.part is not None
    number, start = source.part.number, source.part.start
    return start // (number - 1) if number > 1 else source.size


def without_number(disc_path: str) -> str:
    """What all parts of a file are called on their discs."""
    return disc_path.rstrip(DIGITS)


@dataclass(slots=True)
class PartNames:
    """Files in parts, by what their parts are called."""

    _known: dict[str, FileSource] = field(default_factory=dict)

    def note(self, disc_path: str, source: FileSource) -> None:
        """A part's line, or that of a further name of it."""
        name = without_number(disc_path)
        if source.link_of is None or name not in self._known:
            self._known[name] = source

    def of(self, label: str, disc_path: str, size: int) -> FileSource | None:
        """What a volume has at a path, if that is a part: it has the name, lies on the volume
        that was planned for its number, and is as large as that part must be."""
        if not is_part_name(disc_path.encode("utf-8", "replace")):
            return None
        name = without_number(disc_path)
        known, number = self._known.get(name), int(disc_path[len(name) :])
        if known is None or known.part is None or known.link_of is not None or not number:
            return None
        whole, each = known.part, part_bytes(known)
        start = (number - 1) * each
        planned = dict(enumerate(whole.volumes, 1)).get(number, label)
        if planned != label or size != min(each, whole.total - start):
            return None
        part = Part(number, whole.parts, start, whole.total, whole.volumes, whole.sha256)
        return replace(known, size=size, part=part)
