"""A real Prometheus reads both programs while they work."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.sandboxes import Sandbox, differing, write_files

MONITORING = Path(__file__).parents[2] / "monitoring"
CONFIG = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: hsmfs
    static_configs: [{{targets: ["127.0.0.1:{hsmfs}"]}}]
  - job_name: hsmd
    static_configs: [{{targets: ["127.0.0.1:{hsmd}"]}}]
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Watched:
    """A system, and the Prometheus that reads it."""

    box: Sandbox
    ports: dict[str, int]
    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        words = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{words}", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def page(self, job: str) -> str:
        url = f"http://127.0.0.1:{self.ports[job]}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text: str = answer.read().decode()
        return text


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        pytest.skip("needs Debian's prometheus")
    box = Sandbox(tmp_path / "box")
    ports = {name: free_port() for name in ("hsmfs", "hsmd", "prometheus")}
    config = tmp_path / "prometheus.yml"
    config.write_text(CONFIG.format(rules=MONITORING / "hsmfs.rules.yml", **ports))
    url = f"http://127.0.0.1:{ports['prometheus']}"
    try:
        box.start("--drives", "2", "--slots", "24")
        box.stop()
        binds = "".join(
            f'metrics_{name}_bind = "127.0.0.1:{ports[name]}"\n' for name in ("hsmfs", "hsmd")
        )
        box.configure("[run]\n", f"[run]\n{binds}")
        box.start()
        with (
            (tmp_path / "prometheus.log").open("wb") as log,
            subprocess.Popen(
                [
                    "prometheus", f"--config.file={config}",
                    f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{ports['prometheus']}",
                ],
                stdout=log,
                stderr=log,
            ) as server,
        ):  # fmt: skip
            try:
                yield Watched(box, ports, url)
            finally:
                server.terminate()
    finally:
        box.stop()


def ready(watched: Watched) -> bool:
    try:
        return len(watched.query("up == 1")) == 2
    except OSError:
        return False


def test_a_whole_run_is_seen_and_every_panel_has_data(watched: Watched) -> None:
    box = watched.box
    box.until(lambda: ready(watched))
    made = write_files(box.mnt / "s", 20, 300_000)
    box.migrate_and_release()
    assert not differing(made)
    box.until(lambda: watched.query("hsmd_recalled_files_total == 20"))
    board = json.loads((MONITORING / "grafana-hsmfs.json").read_text())
    empty = {
        target["expr"]
        for panel in board["panels"]
        for target in panel.get("targets", ())
        if not watched.query(target["expr"])
    }
    assert not empty
    assert watched.query("min_over_time(up[2m])")
    assert all(one["value"][1] == "1" for one in watched.query("min_over_time(up[2m])"))
    limit = "scrape_samples_scraped - scrape_samples_post_metric_relabeling"
    assert {one["value"][1] for one in watched.query(limit)} == {"0"}
    firing = watched.query('ALERTS{alertstate="firing", alertname!="HsmfsProcessRestarted"}')
    assert firing == []


def test_names_and_numbers_of_series(watched: Watched) -> None:
    rules = (MONITORING / "hsmfs.rules.yml").read_text()
    exported = watched.page("hsmfs") + watched.page("hsmd")
    used = set(re.findall(r"\b(?:hsmfs|hsmd|process)_\w+", "\n".join(expressions(rules))))
    later = {"hsmd_alarms_in_force", "hsmd_operator_task_age_seconds"}
    assert not {name for name in used - later if f"\n{name}" not in exported}
    for job in ("hsmfs", "hsmd"):
        page = watched.page(job)
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=page,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
        assert sum(not line.startswith("#") for line in page.splitlines()) < 5_000


def expressions(rules: str) -> list[str]:
    return re.findall(r"expr: (.*)", rules)
