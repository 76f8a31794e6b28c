"""What people are told of pools and magazines, and of images without recovery data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hsmfs.errors import CallerError
from hsmfs.tools.magazinecommands import _where
from hsmfs.tools.poolcommands import _lines
from hsmfs.tools.volmend import mend

POOL: dict[str, Any] = {
    "name": "records",
    "copies": 3,
    "spread": "magazine",
    "offsite": 1,
    "parity": 2,
    "scrub_s": 2 * 365 * 86_400.0,
    "scrub_percent": 10.0,
    "reclaim_dead": 0.7,
    "volumes": 2,
    "files": 40,
    "bytes": 5_000_000,
    "dead_bytes": 1_000_000,
    "copies_verified": 5,
    "copies_offsite": 1,
    "offsite_magazines": ["M07"],
    "volumes_without_offsite": ["site-000002"],
}


def test_a_pool_in_words() -> None:
    assert _lines(POOL) == [
        "pool records: 3 copies by magazine, of them 1 off-site; parity 2",
        "read again: every 730 days, 10 % of a disc; reclaimed: when more than 70 % is dead",
        "2 volumes, 40 files, 5.0 MB, 1.0 MB of it dead",
        "5 proved copies, 1 of them off-site (M07)",
        "without their off-site copies: site-000002",
    ]
    quiet = POOL | {"scrub_s": 0.0, "reclaim_dead": None, "volumes_without_offsite": []}
    assert _lines(quiet)[1] == "read again: never; reclaimed: only by hand"
    assert len(_lines(quiet)) == 4


def test_where_a_magazine_is() -> None:
    assert _where({"state": "library", "offsite": True}) == "library, for off-site"
    assert _where({"state": "off-site", "location": "vault"}) == "off-site: vault"
    assert _where({"state": "shelf", "location": ""}) == "shelf"


def test_an_image_without_recovery_data_is_told(tmp_path: Path) -> None:
    image, into = tmp_path / "image", tmp_path / "into"
    image.write_bytes(bytes(100 * 2048))
    with pytest.raises(CallerError, match="found no recovery data"):
        mend(image, into)
    assert not into.exists()
    into.touch()
    with pytest.raises(CallerError, match="is there already"):
        mend(image, into)
    with pytest.raises(Exception, match="No such file"):
        mend(tmp_path / "missing", tmp_path / "other")
    assert not (tmp_path / "other").exists()
