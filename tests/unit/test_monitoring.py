"""Rules and dashboard: right by themselves, and about metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MONITORING = Path(__file__).parents[2] / "monitoring"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, of Debian's prometheus"
)


@needs_promtool
@pytest.mark.parametrize(
    "words",
    [
        ("check", "rules", "--lint-fatal", "hsmfs.rules.yml"),
        ("test", "rules", "hsmfs.rules.test.yml"),
        ("check", "config", "prometheus.yml"),
    ],
    ids=" ".join,
)
def test_promtool_has_nothing_to_say(words: tuple[str, ...]) -> None:
    done = subprocess.run(
        ["promtool", *words], cwd=MONITORING, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr


def test_every_alert_is_tried_and_says_what_to_do() -> None:
    rules = (MONITORING / "hsmfs.rules.yml").read_text()
    tried = (MONITORING / "hsmfs.rules.test.yml").read_text()
    alerts = re.findall(r"alert: (\w+)", rules)
    assert len(alerts) == len(set(alerts)) == rules.count("action: ") == rules.count("summary: ")
    assert not [name for name in alerts if f'alertname="{name}"' not in tried]


def test_the_dashboard_has_no_panel_twice() -> None:
    board = json.loads((MONITORING / "grafana-hsmfs.json").read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
