"""Descriptors of ECMA-167 and UDF from plain words, and words from bytes.

Made from the tables in docs/disc-format.md alone: it shares nothing with the writer, so
that an error there cannot hide itself. Words are those in the tables of tests/golden.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs" / "disc-format.md"
ROW = re.compile(r"^\| (?P<at>\d+) \| (?P<bytes>\d+|L) \| (?P<field>[^|]+) \| ")
CHARSET = b"\0" + b"OSTA Compressed Unicode".ljust(63, b"\0")


def crc(data: bytes) -> int:
    """CRC of ITU-T V.41, bit by bit (ECMA-167 3/7.2.6)."""
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
    return value


@dataclass(frozen=True)
class Field:
    """One row of a table in the documentation."""

    at: int
    size: int | None
    """None: as long as another field says."""
    name: str
    section: str


def tables() -> dict[str, list[Field]]:
    """Fields by the heading above them."""
    found: dict[str, list[Field]] = {}
    heading = ""
    for line in DOCS.read_text().splitlines():
        if line.startswith("### "):
            heading = line[4:].partition(" (tag")[0]
        row = ROW.match(line)
        if row and heading:
            size = None if row["bytes"] == "L" else int(row["bytes"])
            section = line.split("|")[-2].strip()
            field = Field(int(row["at"]), size, row["field"], section)
            found.setdefault(heading, []).append(field)
    return found


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _bytes(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


# -- words from bytes ---------------------------------------------------------------------


def words(name: str, data: bytes) -> str:
    """What a field says, by its name where its length alone does not tell."""
    if name.startswith("length of"):
        return str(_number(data))
    if not any(data):
        return "zeros"
    if name == "tag":
        return _tag_words(data)
    if re.fullmatch(r"information \d", name):
        return _text_words("volume identifier", data)
    if name.endswith("character set"):
        return "charset" if data == CHARSET else f"hex {data.hex(' ')}"
    if "date and time" in name:
        return f"time {_time_words(data)}"
    if name == "partition contents" or ("identifier" in name and name != "standard identifier"):
        return _text_words(name, data)
    if name in ("contents use", "root directory ICB", "ICB"):
        return _long_words(data)
    if "extent" in name or name.endswith(" sequence"):
        return f"extent {_number(data[:4])} at {_number(data[4:])}"
    if name == "ICB tag":
        return f"icb type {data[11]}, strategy {_number(data[4:6])}, flags {_number(data[18:]):#x}"
    if name == "standard identifier":
        return f'ascii "{data.decode()}"'
    return str(_number(data)) if len(data) <= 8 else f"hex {data.hex(' ')}"


def _tag_words(data: bytes) -> str:
    return (
        f"tag {_number(data[:2])}, checksum {data[4]:#04x}, CRC {_number(data[8:10]):#06x} of "
        f"{_number(data[10:12])} bytes, location {_number(data[12:])}"
    )


def _time_words(data: bytes) -> str:
    year = int.from_bytes(data[2:4], "little", signed=True)
    micros = data[9] * 10_000 + data[10] * 100 + data[11]
    when = datetime(year, *data[4:9], micros, tzinfo=UTC)
    return f"{when:%Y-%m-%d %H:%M:%S.%f}"


def _text_words(name: str, data: bytes) -> str:
    if (
        name in ("domain identifier", "application identifier")
        or "implementation" in name
        or (name.startswith("partition "))
    ):
        text = data[1:24].rstrip(b"\0").decode()
        return f'entity "{text}" {data[24:].hex(" ")}'
    coded = data if name == "file identifier" else data[: data[-1]]
    text = coded[1:].decode("latin-1" if coded[0] == 8 else "utf-16-be")
    kind = "cs0" if name == "file identifier" else "dstring"
    return f'{kind} {coded[0]} "{text}"'


def _long_words(data: bytes) -> str:
    return (
        f"long {_number(data[:4])} at block {_number(data[4:8])} of {_number(data[8:10])}, "
        f"id {_number(data[12:])}"
    )


# -- bytes from words ---------------------------------------------------------------------


def encoded(text: str, size: int, descriptor: bytes) -> bytes:
    """The bytes of a field; ``descriptor`` is all of it, for the CRC in its tag."""
    kind, _, rest = text.partition(" ")
    if text == "zeros":
        return bytes(size)
    if text == "charset":
        return CHARSET
    if kind.isdigit():
        return _bytes(int(kind), size)
    if kind == "hex":
        return bytes.fromhex(rest)
    return _ENCODERS[kind](rest, size, descriptor)


def _numbers(text: str) -> list[int]:
    return [int(word, 0) for word in re.findall(r"(?<![\w.])(?:0x[0-9a-f]+|\d+)", text)]


def _tag(text: str, size: int, descriptor: bytes) -> bytes:
    ident, _, said_crc, length, location = _numbers(text)
    assert said_crc == crc(descriptor[16 : 16 + length])
    data = _bytes(ident, 2) + _bytes(3, 2) + b"\0\0" + _bytes(1, 2)
    data += _bytes(said_crc, 2) + _bytes(length, 2) + _bytes(location, 4)
    return data[:4] + bytes([sum(data) & 0xFF]) + data[5:]


def _time(text: str, size: int, descriptor: bytes) -> bytes:
    when = datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
    rest = when.microsecond
    parts = (when.month, when.day, when.hour, when.minute, when.second)
    tail = bytes((*parts, rest // 10_000, rest // 100 % 100, rest % 100))
    return b"\x00\x10" + _bytes(when.year, 2) + tail


def _entity(text: str, size: int, descriptor: bytes) -> bytes:
    _, name, suffix = text.split('"')
    return b"\0" + name.encode().ljust(23, b"\0") + bytes.fromhex(suffix)


def _cs0(text: str, size: int, descriptor: bytes) -> bytes:
    number, _, quoted = text.partition(" ")
    name = quoted[1:-1]
    return bytes([int(number)]) + name.encode("latin-1" if number == "8" else "utf-16-be")


def _dstring(text: str, size: int, descriptor: bytes) -> bytes:
    coded = _cs0(text, size, descriptor)
    return coded.ljust(size - 1, b"\0") + bytes([len(coded)])


def _extent(text: str, size: int, descriptor: bytes) -> bytes:
    return b"".join(_bytes(number, 4) for number in _numbers(text))


def _long(text: str, size: int, descriptor: bytes) -> bytes:
    length, block, reference, unique_id = _numbers(text)
    return (
        _bytes(length, 4) + _bytes(block, 4) + _bytes(reference, 2) + b"\0\0" + _bytes(unique_id, 4)
    )


def _icb(text: str, size: int, descriptor: bytes) -> bytes:
    kind, strategy, flags = _numbers(text)
    data = bytes(4) + _bytes(strategy, 2) + bytes(2) + _bytes(1, 2) + bytes((0, kind)) + bytes(6)
    return data + _bytes(flags, 2)


def _ascii(text: str, size: int, descriptor: bytes) -> bytes:
    return text.strip('"').encode()


_ENCODERS = {
    "tag": _tag,
    "time": _time,
    "entity": _entity,
    "cs0": _cs0,
    "dstring": _dstring,
    "extent": _extent,
    "long": _long,
    "icb": _icb,
    "ascii": _ascii,
}
