"""DOS attributes in Samba's forms: our bit goes in and out, the rest stays."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.namespace.dosattrib import OFFLINE, attributes, with_offline, without_offline

ARCHIVE, HIDDEN = 0x20, 0x02
CREATED = 0x01DD7BB2E2D9E400
# What smbd 4.17.12 wrote for a new file, byte for byte.
SMBD_4_17 = bytes.fromhex("0000050005000000110000002000000000e4d9e2b27bdd01")


def blob(version: int, attrib: int, text: bytes = b"") -> bytes:
    """A blob as the Samba that wrote this version laid it out."""
    head = text + b"\0"
    head += b"\0" * (len(head) % 2) + struct.pack("<HH", version, version)
    head += b"\0" * (-len(head) % 4)
    times = struct.pack("<IQQQQ", 0, 0, 0, CREATED, 0)
    tails = {
        1: struct.pack("<I", attrib) + times,
        2: struct.pack("<II", 1, attrib) + times + struct.pack("<Q", 0) + b"name\0",
        3: struct.pack("<II", 0x11, attrib) + times,
        4: struct.pack("<IIQQ", 0x11, attrib, 0, CREATED),
        5: struct.pack("<IIQ", 0x11, attrib, CREATED),
    }
    return head + tails[version]


FORMS = [
    *(
        pytest.param(version, text, id=f"v{version}-{text.decode() or 'no-text'}")
        for version in (1, 2, 3, 4, 5)
        for text in (b"", b"0x2", b"0x20", b"0x1022")
    )
]


def test_our_layout_is_that_of_smbd():
    assert blob(5, ARCHIVE) == SMBD_4_17
    assert attributes(SMBD_4_17) == ARCHIVE


def test_a_stub_with_nothing_stored_is_offline_and_nothing_else():
    assert with_offline(None) == b"0x1000"


@pytest.mark.parametrize(("version", "text"), FORMS)
def test_the_bit_goes_in_and_out_of_a_blob(version: int, text: bytes):
    stored = blob(version, ARCHIVE | HIDDEN, text)
    shown = with_offline(stored)
    assert shown == blob(version, ARCHIVE | HIDDEN | OFFLINE, text)
    assert without_offline(shown) == stored


@pytest.mark.parametrize(("version", "text"), FORMS)
def test_a_blob_that_is_cut_short_is_not_touched(version: int, text: bytes):
    whole = blob(version, OFFLINE, text)
    least = len(whole) - (4 if version == 2 else 0)
    for size in range(len(text) + 2, least):
        cut = whole[:size]
        assert without_offline(cut) == cut == with_offline(cut), size


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (b"0x20", b"0x1020"),
        (b"0x20\0", b"0x1020\0"),
        (b"0x0", b"0x1000"),
        (b"0X22", b"0x1022"),
    ],
)
def test_the_bit_goes_in_and_out_of_a_text(stored: bytes, shown: bytes):
    assert with_offline(stored) == shown
    assert without_offline(shown) == stored.lower()


def test_what_has_the_bit_as_wanted_is_kept_byte_for_byte():
    assert without_offline(b"0X0020\0") == b"0X0020\0"
    assert with_offline(b"0X00001000") == b"0X00001000"
    assert without_offline(SMBD_4_17) is SMBD_4_17


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\0",
        b"\0" * 24,
        b"junk",
        b"junk\0\0" + blob(5, OFFLINE)[2:],
        b"0x",
        b"0x123456789",
        b"0x20 ",
        b"0x20\0\0",
        SMBD_4_17.replace(b"\5", b"\6"),
        SMBD_4_17.replace(b"\5\0\5", b"\5\0\4"),
        b"0x1000" * 5000,
    ],
)
def test_what_is_not_samba_s_passes_through(value: bytes):
    assert attributes(value) is None
    assert with_offline(value) == value == without_offline(value)


@given(st.binary(max_size=80) | st.sampled_from([SMBD_4_17, b"0x20"]))
def test_any_value_is_taken(value: bytes):
    shown, kept = with_offline(value), without_offline(value)
    assert without_offline(kept) == kept
    assert with_offline(shown) == shown
    if (known := attributes(value)) is None:
        assert shown == kept == value
    else:
        assert attributes(shown) == known | OFFLINE
        assert attributes(kept) == known & ~OFFLINE
