"""What the API tells of magazines."""

from __future__ import annotations

from typing import Any

from hsmfs.daemon.catalogrecords import DiscState, MagazineRecord
from hsmfs.daemon.core import Core
from hsmfs.errors import CallerError


def magazines(core: Core) -> list[dict[str, Any]]:
    """All, by name."""
    return [_magazine(core, one) for _, one in sorted(core.catalog.magazines.items())]


def magazine(core: Core, name: str) -> dict[str, Any]:
    """One with its discs and its history; CallerError if there is none of that name."""
    record = core.catalog.magazines.get(name)
    if record is None:
        raise CallerError(f"magazine {name!r} is not known; see hsm magazine ls")
    discs = [disc for disc in core.catalog.discs.values() if disc.magazine == name]
    return _magazine(core, record) | {
        "contents": [
            {
                "barcode": disc.barcode,
                "position": disc.position,
                "state": disc.state.value,
                "volume": disc.volume,
                "place": core.librarian.in_words(disc),
            }
            for disc in sorted(discs, key=lambda disc: disc.position)
        ],
        "history": [
            {
                "time": event.time_ns / 1e9,
                "state": event.state.value,
                "location": event.location,
                "text": event.text,
            }
            for event in record.history
        ],
    }


def _magazine(core: Core, record: MagazineRecord) -> dict[str, Any]:
    discs = [disc for disc in core.catalog.discs.values() if disc.magazine == record.name]
    volumes = sorted({disc.volume for disc in discs if disc.volume})
    assert record.state is not None
    return {
        "name": record.name,
        "state": record.state.value,
        "since": record.since_ns / 1e9,
        "offsite": record.offsite,
        "location": record.location,
        "library": record.library,
        "exporting": record.exporting,
        "slots": [record.first_slot + disc.position for disc in discs] if record.present else [],
        "discs": len(discs),
        "volumes": volumes,
        "blank": sum(disc.state == DiscState.BLANK for disc in discs),
        "last_copies": sum(_only_here(core, label, record.name) for label in volumes),
    }


def _only_here(core: Core, label: str, name: str) -> bool:
    discs = core.catalog.verified_discs(label)
    return not any(disc.magazine != name and core.librarian.present(disc) for disc in discs)
