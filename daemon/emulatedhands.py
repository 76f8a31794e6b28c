"""The person of an emulated library: carries magazines when asked."""

from __future__ import annotations

import trio

from hsmfs.changer.emulated import EmulatedLibrary
from hsmfs.daemon.catalogrecords import MagazineRecord
from hsmfs.errors import CallerError


class EmulatedHands:
    """Does what an operator task asks for, at once."""

    def __init__(self, library: EmulatedLibrary) -> None:
        self._library = library

    async def take_out(self, magazine: MagazineRecord, index: int) -> None:
        """Take the tray at this span of slots out; its id is kept with the magazine."""
        tray = await trio.to_thread.run_sync(self._library.hands.take_out_magazine, index)
        magazine.tray = str(tray)

    async def put_in(self, magazine: MagazineRecord) -> None:
        """Put the tray back where there is room."""
        trays = [tray.id for tray in self._library.state.trays]
        tray = magazine.tray or (trays[0] if len(trays) == 1 else "")  # hsmd may have been cut
        if not tray:
            raise CallerError(f"magazine {magazine.name}: nobody knows where its tray is")
        await trio.to_thread.run_sync(self._library.hands.put_in_magazine, tray)
