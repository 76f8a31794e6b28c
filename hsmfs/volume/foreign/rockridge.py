"""System use fields: SUSP 1.12 (IEEE P1281) and Rock Ridge RRIP 1.12 (IEEE P1282)."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from hsmfs.errors import MediumError
from hsmfs.volume.foreign.dates import long_date_ns, short_date_ns
from hsmfs.volume.foreign.entry import TARGET_BYTES_MAX

Area = Callable[[int, int, int, str], bytes]
"""Block, offset and size of a continuation area to its bytes."""
CONTINUATIONS_MAX: Final = 32
AREA_BYTES_MAX: Final = 2048
NAME_BYTES_MAX: Final = 1024
_SP: Final = b"SP\x07\x01\xbe\xef"
_CONTINUE, _CURRENT, _PARENT, _ROOT = 1, 2, 4, 8
_CREATION, _MODIFY, _ACCESS, _ATTRIBUTES, _LONG = 1, 2, 4, 8, 0x80
_IDS: Final = (b"RRIP_1991A", b"IEEE_P1282", b"IEEE_1282")


@dataclass(slots=True)
class SystemUse:
    """What the fields of one directory record say."""

    is_rock_ridge: bool = False
    name: bytes = b""
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    mtime_ns: int | None = None
    atime_ns: int | None = None
    ctime_ns: int | None = None
    target: bytes | None = None
    """Of a symlink."""
    child_block: int | None = None
    """Where the directory lies that this record stands for."""
    is_relocated: bool = False
    """It stands elsewhere in the tree."""
    obstacle: str = ""
    """Why its content cannot be taken over."""
    components: list[bytes] = field(default_factory=list)


def skip_of(use: bytes) -> int | None:
    """From the first record of the root directory; None without SUSP."""
    for start in (0, 15):  # CD-ROM XA puts its own 14 or 15 bytes in front
        if use[start : start + 6] == _SP and len(use) > start + 6:
            return use[start + 6]
    at = use[:24].find(_SP)
    return use[at + 6] if at >= 0 and len(use) > at + 6 else None


def parse_system_use(use: bytes, skip: int, area: Area, where: str) -> SystemUse:
    """All fields, those in continuation areas too; MediumError with the place."""
    found = SystemUse()
    state = _State()
    start = skip or max(0, use[:24].find(_SP))
    for signature, data in _fields(use[start:], area, where):
        _take(found, state, signature, data, where)
    if state.link is not None:
        found.target = b"/".join(state.link) if state.link != [b""] else b"/"
        if len(found.target) > TARGET_BYTES_MAX:
            raise MediumError(f"{where}: symlink of {len(found.target)} bytes")
    elif found.mode is not None and not _is_plain(found.mode):
        found.obstacle = found.obstacle or "a device, FIFO or socket; it has no data"
    return found


@dataclass(slots=True)
class _State:
    """What spans several fields."""

    link: list[bytes] | None = None
    joins: bool = False
    """The next component belongs to the last."""
    size: int = 0


def _is_plain(mode: int) -> bool:
    return stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, 0)


def _fields(data: bytes, area: Area, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Signature and whole field; CE is followed, ST ends."""
    for _ in range(CONTINUATIONS_MAX):
        following: tuple[int, int, int] | None = None
        position = 0
        while position + 4 <= len(data):
            signature, length = data[position : position + 2], data[position + 2]
            if length < 4 or position + length > len(data):
                break  # padding, or what other systems put there
            one = data[position : position + length]
            position += length
            if signature == b"ST":
                break
            if signature == b"CE" and length >= 28:
                following = (_both(one, 4), _both(one, 12), _both(one, 20))
            else:
                yield signature, one
        if following is None:
            return
        block, offset, size = following
        if size > AREA_BYTES_MAX or offset > AREA_BYTES_MAX:
            raise MediumError(f"{where}: continuation area of {size} bytes at {offset}")
        data = area(block, offset, size, f"{where}: continuation area at block {block}")
    raise MediumError(f"{where}: more than {CONTINUATIONS_MAX} continuation areas: a loop")


def _both(data: bytes, at: int) -> int:
    """A number in both byte orders."""
    return int.from_bytes(data[at : at + 4], "little")


def _take(found: SystemUse, state: _State, signature: bytes, data: bytes, where: str) -> None:
    match signature:
        case b"PX" if len(data) >= 36:
            found.is_rock_ridge = True
            found.mode, found.uid, found.gid = _both(data, 4), _both(data, 20), _both(data, 28)
        case b"NM" if len(data) >= 5:
            found.is_rock_ridge = True
            if not data[4] & (_CURRENT | _PARENT):
                found.name += data[5:]
            if len(found.name) > NAME_BYTES_MAX:
                raise MediumError(f"{where}: name of {len(found.name)} bytes")
        case b"SL" if len(data) >= 5:
            _link(state, data[5:], where)
        case b"TF" if len(data) >= 5:
            _times(found, data)
        case b"CL" if len(data) >= 12:
            found.child_block = _both(data, 4)
        case b"RE":
            found.is_relocated = True
        case b"RR":
            found.is_rock_ridge = True
        case b"ER" if len(data) >= 8 and data[8 : 8 + data[4]] in _IDS:
            found.is_rock_ridge = True
        case b"ZF":
            found.obstacle = "compressed by zisofs; only a mount with zisofs reads it"
        case b"SF":
            found.obstacle = "a sparse file of Rock Ridge; it is not supported"


def _link(state: _State, data: bytes, where: str) -> None:
    """Components of a symlink (RRIP 4.1.3)."""
    link = state.link if state.link is not None else []
    state.link = link
    position = 0
    while position + 2 <= len(data):
        flags, length = data[position], data[position + 1]
        text = data[position + 2 : position + 2 + length]
        position += 2 + length
        if flags & _ROOT:
            link[:] = [b""]
            continue
        text = b"." if flags & _CURRENT else b".." if flags & _PARENT else text
        if state.joins:
            link[-1] += text
        else:
            link.append(text)
        state.joins = bool(flags & _CONTINUE)
        state.size += len(text) + 1
        if state.size > TARGET_BYTES_MAX + 1:
            raise MediumError(f"{where}: symlink of more than {TARGET_BYTES_MAX} bytes")


def _times(found: SystemUse, data: bytes) -> None:
    """RRIP 4.1.6: each that is there, in the order of its bits."""
    flags, position = data[4], 5
    size, parse = (17, long_date_ns) if flags & _LONG else (7, short_date_ns)
    for bit in (_CREATION, _MODIFY, _ACCESS, _ATTRIBUTES):
        if not flags & bit:
            continue
        one = data[position : position + size]
        position += size
        if len(one) < size:
            return
        if bit == _MODIFY:
            found.mtime_ns = parse(one)
        elif bit == _ACCESS:
            found.atime_ns = parse(one)
        elif bit == _ATTRIBUTES:
            found.ctime_ns = parse(one)
