"""The command line: wrong use, no daemon, and what it makes of hsmd's answers."""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import typer

from hsmfs.tools import hsm
from hsmfs.tools.sandbox import CONFIG_TEXT, POLICY_TEXT

Run = Callable[..., tuple[int, str, str]]

JOB = {
    "id": 7,
    "kind": "migrate",
    "state": "done",
    "files_total": 3,
    "files_done": 3,
    "files_failed": 0,
    "bytes_total": 3000,
    "bytes_done": 3000,
    "errors": [],
    "note": "",
}
FILE = {
    "path": "/a/b",
    "ino": 5,
    "type": "file",
    "size": 1234,
    "state": "migrated",
    "copies": 2,
    "volumes": ["V1"],
    "magazines": ["M01", "M02"],
    "cached_bytes": 0,
}
STATUS = {
    "site": "x",
    "hsmfs": {
        "connected": True,
        "states": [{"state": "resident", "files": 1, "bytes": 2_500_000}],
        "tiers": [{"name": "cache", "used_bytes": 1, "capacity_bytes": 9, "free_bytes": 8}],
        "waiting_readers": 0,
    },
    "drives": [
        {"name": "D0", "state": "failed", "disc": "", "volume": "", "errors": 3, "note": "dead"}
    ],
    "discs": {"blank": 24},
    "volumes": {},
    "queues": {"migrate_files": 0, "recall_files": 0, "burns": 0, "verifies": 0},
    "tasks": 1,
    "alarms": [{"kind": "drive", "text": "D0 fails", "since": 0}],
}
TASKS = {
    "tasks": [
        {
            "id": 3,
            "kind": "fetch",
            "text": "bring M01",
            "magazine": "M01",
            "since": 1.0,
            "state": "open",
            "waiting": [{"path": "/a/b", "pid": 9, "program": "cat"}],
        }
    ]
}


class Hsmd(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A server that answers from a table and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler)
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, str, dict[str, list[str]], Any]] = []


