"""Images of parity sets that do not go together are refused, with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xxhash
from support.volumes import burn

from hsmfs.errors import CallerError
from hsmfs.tools.volrebuild import rebuild_image
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume import parity
from hsmfs.volume.source import FileSource, ParityInfo, ParityMember

LABELS = ("HSM1", "HSM2", "HSM3")


def member(folder: Path, label: str, seed: int = 0, site: str = "here") -> Path:
    number = int(label.removeprefix("HSM"))
    files = [FileSource(path=b"f", ino=20 + number, data_version=seed, size=50_000 * number)]
    path = folder / f"{label}-{seed}.img"
    burn(path, label, files, site=site)
    return path


def summed(folder: Path, label: str, kind: str, members: list[Path], name: str = "set 1") -> Path:
    """A parity volume over images, as a drive would burn it."""
    data = [path.read_bytes() for path in members]
    sums = np.zeros(max(map(len, data)), np.uint8), np.zeros(max(map(len, data)), np.uint8)
    for index, one in enumerate(data):
        parity.add(sums[0][: len(one)], sums[1][: len(one)], index, one)
    told = [
        ParityMember(
            label=path.name.partition("-")[0],
            sectors=len(one) // SECTOR_BYTES,
            xxh3=xxhash.xxh3_128_hexdigest(one),
        )
        for path, one in zip(members, data, strict=True)
    ]
    path = folder / f"{label}.img"
    info = ParityInfo(set=name, kind=kind, members=told)
    own = {b"parity.bin": sums[kind == "q"].tobytes()}
    burn(path, label, [], own=own, site="here", parity=info)
    return path


@pytest.fixture
def members(tmp_path: Path) -> list[Path]:
    return [member(tmp_path, label) for label in LABELS]


def refused(tmp_path: Path, images: list[Path], why: str, label: str = "HSM1") -> None:
    into = tmp_path / "anew.img"
    with pytest.raises(CallerError, match=why):
        rebuild_image(label, into, images)
    assert not into.exists()


def test_a_lost_member_is_made_anew(tmp_path: Path, members: list[Path]) -> None:
    p = summed(tmp_path, "P", "p", members)
    found = rebuild_image("HSM1", tmp_path / "anew.img", [p, *members[1:]])
    assert (found["lost"], found["notes"]) == (["HSM1"], [])
    assert (tmp_path / "anew.img").read_bytes() == members[0].read_bytes()


def test_also_where_the_parity_volumes_manifest_is_damaged(
    tmp_path: Path, members: list[Path]
) -> None:
    p = summed(tmp_path, "P", "p", members)
    data = bytearray(p.read_bytes())
    data[data.rindex(b'"path":".hsm/parity.bin"')] ^= 0xFF
    p.write_bytes(data)
    rebuild_image("HSM1", tmp_path / "anew.img", [p, *members[1:]])
    assert (tmp_path / "anew.img").read_bytes() == members[0].read_bytes()


def test_p_and_q_of_other_members_under_one_name(tmp_path: Path, members: list[Path]) -> None:
    p = summed(tmp_path, "P", "p", members)
    q = summed(tmp_path, "Q", "q", [members[0], members[2], members[1]])
    refused(tmp_path, [p, q, members[2]], "found other members of set set 1 than before")


def test_p_and_q_of_two_sets_do_not_help_each_other(tmp_path: Path, members: list[Path]) -> None:
    p = summed(tmp_path, "P", "p", members)
    q = summed(tmp_path, "Q", "q", members, name="set 2")
    refused(tmp_path, [p, q, members[2]], "expected no more losses than parity volumes")


def test_a_set_of_other_volumes(tmp_path: Path, members: list[Path]) -> None:
    p = summed(tmp_path, "P", "p", members[1:])
    refused(tmp_path, [p, *members[1:]], "found no parity volume that protects volume HSM1")


def test_another_volume_with_a_members_label(tmp_path: Path, members: list[Path]) -> None:
    p = summed(tmp_path, "P", "p", members)
    other = member(tmp_path, "HSM2", seed=7)
    refused(tmp_path, [p, other, members[2]], "found image xxh3 .*volume HSM2 .* leave it out")


def test_a_member_of_another_site(tmp_path: Path, members: list[Path]) -> None:
    p = summed(tmp_path, "P", "p", members)
    other = member(tmp_path, "HSM2", seed=7, site="elsewhere")
    refused(tmp_path, [p, other, members[2]], "found discs of sites elsewhere, here")


def test_damaged_parity(tmp_path: Path, members: list[Path]) -> None:
    p = summed(tmp_path, "P", "p", members)
    data = bytearray(p.read_bytes())
    data[len(data) // 2] ^= 1
    p.write_bytes(data)
    refused(tmp_path, [p, *members[1:]], "one of the parity volumes is damaged")
