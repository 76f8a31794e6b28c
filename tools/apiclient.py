"""HTTP to hsmd over its unix socket, with errors in plain words."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import httpx

from hsmfs.errors import HsmError, Kind, TransientError

CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 300.0
"""A listing of millions of files takes its time; a dead daemon refuses at once."""


class ApiError(HsmError):
    """hsmd answered that it cannot do it."""

    kind = Kind.CALLER

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ApiClient:
    """One connection to hsmd; every method raises HsmError with what to do."""

    def __init__(
        self, socket_path: Path, config: Path, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self.socket = socket_path
        self._start_hint = f"start it: hsmd --config {config}"
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(socket_path)),
            base_url="http://hsmd",
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        self._knock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def get(self, path: str, /, **params: str) -> Any:
        """The JSON answer of a GET; names in ``params`` may be any bytes (fsdecoded)."""
        query = urlencode(params, errors="surrogateescape")
        return self._ask("GET", f"{path}?{query}" if query else path)

    def post(self, path: str, body: object | None = None) -> Any:
        """The JSON answer of a POST."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, url: str, body: object | None = None) -> Any:
        # json.dumps with ASCII escapes carries names that are not valid UTF-8.
        content = None if body is None else json.dumps(body).encode("ascii")
        headers = {"content-type": "application/json"} if content is not None else {}
        try:
            answer = self._http.request(method, url, content=content, headers=headers)
        except httpx.TimeoutException as error:
            raise TransientError(
                f"hsmd at {self.socket} took the request but did not answer in time; "
                "see its log, and try again"
            ) from error
        except httpx.TransportError as error:
            raise TransientError(
                f"hsmd at {self.socket} ended the connection ({error}); see its log, and try again"
            ) from error
        return self._read(answer)

    def _knock(self) -> None:
        """Connect once: the errno tells exactly why nobody is there.

        httpx only has words for it, and leaves its socket open when it fails.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
            door.settimeout(CONNECT_TIMEOUT_S)
            try:
                door.connect(str(self.socket))
            except PermissionError as error:
                raise TransientError(
                    f"hsmd's socket {self.socket} may not be opened by this user; "
                    "use a user of its group, or root"
                ) from error
            except OSError as error:
                raise TransientError(
                    f"hsmd is not running ({self.socket}: {error.strerror or error}); "
                    f"{self._start_hint} (in a sandbox: hsm sandbox start DIR). "
                    "Files in the cache work without it."
                ) from error

    def _read(self, answer: httpx.Response) -> Any:
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.is_success and found is not None:
            return found
        if isinstance(found, dict) and "error" in found:
            raise ApiError(answer.status_code, str(found["error"]))
        raise ApiError(
            answer.status_code,
            f"hsmd answered {answer.status_code} without an explanation to "
            f"{answer.request.method} {answer.request.url.path}; its log may say more",
        )


def segment(name: str) -> str:
    """A name as one segment of an API path."""
    return quote(name, safe="", errors="surrogateescape")
