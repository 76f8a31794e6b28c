"""The only copy, damaged where no data is: every file is still recalled from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.sandboxes import Sandbox, differing, write_files

from hsmfs.types import SECTOR_BYTES

pytestmark = pytest.mark.fuse
DISC = "20000000"
FILES_BYTES = 300_000


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path / "sb")
    sandbox.start("--drives", "1", "--slots", "4", "--disc-bytes", DISC, "--pool-copies", "1")
    try:
        yield sandbox
    finally:
        sandbox.stop()


def data_of(image: bytes, files: dict[str, bytes]) -> range:
    """Sectors from the first file's data to the last one's."""
    starts = [image.index(data[:2048]) // SECTOR_BYTES for data in files.values()]
    return range(min(starts), max(starts) + FILES_BYTES // SECTOR_BYTES + 1)


@pytest.mark.parametrize("fault", ["zeroed", "unreadable"])
@pytest.mark.parametrize("side", ["before the data", "behind the data"])
def test_all_files_are_recalled(box: Sandbox, side: str, fault: str) -> None:
    made = write_files(box.mnt / "s", 6, FILES_BYTES)
    box.migrate_and_release()
    (code,) = (disc["barcode"] for disc in box.discs() if disc["state"] == "verified")
    path = box.root / "library" / "discs" / f"{code}.img"
    data = data_of(path.read_bytes(), made)
    total = path.stat().st_size // SECTOR_BYTES
    lost = range(data.start) if side == "before the data" else range(data.stop, total)
    assert len(lost) <= 1024
    box.stop()
    if fault == "zeroed":
        with path.open("r+b") as file:
            file.seek(lost.start * SECTOR_BYTES)
            file.write(bytes(len(lost) * SECTOR_BYTES))
    box.start()
    if fault == "unreadable":
        box.faults(
            {
                "device": code,
                "op": "read",
                "sense": [3, 17, 0],
                "lba_from": lost.start,
                "lba_to": lost.stop - 1,
            }
        )
    assert not differing(made)
    assert [disc["state"] for disc in box.discs() if disc["barcode"] == code] == ["verified"]
