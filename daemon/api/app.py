"""The admin API: HTTP and JSON on a unix socket, for hsm and others.

Who may connect is decided by the socket's mode (0600, owner hsmd's user).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hsmfs.daemon.api.libraryroutes import LibraryRoutes
from hsmfs.daemon.commands import Commands
from hsmfs.daemon.jobs import Job
from hsmfs.daemon.picture import INFINITE
from hsmfs.daemon.policyload import load_text
from hsmfs.daemon.poolreport import pool, pools
from hsmfs.daemon.report import Report
from hsmfs.errors import CallerError, FsError, HsmError, Kind

BODY_BYTES_MAX: Final = 16 * 1024 * 1024
_STATUS: Final = {Kind.CALLER: 400, Kind.OPERATOR: 409, Kind.TRANSIENT: 503}


class AsciiJson(JSONResponse):
    """JSON whose strings may hold undecodable path bytes as escapes."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True).encode("ascii")


Handler = Callable[[Request], Awaitable[Any]]


def _answer(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Plain values to JSON, errors to their status and kind."""

    async def run(request: Request) -> Response:
        try:
            value = await handler(request)
        except HsmError as error:
            status = _STATUS.get(error.kind, 500)
            return AsciiJson({"error": str(error), "kind": error.kind.value}, status)
        except FsError as error:
            return AsciiJson({"error": str(error), "kind": "caller"}, 400)
        if value is None:
            return AsciiJson({"error": "not found", "kind": "caller"}, 404)
        return AsciiJson(value)

    return run


def _percent(body: dict[str, Any]) -> float:
    value = body.get("percent", 100.0)
    if not isinstance(value, int | float):
        raise CallerError(f"percent: found {value!r}, expected a number")
    return float(value)


def _seconds(body: dict[str, Any]) -> float | None:
    value = body.get("hours")
    if value is not None and not (isinstance(value, int | float) and value > 0):
        raise CallerError(f"hours: found {value!r}, expected a number above 0")
    return None if value is None else float(value) * 3600.0


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise CallerError(f"{key}: found {value!r}, expected a path")
    return value


class Api:
    """Routes to the daemon's parts."""

    def __init__(self, commands: Commands, report: Report) -> None:
        self.commands = commands
        self.report = report

    def app(self) -> Starlette:
        """The ASGI application."""
        get = [
            ("/v1/status", self._status),
            ("/v1/ls", self._ls),
            ("/v1/locate", self._locate),
            ("/v1/jobs/{id:int}", self._job),
            ("/v1/library", self._library),
            ("/v1/drives", self._drives),
            ("/v1/drives/{name}/trace", self._trace),
            ("/v1/discs", self._discs),
            ("/v1/discs/{barcode}", self._disc),
            ("/v1/volumes", self._volumes),
            ("/v1/volumes/{label}", self._volume),
            ("/v1/magazines", self._magazines),
            ("/v1/pools", self._pools),
            ("/v1/pools/{name}", self._pool),
            ("/v1/tasks", self._tasks),
        ]
        post = [
            ("/v1/tasks/{id:int}/done", self._task_done),
            ("/v1/magazines/{name}/export", self._export),
            ("/v1/magazines/{name}/import", self._import),
            ("/v1/magazines/{name}/parity", self._parity),
            ("/v1/magazines/{name}/mark", self._mark),
            ("/v1/volumes/{label}/{verb}", self._volume_care),
            ("/v1/discs/{barcode}/{verb}", self._disc_care),
            ("/v1/drives/{name}/{verb}", self._drive_care),
            ("/v1/images/import", self._import_image),
            ("/v1/policy/run", self._policy_run),
            ("/v1/policy/check", self._policy_check),
            ("/v1/policy/accept-clock", self._accept_clock),
            ("/v1/{kind}", self._files_job),
        ]
        more = LibraryRoutes(self.commands, self.report)
        gets, posts = [*more.get(), *get], [*more.post(), *post]
        routes = [Route(path, _answer(handler), methods=["GET"]) for path, handler in gets]
        routes += [Route(path, _answer(handler), methods=["POST"]) for path, handler in posts]
        routes.append(Route("/metrics", self._metrics, methods=["GET"]))
        return Starlette(routes=routes)

    def metrics_app(self) -> Starlette:
        """Only /metrics, for Prometheus over TCP."""
        return Starlette(routes=[Route("/metrics", self._metrics, methods=["GET"])])

    async def _metrics(self, _request: Request) -> Response:
        body = generate_latest(self.report.core.metrics.registry)
        return Response(body, media_type=CONTENT_TYPE_LATEST)

    async def _status(self, _request: Request) -> Any:
        return await self.report.status()

    async def _ls(self, request: Request) -> Any:
        query = _query(request)
        paths = [value for key, value in query if key == "path"]
        recursive = dict(query).get("recursive", "0") in ("1", "true")
        return {"files": await self.report.ls(paths, recursive=recursive)}

    async def _locate(self, request: Request) -> Any:
        path = dict(_query(request)).get("path")
        if not path:
            raise CallerError("locate: no path, expected ?path=/a/file")
        return await self.report.locate(path)

    async def _job(self, request: Request) -> Any:
        job = self.commands.core.jobs.get(request.path_params["id"])
        return job.as_dict() if job else None

    async def _library(self, _request: Request) -> Any:
        return {"libraries": self.report.library()}

    async def _drives(self, _request: Request) -> Any:
        return {"drives": self.report.drives()}

    async def _trace(self, request: Request) -> Any:
        name = request.path_params["name"]
        found = self.report.trace(name)
        if found is None:
            known = ", ".join(self.report.core.librarian.stacks)
            raise CallerError(f"drive {name}: not known, expected one of {known}")
        return found

    async def _discs(self, _request: Request) -> Any:
        return {"discs": self.report.discs()}

    async def _volumes(self, _request: Request) -> Any:
        return {"volumes": self.report.volumes()}

    async def _volume(self, request: Request) -> Any:
        return await self.report.volume(request.path_params["label"])

    async def _magazines(self, _request: Request) -> Any:
        blanks = self.commands.hsmd.stock.report()
        return {"magazines": self.report.magazines(), "blanks": blanks}

    async def _pools(self, _request: Request) -> Any:
        return {"pools": pools(self.report.core)}

    async def _pool(self, request: Request) -> Any:
        return pool(self.report.core, request.path_params["name"])

    async def _tasks(self, _request: Request) -> Any:
        return {"tasks": self.report.tasks()}

    async def _task_done(self, request: Request) -> Any:
        task = await self.commands.hsmd.magazines.done(request.path_params["id"])
        return self.report.task(task)

    async def _export(self, request: Request) -> Any:
        mailslots = bool(json.loads(await request.body() or b"{}").get("mailslots"))
        name = request.path_params["name"]
        return _started(self.commands.export(name, mailslots=mailslots))

    async def _import(self, request: Request) -> Any:
        mailslots = bool(json.loads(await request.body() or b"{}").get("mailslots"))
        name = request.path_params["name"]
        return _started(self.commands.bring_in(name, mailslots=mailslots))

    async def _parity(self, request: Request) -> Any:
        return _started(self.commands.parity(request.path_params["name"]))

    async def _mark(self, request: Request) -> Any:
        name = request.path_params["name"]
        body = json.loads(await request.body() or b"{}")
        offsite, location = body.get("offsite"), body.get("location")
        await self.commands.hsmd.offsite.mark(
            name,
            None if offsite is None else bool(offsite),
            None if location is None else str(location),
        )
        found = self.report.magazines()
        return next(magazine for magazine in found if magazine["name"] == name)

    async def _disc(self, request: Request) -> Any:
        return self.report.disc_with_history(request.path_params["barcode"])

    async def _volume_care(self, request: Request) -> Any:
        label = request.path_params["label"]
        body = json.loads(await request.body() or b"{}")
        match request.path_params["verb"]:
            case "verify":
                return _started(self.commands.verify_volume(label, _percent(body)))
            case "repair":
                return _started(self.commands.repair(label))
            case "reclaim":
                return _started(self.commands.reclaim(label))
            case "refresh":
                return _started(self.commands.refresh(label))
        return None

    async def _disc_care(self, request: Request) -> Any:
        barcode = request.path_params["barcode"]
        body = json.loads(await request.body() or b"{}")
        match request.path_params["verb"]:
            case "verify":
                return _started(self.commands.verify([barcode], _percent(body)))
            case "identify":
                return _started(self.commands.identify(barcode))
            case "import":
                directory, hashed = _text(body, "to"), bool(body.get("hash"))
                return _started(self.commands.import_disc(barcode, directory, hashed=hashed))
            case "forget-import":
                return _started(self.commands.forget_import(barcode))
            case "quarantine":
                why, seconds = str(body.get("why", "")), _seconds(body)
                care = self.commands.hsmd.care
                return self.report.disc(await care.quarantine(barcode, why, seconds))
            case "release":
                return self.report.disc(await self.commands.hsmd.care.release(barcode))
        return None

    async def _drive_care(self, request: Request) -> Any:
        name = request.path_params["name"]
        body = json.loads(await request.body() or b"{}")
        ward = self.commands.core.ward
        match request.path_params["verb"]:
            case "quarantine":
                why = f"by hand: {body.get('why') or 'no reason given'}"
                ward.quarantine(ward.unit(name), why, _seconds(body) or 0.0)
            case "release":
                ward.release(ward.unit(name))
            case _:
                return None
        await ward.save()
        return next(drive for drive in self.report.drives() if drive["name"] == name)

    async def _import_image(self, request: Request) -> Any:
        body = json.loads(await request.body() or b"{}")
        copies = body.get("copies")
        if copies is not None and not isinstance(copies, int):
            raise CallerError(f"copies: found {copies!r}, expected a number")
        image, directory, hashed = _text(body, "image"), _text(body, "to"), bool(body.get("hash"))
        return _started(self.commands.import_image(image, directory, copies, hashed=hashed))

    async def _policy_run(self, _request: Request) -> Any:
        return _started(self.commands.run_policy())

    async def _policy_check(self, request: Request) -> Any:
        text = (await request.body())[:BODY_BYTES_MAX].decode("utf-8", "replace")
        core = self.report.core
        policy = load_text(core.config, text, "policy", len(core.catalog.magazines) or None)
        return {"pools": len(policy.pools), "migrate": len(policy.migrate)}

    async def _accept_clock(self, request: Request) -> Any:
        self.commands.policy_runner.guard.accept()
        return {"accepted": True}

    async def _files_job(self, request: Request) -> Any:
        kind = request.path_params["kind"]
        if kind not in ("migrate", "release", "recall", "pin", "unpin"):
            return None
        body = json.loads(await request.body() or b"{}")
        paths = [str(path) for path in body.get("paths", [])]
        recursive = bool(body.get("recursive"))
        if body.get("plan"):
            return await self.commands.plan(kind, paths, recursive=recursive)
        match kind:
            case "migrate":
                job = await self.commands.migrate(paths, recursive=recursive)
            case "release":
                job = await self.commands.release(paths, recursive=recursive)
            case "recall":
                job = await self.commands.recall(
                    paths,
                    recursive=recursive,
                    background=bool(body.get("background")),
                    within_s=_within_s(body.get("within_s")),
                )
            case _:
                pinned = kind == "pin"
                job = await self.commands.pin(paths, recursive=recursive, pinned=pinned)
        return _started(job)


def _query(request: Request) -> list[tuple[str, str]]:
    """The query with path bytes kept (starlette's own decoding loses them)."""
    text = request.scope["query_string"].decode("ascii", "replace")
    return parse_qsl(text, errors="surrogateescape")


def _within_s(value: object) -> float:
    """CallerError for anything but seconds."""
    if value is None:
        return INFINITE
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise CallerError(f"within_s: found {value!r}, expected seconds, 0 or more")


def _started(job: Job) -> dict[str, Any]:
    return {"job": job.id}
