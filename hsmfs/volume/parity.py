"""Parity over same-numbered bytes of several images: P, and Q for a second loss.

RAID-6 arithmetic in GF(2^8) with the polynomial x^8+x^4+x^3+x^2+1 (0x11d) and
the generator 2, as in H. P. Anvin, "The mathematics of RAID-6": for members
D_0 … D_(n-1)

    P = D_0 + D_1 + … + D_(n-1)        Q = g^0 D_0 + g^1 D_1 + … + g^(n-1) D_(n-1)

where a shorter member counts as zeros after its end. Any one member is made
anew from P or Q and the others, any two from P, Q and the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from hsmfs.errors import CallerError

POLYNOMIAL: Final = 0x11D
MEMBERS_MAX: Final = 255
"""g^i are different for i below 255."""
Block = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview


def _tables() -> tuple[list[int], list[int]]:
    powers, logarithms, value = [0] * 255, [0] * 256, 1
    for exponent in range(255):
        powers[exponent], logarithms[value] = value, exponent
        value <<= 1
        if value & 0x100:
            value ^= POLYNOMIAL
    return powers, logarithms


POWERS, LOGARITHMS = _tables()


def times(a: int, b: int) -> int:
    """Product in the field."""
    if not a or not b:
        return 0
    return POWERS[(LOGARITHMS[a] + LOGARITHMS[b]) % 255]


def inverse(a: int) -> int:
    """1 / a; ZeroDivisionError for 0."""
    if not a:
        raise ZeroDivisionError("0 has no inverse in GF(2^8)")
    return POWERS[-LOGARITHMS[a] % 255]


def _pair_table(factor: int) -> npt.NDArray[np.uint16]:
    """Products of two bytes at once, by their 16-bit value in any byte order."""
    single = np.array([times(factor, byte) for byte in range(256)], dtype=np.uint16)
    high = np.left_shift(single, 8, dtype=np.uint16)
    return np.bitwise_or(single[np.newaxis, :], high[:, np.newaxis]).reshape(65536)


_PAIRS: Final[dict[int, npt.NDArray[np.uint16]]] = {}
"""By factor; 128 KiB each, at most 255 of them."""


def multiply(data: Block, factor: int) -> Block:
    """Each byte times ``factor``."""
    if factor == 1:
        return data
    table = _PAIRS.get(factor)
    if table is None:
        table = _PAIRS[factor] = _pair_table(factor)
    if data.size % 2:
        padded = np.append(data, np.uint8(0))
        return multiply(padded, factor)[:-1]
    return table[np.ascontiguousarray(data).view(np.uint16)].view(np.uint8)


def block(data: Buffer) -> Block:
    """Bytes as an array, not copied."""
    return np.frombuffer(data, dtype=np.uint8)


def coefficient(index: int) -> int:
    """g^index: what a member is multiplied with in Q. CallerError beyond the bound."""
    if not 0 <= index < MEMBERS_MAX:
        raise CallerError(f"parity set: found member {index}, expected 0 to {MEMBERS_MAX - 1}")
    return POWERS[index]


def add(p: Block | None, q: Block | None, index: int, data: Buffer) -> None:
    """Take a piece of a member into the same piece of P and Q, in place.

    The same once more takes it out again. A piece may be shorter than P and Q.
    """
    piece = block(data)
    if p is not None:
        np.bitwise_xor(p[: piece.size], piece, out=p[: piece.size])
    if q is not None:
        product = multiply(piece, coefficient(index))
        np.bitwise_xor(q[: piece.size], product, out=q[: piece.size])


def recover(
    size: int,
    lost: Iterable[int],
    members: Mapping[int, Buffer],
    p: Buffer | None,
    q: Buffer | None,
) -> dict[int, bytes]:
    """``size`` bytes of each lost member, from the same piece of all others.

    Raises CallerError where more is lost than parity is left.
    """
    wanted = sorted(lost)
    there = (p is not None) + (q is not None)
    if len(wanted) > there:
        raise CallerError(
            f"parity set: {len(wanted)} members are lost, {there} parity discs are there; "
            "expected no more losses than parity discs"
        )
    rest_p = _padded(p, size) if p is not None else None
    rest_q = _padded(q, size) if q is not None else None
    for index, data in members.items():
        add(rest_p, rest_q, index, memoryview(data)[:size])
    if not wanted:
        return {}
    if len(wanted) == 1:
        (one,) = wanted
        if rest_p is not None:
            return {one: rest_p.tobytes()}
        assert rest_q is not None
        return {one: multiply(rest_q, inverse(coefficient(one))).tobytes()}
    assert rest_p is not None
    assert rest_q is not None
    return _two(wanted[0], wanted[1], rest_p, rest_q)


def _two(x: int, y: int, p: Block, q: Block) -> dict[int, bytes]:
    """D_x = A P' + B Q', D_y = P' + D_x (Anvin, section 4), where P' and Q' are what
    is left of P and Q without the members that are there."""
    step = POWERS[(y - x) % 255]
    a = times(step, inverse(step ^ 1))
    b = times(inverse(coefficient(x)), inverse(step ^ 1))
    first = multiply(p, a) ^ multiply(q, b)
    return {x: first.tobytes(), y: (p ^ first).tobytes()}


def _padded(data: Buffer, size: int) -> Block:
    piece = np.zeros(size, dtype=np.uint8)
    given = block(data)[:size]
    piece[: given.size] = given
    return piece
