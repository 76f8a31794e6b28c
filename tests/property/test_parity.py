"""Parity against arithmetic done byte by byte, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmfs.errors import CallerError
from hsmfs.volume import parity

members = st.lists(st.binary(max_size=70), min_size=1, max_size=14)


def slow_times(a: int, b: int) -> int:
    """The product as polynomials over GF(2), reduced."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(15, 7, -1):
        if product >> bit & 1:
            product ^= 0x11D << (bit - 8)
    return product


def slow_parity(data: list[bytes]) -> tuple[bytes, bytes]:
    size = max(map(len, data))
    p, q = bytearray(size), bytearray(size)
    factor = 1
    for member in data:
        for at, byte in enumerate(member):
            p[at] ^= byte
            q[at] ^= slow_times(factor, byte)
        factor = slow_times(factor, 2)
    return bytes(p), bytes(q)


def made(data: list[bytes], pieces: int) -> tuple[bytes, bytes]:
    """As a set is made: member by member, in pieces."""
    size = max(map(len, data))
    p, q = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for index, member in enumerate(data):
        for at in range(0, len(member), pieces):
            piece = member[at : at + pieces]
            parity.add(p[at : at + len(piece)], q[at : at + len(piece)], index, piece)
    return p.tobytes(), q.tobytes()


def test_the_field() -> None:
    for a in range(256):
        for b in (0, 1, 2, 3, 0x1D, 0x80, 0xFF):
            assert parity.times(a, b) == slow_times(a, b)
        if a:
            assert parity.times(a, parity.inverse(a)) == 1
    assert len(set(parity.POWERS)) == 255


@given(members, st.integers(1, 80))
def test_parity_is_as_by_hand(data: list[bytes], pieces: int) -> None:
    assert made(data, pieces) == slow_parity(data)


@given(members, st.data())
def test_any_two_of_all_come_back(data: list[bytes], draw: st.DataObject) -> None:
    p, q = slow_parity(data)
    size = len(p)
    everything = [*range(len(data)), "p", "q"]
    gone = set(draw.draw(st.lists(st.sampled_from(everything), max_size=2, unique=True)))
    lost = [index for index in range(len(data)) if index in gone]
    found = parity.recover(
        size,
        lost,
        {index: member for index, member in enumerate(data) if index not in gone},
        None if "p" in gone else p,
        None if "q" in gone else q,
    )
    assert found == {index: data[index].ljust(size, b"\0") for index in lost}


def test_more_losses_than_parity_are_refused() -> None:
    with pytest.raises(CallerError, match="2 members are lost, 1 parity discs"):
        parity.recover(1, [0, 1], {}, b"\0", None)
    with pytest.raises(CallerError, match="found member 255"):
        parity.coefficient(255)
