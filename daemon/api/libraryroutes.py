"""Routes about magazines and the library that are not lists of things."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request

from hsmfs.daemon import magazinereport
from hsmfs.daemon.commands import Commands
from hsmfs.daemon.exportfacts import export_plan
from hsmfs.daemon.report import Report
from hsmfs.errors import CallerError

Handler = Callable[[Request], Awaitable[Any]]
Routes = list[tuple[str, Handler]]


class LibraryRoutes:
    """Handlers; the application wraps them."""

    def __init__(self, commands: Commands, report: Report) -> None:
        self._hsmd = commands.hsmd
        self._commands = commands
        self._report = report

    def get(self) -> Routes:
        return [
            ("/v1/magazines/plan-export", self._plan_export),
            ("/v1/magazines/{name}", self._magazine),
        ]

    def post(self) -> Routes:
        return [
            ("/v1/library/audit", self._audit),
            ("/v1/magazines/{name}/missing", self._missing),
            ("/v1/magazines/{name}/found", self._found),
            ("/v1/magazines/{name}/stay", self._stay),
        ]

    async def _magazine(self, request: Request) -> Any:
        return magazinereport.magazine(self._report.core, request.path_params["name"])

    async def _plan_export(self, request: Request) -> Any:
        text = request.query_params.get("count", "1")
        if not text.isdecimal():
            raise CallerError(f"count: found {text!r}, expected a number")
        return export_plan(self._report.core, self._hsmd.recaller.queues.keys(), int(text))

    async def _audit(self, request: Request) -> Any:
        body = await _body(request)
        flags = {key: bool(body.get(key)) for key in ("discs", "repair", "rescan")}
        return {"job": self._commands.audit(**flags).id}

    async def _missing(self, request: Request) -> Any:
        name, body = request.path_params["name"], await _body(request)
        await self._hsmd.magazines.missing(name, _words(body, "why") or "")
        return magazinereport.magazine(self._report.core, name)

    async def _stay(self, request: Request) -> Any:
        name = request.path_params["name"]
        await self._hsmd.magazines.stay(name)
        return magazinereport.magazine(self._report.core, name)

    async def _found(self, request: Request) -> Any:
        name, body = request.path_params["name"], await _body(request)
        await self._hsmd.magazines.found(name, _words(body, "location"))
        return magazinereport.magazine(self._report.core, name)


async def _body(request: Request) -> dict[str, Any]:
    """CallerError for anything but an object."""
    found = json.loads(await request.body() or b"{}")
    if not isinstance(found, dict):
        raise CallerError(f"body: found {type(found).__name__}, expected an object")
    return found


def _words(body: dict[str, Any], key: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise CallerError(f"{key}: found {value!r}, expected a text")
    return value
