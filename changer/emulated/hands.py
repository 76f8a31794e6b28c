"""What a person does at the emulated library's door."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from hsmfs.changer.emulated.disc import format_path, image_path, marker_path
from hsmfs.changer.emulated.state import FIRST_SLOT, LibraryState, Tray, fsync_directory
from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES

if TYPE_CHECKING:
    from hsmfs.changer.emulated.library import EmulatedLibrary


class Hands:
    """Magazines in and out, discs replaced; the robot notices each."""

    def __init__(self, library: EmulatedLibrary) -> None:
        self._library = library

    def take_out_magazine(self, index: int) -> str:
        """Take the magazine at a span of slots out; the id of its tray.

        Discs that are in drives stay there. CallerError where nothing is.
        """

        def change(state: LibraryState) -> str:
            size = state.magazine_slots
            span = slice(index * size, (index + 1) * size)
            discs = state.slots[span]
            if index < 0 or not any(discs):
                raise CallerError(f"no magazine stands at span {index}")
            if self._library.changer.prevented:
                raise CallerError("the library's door is locked; allow removal first")
            state.slots[span] = [""] * len(discs)
            tray = Tray(id=f"T{state.next_tray}", discs=discs, span=index)
            state.next_tray += 1
            state.trays.append(tray)
            return tray.id

        return self._library.change(change)

    def put_in_magazine(self, tray_id: str) -> int:
        """Put a tray into the span it came from, else the first free one; which one."""

        def change(state: LibraryState) -> int:
            tray = next((tray for tray in state.trays if tray.id == tray_id), None)
            if tray is None:
                raise CallerError(f"tray {tray_id} is not outside")
            if self._library.changer.prevented:
                raise CallerError("the library's door is locked; allow removal first")
            index = next((i for i in _spans(state, tray) if _fits(state, tray, i)), None)
            if index is None:
                raise CallerError("no free place for a magazine; take one out first")
            start = index * state.magazine_slots
            state.slots[start : start + len(tray.discs)] = tray.discs
            state.trays.remove(tray)
            return index

        return self._library.change(change)

    def load_foreign(self, barcode: str, image: bytes | Path, closed: bool = True) -> None:
        """Somebody else's disc under this barcode.

        In the place of our disc of that name, or of an unknown name in the
        first free mailslot or slot. CallerError while the disc is in a drive.
        """

        def change(state: LibraryState) -> None:
            if not _is_known(state, barcode):
                _put_into_free_element(state, barcode)
            self._swap(state, barcode, image, closed)

        self._library.change(change)

    def replace_disc(self, barcode: str) -> None:
        """A fresh blank disc under the same barcode; CallerError while it is in a drive."""

        def change(state: LibraryState) -> None:
            if not _is_known(state, barcode):
                raise CallerError(f"disc {barcode} is not in the library nor in a tray outside")
            self._swap(state, barcode, None, False)

        self._library.change(change)

    def _swap(
        self, state: LibraryState, barcode: str, image: bytes | Path | None, closed: bool
    ) -> None:
        """Whatever moment it is cut at, no disc is complete that should not be."""
        if barcode in state.drive_discs:
            raise CallerError(f"disc {barcode} is in a drive; return it to its slot first")
        discs = self._library.discs
        marker, target = marker_path(discs, barcode), image_path(discs, barcode)
        marker.unlink(missing_ok=True)
        fsync_directory(marker.parent)
        format_path(discs, barcode).unlink(missing_ok=True)
        if image is None:
            target.unlink(missing_ok=True)
            return
        # Beside the markers: the folder of images holds nothing else.
        temporary = self._library.path / f"{barcode}.new"
        _write_image(temporary, image)
        temporary.replace(target)
        if closed:
            marker.touch()


def _write_image(target: Path, image: bytes | Path) -> None:
    """Padded to whole sectors."""
    if isinstance(image, Path):
        shutil.copyfile(image, target)
    else:
        target.write_bytes(image)
    size = target.stat().st_size
    os.truncate(target, size + -size % SECTOR_BYTES)


def _is_known(state: LibraryState, barcode: str) -> bool:
    outside = (code for tray in state.trays for code in tray.discs)
    return barcode in (*state.slots, *state.mailslots, *state.drive_discs, *outside)


def _put_into_free_element(state: LibraryState, barcode: str) -> None:
    for items in (state.mailslots, state.slots):
        if "" in items:
            items[items.index("")] = barcode
            return
    raise CallerError(f"no free slot for disc {barcode}; take a disc or magazine out first")


def _spans(state: LibraryState, tray: Tray) -> list[int]:
    """All spans of slots, the one the tray came from first."""
    spans = range(-(-len(state.slots) // state.magazine_slots))
    return sorted(spans, key=lambda index: index != tray.span)


def _fits(state: LibraryState, tray: Tray, index: int) -> bool:
    """Nothing stands there, and discs in drives can still return to their places.

    The tray's own discs in drives left gaps in it; another tray must not take
    the places of discs that will come back.
    """
    start = index * state.magazine_slots
    span = state.slots[start : start + state.magazine_slots]
    if len(span) < len(tray.discs) or any(span):
        return False
    homes = {home - FIRST_SLOT - start for home in state.sources.values()}
    waiting = homes & set(range(len(span)))
    if index != tray.span:
        return not waiting
    return not any(tray.discs[place] for place in waiting if place < len(tray.discs))
