"""What the packer takes can be planned, exactly; names never meet."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hsmfs.errors import CallerError
from hsmfs.types import SECTOR_BYTES
from hsmfs.volume.geometry import FILE_BYTES_MAX
from hsmfs.volume.layout import FileSource, VolumeHeader, plan_volume
from hsmfs.volume.names import (
    CS0_BYTES_MAX,
    decode_cs0,
    disc_name,
    encode_cs0,
    entry_path,
    is_part_name,
)
from hsmfs.volume.packer import Packer
from hsmfs.volume.source import Part

HEADER = VolumeHeader(label="P", site="s", pool="p", created_ns=0)
NAMES = st.sampled_from([b"a", b"b", b"\xff", "文".encode(), b"n" * 255, b".hsm", b"c" * 100])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
ENTRIES = st.builds(
    FileSource,
    path=PATHS,
    ino=st.integers(2, 10**9),
    size=st.one_of(st.integers(0, 5000), st.integers(0, 300_000), st.just(FILE_BYTES_MAX + 1)),
    kind=st.sampled_from(["file", "file", "file", "dir", "symlink"]),
    link_of=st.one_of(st.none(), st.none(), PATHS),
    xattrs=st.sampled_from([{}, {b"user.x": b"y" * 3000}]),
)
GROUPS = st.lists(st.lists(ENTRIES, min_size=1, max_size=4), max_size=25)


def can_be_planned(entries: list[FileSource], capacity_sectors: int) -> bool:
    try:
        layout = plan_volume(HEADER, entries, capacity_sectors)
    except CallerError:
        return False
    assert layout.total_sectors <= capacity_sectors
    return True


@given(GROUPS, st.integers(800, 3000))
def test_add_all_is_true_exactly_when_a_plan_fits(
    groups: list[list[FileSource]], capacity_sectors: int
):
    packer = Packer(HEADER, capacity_sectors)
    chosen: list[FileSource] = []
    for group in groups:
        taken = packer.add_all(group)
        assert taken == can_be_planned([*chosen, *group], capacity_sectors)
        chosen += group if taken else []
    if chosen:
        total = plan_volume(HEADER, chosen, capacity_sectors).total_sectors
        assert packer.total_sectors == total


@given(st.integers(2_000, 2_000_000), st.integers(10_000, 200_000))
def test_less_than_one_percent_is_wasted(size: int, capacity_sectors: int):
    """A full disc of equal files has no room for one more."""
    packer, count = Packer(HEADER, capacity_sectors), 0
    while packer.add_all([FileSource(path=b"f%d" % count, ino=count + 2, size=size)]):
        count += 1
        if count > 400:
            return
    left = capacity_sectors - packer.total_sectors
    assert left <= (size + 4096) // SECTOR_BYTES + 4 * 32 + 2


NAMES = st.builds(
    lambda name, end: (name + end)[-255:],
    st.binary(min_size=1, max_size=255),
    st.sampled_from([b"", b"", b".part0002", b".part12345", b"~0123456789abcdef"]),
)


@given(NAMES, NAMES, st.integers(1, 9999))
def test_names_of_files_and_parts_never_meet(name: bytes, whole: bytes, number: int):
    """On whatever discs they are: a part of one file, and another file."""
    name, whole = (one.replace(b"/", b"_").replace(b"\0", b"_") for one in (name, whole))
    part = FileSource(path=whole, ino=9, part=Part(number, 9999, 0, 9))
    assert is_part_name(entry_path(part).encode())
    assert not is_part_name(disc_name(name, at_root=True).encode())


@given(NAMES, NAMES)
def test_two_names_are_two_names_on_the_disc(first: bytes, second: bytes):
    names = [name.replace(b"/", b"_").replace(b"\0", b"_") for name in (first, second)]
    on_disc = [disc_name(name, at_root=True) for name in names]
    assert (on_disc[0] == on_disc[1]) == (names[0] == names[1])
    for name in on_disc:
        coded = encode_cs0(name)
        assert len(coded) - 1 <= CS0_BYTES_MAX
        assert decode_cs0(coded, "") == name
        assert name != ".hsm"