class Handler(BaseHTTPRequestHandler):
    server: Hsmd
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        query = parse_qs(url.query, errors="surrogateescape")
        self.server.asked.append((method, url.path, query, body))
        status, found = 200, self.server.answers.get(url.path)
        if isinstance(found, tuple):
            status, found = found
        elif found is None:
            status, found = 404, {"error": f"no {url.path}", "kind": "caller"}
        text = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A configuration without any process behind it."""
    for folder in ("mnt", "cache", "state/namespace", "state/catalog", "run", "library"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "policy.hsm").write_text(POLICY_TEXT.format(copies=2, spread=" spread magazine"))
    config = tmp_path / "hsmfs.toml"
    config.write_text(
        CONFIG_TEXT.format(
            dir=tmp_path,
            reserve_bytes=1,
            session="pyfuse3",
            allow_other="true",
            magazine_slots=12,
            speed="instant",
        )
    )
    return config


@pytest.fixture
def hsmd(system: Path) -> Iterator[Hsmd]:
    with Hsmd(system.parent / "run" / "hsmd.sock") as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(system: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command; its exit status, standard output and standard error."""
    monkeypatch.setenv("HSM_CONFIG", str(system))

    def command(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hsm", *words])
        try:
            hsm.main()
            code: Any = 0
        except SystemExit as exit_:
            code = exit_.code
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return command


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["ls", "--help"],
        ["migrate", "-h"],
        ["sandbox", "start", "--help"],
        ["magazine", "export", "--help"],
        ["tasks", "--help"],
        ["policy", "check", "--help"],
        ["volume", "dump", "--help"],
    ],
)
def test_help_is_no_failure(run: Run, words: list[str]) -> None:
    code, out, _ = run(*words)
    assert code == 0
    assert "hsm" in out


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["migrate"],
        ["ls", "--nonsense"],
        ["sandbox", "start"],
        ["sandbox", "start", "d", "--drives", "0"],
        ["sandbox", "start", "d", "--speed", "fast"],
        ["tasks", "done", "x"],
        ["ls", "/outside/of/the/mount"],
    ],
)
def test_wrong_use_is_exit_2(run: Run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert err


@pytest.mark.parametrize("words", [["status"], ["ls"], ["tasks"], ["disc", "ls", "--json"]])
def test_without_a_daemon_says_what_to_do(run: Run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert code == 1
    assert out == ""
    assert "hsmd is not running" in err
    assert "hsmd --config" in err
    assert "Traceback" not in err


def test_a_socket_that_nobody_listens_on(run: Run, hsmd: Hsmd) -> None:
    hsmd.server_close()
    code, _, err = run("status")
    assert code == 1
    assert "Connection refused" in err


def test_a_missing_configuration_is_named(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--config", str(tmp_path / "no.toml"), "status")
    assert code == 1
    assert "no.toml" in err
    assert "Traceback" not in err


def test_the_configuration_may_stand_after_the_command(
    run: Run, hsmd: Hsmd, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HSM_CONFIG")
    hsmd.answers["/v1/status"] = STATUS
    assert run("status", "--json", "--config", str(system))[0] == 0
    assert run("--config", str(system), "status", "--json")[0] == 0


@pytest.mark.parametrize(
    ("words", "path", "answer"),
    [
        (["status"], "/v1/status", STATUS),
        (["tasks"], "/v1/tasks", TASKS),
        (["drive", "ls"], "/v1/drives", {"drives": STATUS["drives"]}),
        (["disc", "ls"], "/v1/discs", {"discs": []}),
        (["volume", "ls"], "/v1/volumes", {"volumes": []}),
        (["magazine", "ls"], "/v1/magazines", {"magazines": []}),
        (["library", "ls"], "/v1/library", {"libraries": []}),
    ],
)
def test_json_is_what_hsmd_said(
    run: Run, hsmd: Hsmd, words: list[str], path: str, answer: Any
) -> None:
    hsmd.answers[path] = answer
    code, out, err = run(*words, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == answer
    assert run(*words)[0] == 0


def test_status_tells_of_broken_drives_and_alarms(run: Run, hsmd: Hsmd) -> None:
    hsmd.answers["/v1/status"] = STATUS
    _, out, _ = run("status")
    for word in ("failed", "dead", "ALARM drive: D0 fails", "24 blank", "2.5 MB"):
        assert word in out


def test_tasks_name_the_magazine_and_the_reader(run: Run, hsmd: Hsmd) -> None:
    hsmd.answers["/v1/tasks"] = TASKS
    _, out, _ = run("tasks")
    assert "M01" in out
    assert "cat[9] /a/b" in out


def test_tasks_done(run: Run, hsmd: Hsmd) -> None:
    hsmd.answers["/v1/tasks/3/done"] = {"id": 3}
    assert run("tasks", "done", "3")[0] == 0
    assert hsmd.asked[-1][:2] == ("POST", "/v1/tasks/3/done")


def test_ls_asks_for_absolute_paths(run: Run, hsmd: Hsmd, system: Path) -> None:
    hsmd.answers["/v1/ls"] = {"files": [FILE]}
    mount = system.parent / "mnt"
    code, out, _ = run("ls", "-r", str(mount / "a"), str(mount), "--json")
    assert code == 0
    assert json.loads(out) == {"files": [FILE, FILE]}
    assert [asked[2]["path"] for asked in hsmd.asked] == [[str(mount / "a")], [str(mount)]]
    assert hsmd.asked[0][2]["recursive"] == ["1"]


def test_locate_shows_each_copy(run: Run, hsmd: Hsmd, system: Path) -> None:
    copy = {
        "volume": "V1",
        "disc": "HSM1",
        "magazine": "M01",
        "place": "slot 5",
        "slot": 5,
        "offset": 2048,
        "size": 7,
        "xxh3": "aa",
        "sha256": "bb",
        "verified": None,
        "state": "burned",
    }
    path = str(system.parent / "mnt" / "a")
    hsmd.answers["/v1/locate"] = {"path": path, "copies": [copy, {**copy, "verified": 1e9}]}
    code, out, _ = run("locate", path)
    assert code == 0
    assert out.count("HSM1") == 2
    assert "2001-09-0" in out
    hsmd.answers["/v1/locate"] = {"path": path, "copies": []}
    assert "no copy" in run("locate", path)[1]


def test_names_that_are_not_utf8_survive_both_ways(run: Run, hsmd: Hsmd, system: Path) -> None:
    name = b"caf\xe9\n".decode("utf-8", "surrogateescape")
    hsmd.answers["/v1/ls"] = {"files": [{**FILE, "path": "/" + name}]}
    hsmd.answers["/v1/pin"] = {"job": 7}
    hsmd.answers["/v1/jobs/7"] = JOB
    path = str(system.parent / "mnt" / name)
    code, out, _ = run("ls", path, "--json")
    assert json.loads(out)["files"][0]["path"] == "/" + name
    assert hsmd.asked[-1][2]["path"] == [path]
    assert run("ls", path)[0] == code == 0
    assert run("pin", path)[0] == 0
    assert hsmd.asked[-2][3]["paths"] == [path]


@pytest.mark.parametrize(
    ("state", "code"), [("done", 0), ("failed", 1), ("partial", 3), ("running", 0)]
)
def test_the_exit_status_is_the_state_of_the_job(
    run: Run, hsmd: Hsmd, system: Path, state: str, code: int
) -> None:
    errors = ["/a/b: disc full"] if state in ("failed", "partial") else []
    hsmd.answers["/v1/migrate"] = {"job": 7}
    hsmd.answers["/v1/jobs/7"] = {**JOB, "state": state, "errors": errors}
    wait = [] if state == "running" else ["--wait"]
    found, out, err = run("migrate", "-r", *wait, str(system.parent / "mnt"))
    assert found == code
    assert state in out
    assert ("disc full" in err) == bool(errors)


def test_a_plan_is_shown_and_nothing_waited_for(run: Run, hsmd: Hsmd, system: Path) -> None:
    plan = {"files": 9, "bytes": 5, "discs": 2, "loads": 1, "seconds": 90, "magazines": ["M02"]}
    hsmd.answers["/v1/recall"] = plan
    code, out, _ = run("recall", "-r", "--plan", str(system.parent / "mnt"))
    assert code == 0
    assert "1 min 30 s" in out
    assert "M02" in out
    mount = str(system.parent / "mnt")
    asked = {"paths": [mount], "recursive": True, "plan": True, "uid": os.getuid()}
    assert hsmd.asked[-1][3] == asked
    run("recall", "--plan", "--background", "--within", "60", str(system.parent / "mnt"))
    assert hsmd.asked[-1][3] == {
        "paths": [mount],
        "recursive": False,
        "plan": True,
        "background": True,
        "within_s": 60.0,
        "uid": os.getuid(),
    }


def test_an_error_of_hsmd_is_one_line(run: Run, hsmd: Hsmd) -> None:
    hsmd.answers["/v1/magazines/M9/export"] = (404, {"error": "no magazine M9; hsm magazine ls"})
    code, out, err = run("magazine", "export", "M9")
    assert (code, out) == (1, "")
    assert err == "hsm: no magazine M9; hsm magazine ls\n"


def test_an_answer_that_is_no_json_is_no_traceback(run: Run, hsmd: Hsmd) -> None:
    hsmd.answers["/v1/status"] = (500, b"Internal Server Error")
    code, _, err = run("status")
    assert code == 1
    assert "500" in err
    assert "Traceback" not in err


def test_policy_check_needs_no_daemon(run: Run, system: Path) -> None:
    code, out, _ = run("policy", "check", "--json")
    assert code == 0
    assert json.loads(out)["pools"] == 1
    bad = system.parent / "bad.hsm"
    bad.write_text('pool "main" { copies many }\n')
    code, out, err = run("policy", "check", str(bad))
    assert (code, out) == (1, "")
    assert "bad.hsm" in err
    code, out, _ = run("policy", "check", str(bad), "--json")
    assert code == 1
    assert json.loads(out)["ok"] is False


def test_pool_ls_counts_the_volumes_of_each_pool(run: Run, hsmd: Hsmd) -> None:
    volume = {"label": "V1", "pool": "main", "files": 4, "bytes": 100}
    hsmd.answers["/v1/volumes"] = {"volumes": [volume, {**volume, "pool": "other"}]}
    hsmd.answers["/v1/pools"] = {"pools": [{"name": "main", "copies": 2, "spread": "magazine"}]}
    code, out, _ = run("pool", "ls", "--json")
    assert code == 0
    (pool,) = json.loads(out)["pools"]
    assert (pool["name"], pool["copies"], pool["volumes"], pool["files"]) == ("main", 2, 1, 4)


def test_a_missing_image_is_named(run: Run, tmp_path: Path) -> None:
    code, _, err = run("volume", "dump", str(tmp_path / "no.img"))
    assert code == 1
    assert "no.img" in err
    assert "Traceback" not in err


def test_every_command_is_found_without_importing_the_others() -> None:
    listed = [name for names in hsm.MODULES.values() for name in names]
    assert sorted(listed) == sorted(typer.main.get_group(hsm.make_app()).commands)
    for module, names in hsm.MODULES.items():
        for name in names:
            found = typer.main.get_group(hsm.make_app([name, "--config", "x"])).commands
            assert set(found) == set(names), module
