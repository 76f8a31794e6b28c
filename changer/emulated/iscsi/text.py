"""Keys and values of login and text units, and how each is negotiated (RFC 7143 6 and 13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from hsmfs.changer.emulated.iscsi.pdu import ProtocolError

TEXT_BYTES_MAX: Final = 64 * 1024
KEYS_MAX: Final = 256
KEY_CHARACTERS_MAX: Final = 63
VALUE_CHARACTERS_MAX: Final = 8192
RECEIVE_BYTES_MAX: Final = 256 * 1024
BURST_BYTES_MAX: Final = 1024 * 1024
FIRST_BURST_BYTES_MAX: Final = 256 * 1024
LENGTHS: Final = range(512, 1 << 24)


def parse_text(data: bytes) -> dict[str, str]:
    """``key=value`` pairs, each ended by a zero byte."""
    if len(data) > TEXT_BYTES_MAX:
        raise ProtocolError(f"{len(data)} bytes of text, at most {TEXT_BYTES_MAX}")
    found: dict[str, str] = {}
    for pair in data.split(b"\0"):
        if not pair:
            continue
        key, equals, value = pair.partition(b"=")
        if not equals or not 0 < len(key) <= KEY_CHARACTERS_MAX:
            raise ProtocolError(f"text {pair[:40]!r}, expected key=value")
        if len(value) > VALUE_CHARACTERS_MAX or len(found) >= KEYS_MAX:
            raise ProtocolError("too much text")
        try:
            name, text = key.decode("ascii"), value.decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError(f"text {pair[:40]!r} is not UTF-8") from None
        if name in found:
            raise ProtocolError(f"key {name} twice")
        found[name] = text
    return found


def format_text(pairs: Mapping[str, str]) -> bytes:
    """As it goes on the wire."""
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs.items())


@dataclass
class Parameters:
    """What was agreed on; the standard's defaults until then."""

    segment_bytes: int = 8192
    """Most data in one unit to the initiator."""
    burst_bytes: int = 256 * 1024
    first_burst_bytes: int = 64 * 1024
    initial_r2t: bool = True
    immediate_data: bool = True


def negotiate(offers: Mapping[str, str], agreed: Parameters) -> dict[str, str]:
    """Answers to operational keys; what they mean for us is set in ``agreed``."""
    answers: dict[str, str] = {}
    for key, value in offers.items():
        rule = _RULES.get(key)
        answer = "NotUnderstood" if rule is None else rule(value, agreed)
        if answer:
            answers[key] = answer
    agreed.first_burst_bytes = min(agreed.first_burst_bytes, agreed.burst_bytes)
    return answers


def _number(value: str) -> int | None:
    try:
        return int(value, 16) if value[:2] in ("0x", "0X") else int(value)
    except ValueError:
        return None


def _segment(value: str, agreed: Parameters) -> str:
    """Declared, not negotiated."""
    number = _number(value)
    if number is None or number not in LENGTHS:
        return "Reject"
    agreed.segment_bytes = min(number, BURST_BYTES_MAX)
    return ""


def _burst(value: str, agreed: Parameters) -> str:
    number = _number(value)
    if number is None or number not in LENGTHS:
        return "Reject"
    agreed.burst_bytes = min(number, BURST_BYTES_MAX)
    return str(agreed.burst_bytes)


def _first_burst(value: str, agreed: Parameters) -> str:
    number = _number(value)
    if number is None or number not in LENGTHS:
        return "Reject"
    agreed.first_burst_bytes = min(number, FIRST_BURST_BYTES_MAX)
    return str(agreed.first_burst_bytes)


def _initial_r2t(value: str, agreed: Parameters) -> str:
    if value not in ("Yes", "No"):
        return "Reject"
    agreed.initial_r2t = value == "Yes"
    return value


def _immediate_data(value: str, agreed: Parameters) -> str:
    if value not in ("Yes", "No"):
        return "Reject"
    agreed.immediate_data = value == "Yes"
    return value


def _always(answer: str) -> Callable[[str, Parameters], str]:
    return lambda _value, _agreed: answer


def _one_of(*known: str) -> Callable[[str, Parameters], str]:
    """The first of the offered values that is known here."""

    def choose(value: str, _agreed: Parameters) -> str:
        offered = [word for word in value.split(",") if word in known]
        return offered[0] if offered else "Reject"

    return choose


def _least(bound: int) -> Callable[[str, Parameters], str]:
    def choose(value: str, _agreed: Parameters) -> str:
        number = _number(value)
        return "Reject" if number is None or number < 0 else str(min(number, bound))

    return choose


def _wait(value: str, _agreed: Parameters) -> str:
    number = _number(value)
    return "Reject" if number is None or not 0 <= number <= 3600 else str(max(number, 2))


_RULES: Final[dict[str, Callable[[str, Parameters], str]]] = {
    "HeaderDigest": _one_of("None"),
    "DataDigest": _one_of("None"),
    "MaxConnections": _least(1),
    "InitialR2T": _initial_r2t,
    "ImmediateData": _immediate_data,
    "MaxRecvDataSegmentLength": _segment,
    "MaxBurstLength": _burst,
    "FirstBurstLength": _first_burst,
    "DefaultTime2Wait": _wait,
    "DefaultTime2Retain": _least(0),
    "MaxOutstandingR2T": _least(1),
    "DataPDUInOrder": _always("Yes"),
    "DataSequenceInOrder": _always("Yes"),
    "ErrorRecoveryLevel": _least(0),
    "IFMarker": _always("No"),
    "OFMarker": _always("No"),
    "TaskReporting": _one_of("RFC3720"),
    "InitiatorName": _always(""),
    "InitiatorAlias": _always(""),
    "TargetName": _always(""),
    "SessionType": _always(""),
    "AuthMethod": _one_of("None"),
}
