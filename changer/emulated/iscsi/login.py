"""The login phase of a connection: stages, names, CHAP (RFC 7143 6.3 and 12.1). No I/O."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from hsmfs.changer.emulated.iscsi import pdu as pdus
from hsmfs.changer.emulated.iscsi.pdu import Pdu, ProtocolError, new_header
from hsmfs.changer.emulated.iscsi.text import (
    RECEIVE_BYTES_MAX,
    TEXT_BYTES_MAX,
    Parameters,
    format_text,
    negotiate,
    parse_text,
)

SECURITY, OPERATIONAL, FULL_FEATURE = 0, 1, 3
TRANSIT, CONTINUE = 0x80, 0x40
STEPS_MAX: Final = 32
AUTHENTICATION_FAILED, NOT_FOUND = 0x0201, 0x0203
WRONG_VERSION, MISSING_PARAMETER, NO_SESSION, BAD_STAGE = 0x0205, 0x0207, 0x020A, 0x020B
INITIATOR_ERROR: Final = 0x0200
CHALLENGE_BYTES: Final = 16
MD5: Final = "5"


class Refused(Exception):
    """The login ends with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"login refused with status {status:04X}h")
        self.status = status


class Chap(NamedTuple):
    """Whom to let in."""

    user: str
    secret: str


@dataclass
class Login:
    """One login; ``step`` takes requests until it is ``done``."""

    target: str
    chap: Chap | None = None
    session: int = 1
    """TSIH that the session gets, 1 to 65535."""
    challenge: Callable[[int], bytes] = os.urandom
    parameters: Parameters = field(default_factory=Parameters)
    done: bool = False
    discovery: bool = False
    initiator: str = ""
    isid: bytes = b""
    command_number: int = 0
    stage: int = -1
    _steps: int = 0
    _text: bytes = b""
    _authenticated: bool = False
    _challenge: bytes = b""
    _id: int = 0

    def step(self, request: Pdu) -> tuple[bytearray, bytes]:
        """Header and text of the answer; Refused carries the status of a failed login."""
        self._steps += 1
        if request.opcode != pdus.LOGIN_REQUEST or self._steps > STEPS_MAX:
            raise ProtocolError(f"unit {request.opcode:02X}h in place of a login request")
        stage, wanted = request.flags >> 2 & 3, request.flags & 3
        first = self.stage < 0
        if first:
            self._begin(request, stage)
        if stage != self.stage or (request.flags & TRANSIT and wanted <= stage):
            raise Refused(BAD_STAGE)
        self._text += request.data
        if len(self._text) > TEXT_BYTES_MAX:
            raise ProtocolError("too much text in a login")
        flags = stage << 2
        if request.flags & CONTINUE:
            if request.flags & TRANSIT:
                raise Refused(INITIATOR_ERROR)
            return self._answer(request, flags), b""
        offers, self._text = parse_text(self._text), b""
        answers = self._names(offers)
        answers |= self._security(offers) if stage == SECURITY else self._operational(offers)
        if request.flags & TRANSIT and (self.chap is None or self._authenticated):
            flags |= TRANSIT | wanted
            self.stage = wanted
            self.done = wanted == FULL_FEATURE
        return self._answer(request, flags), format_text(answers)

    def _begin(self, request: Pdu, stage: int) -> None:
        if request.header[3] > 0:
            raise Refused(WRONG_VERSION)
        if request.header[14:16] != bytes(2):
            raise Refused(NO_SESSION)
        if stage not in (SECURITY, OPERATIONAL):
            raise Refused(BAD_STAGE)
        self.stage, self.isid = stage, request.header[8:14]
        self.command_number = request.command_number

    def _names(self, offers: dict[str, str]) -> dict[str, str]:
        """Who calls, and whom; in the first complete request."""
        if self.initiator:
            return {}
        self.initiator = offers.get("InitiatorName", "")
        self.discovery = offers.get("SessionType", "Normal") == "Discovery"
        if not self.initiator:
            raise Refused(MISSING_PARAMETER)
        if self.discovery:
            return {}
        if "TargetName" not in offers:
            raise Refused(MISSING_PARAMETER)
        if offers["TargetName"] != self.target:
            raise Refused(NOT_FOUND)
        return {"TargetPortalGroupTag": "1"}

    def _security(self, offers: dict[str, str]) -> dict[str, str]:
        if "CHAP_N" in offers and self._challenge:
            self._prove(offers)
            return {}
        if "CHAP_A" in offers and self.chap is not None:
            return self._challenged(offers)
        if "AuthMethod" not in offers:
            return {}
        wanted = "None" if self.chap is None else "CHAP"
        if wanted not in offers["AuthMethod"].split(","):
            raise Refused(AUTHENTICATION_FAILED)
        return {"AuthMethod": wanted}

    def _challenged(self, offers: dict[str, str]) -> dict[str, str]:
        if MD5 not in offers["CHAP_A"].split(","):
            raise Refused(AUTHENTICATION_FAILED)
        self._challenge, self._id = self.challenge(CHALLENGE_BYTES), self.challenge(1)[0]
        return {"CHAP_A": MD5, "CHAP_I": str(self._id), "CHAP_C": "0x" + self._challenge.hex()}

    def _prove(self, offers: dict[str, str]) -> None:
        """RFC 1994: MD5 of identifier, secret and challenge."""
        assert self.chap is not None
        secret = self.chap.secret.encode()
        expected = hashlib.md5(bytes([self._id]) + secret + self._challenge).digest()
        text = offers.get("CHAP_R", "")
        try:
            given = bytes.fromhex(text[2:]) if text[:2] in ("0x", "0X") else b""
        except ValueError:
            given = b""
        named = hmac.compare_digest(offers["CHAP_N"].encode(), self.chap.user.encode())
        if not hmac.compare_digest(given, expected) or not named:
            raise Refused(AUTHENTICATION_FAILED)
        self._authenticated = True

    def _operational(self, offers: dict[str, str]) -> dict[str, str]:
        if self.chap is not None and not self._authenticated:
            raise Refused(AUTHENTICATION_FAILED)
        answers = negotiate(offers, self.parameters)
        if offers:
            answers["MaxRecvDataSegmentLength"] = str(RECEIVE_BYTES_MAX)
        return answers

    def _answer(self, request: Pdu, flags: int, status: int = 0) -> bytearray:
        header = new_header(pdus.LOGIN_RESPONSE, flags, request.tag)
        header[8:14] = self.isid or request.header[8:14]
        header[14:16] = (self.session if self.done else 0).to_bytes(2, "big")
        header[36:38] = status.to_bytes(2, "big")
        return header

    def refusal(self, request: Pdu, status: int) -> bytearray:
        """The last answer of a login that fails."""
        return self._answer(request, 0, status)
