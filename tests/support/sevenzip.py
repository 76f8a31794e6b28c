"""7-Zip as a reader of discs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SEVEN_ZIP_MAY_SAY = ("headers error", "data after the end", "there are some data")
needs_7z = pytest.mark.skipif(shutil.which("7z") is None, reason="7z is not installed")


def seven_zip(*arguments: str | Path, timeout_s: float = 60) -> str:
    """Its output, if it complains of nothing but what is expected of it."""
    done = subprocess.run(["7z", *map(str, arguments)], capture_output=True, timeout=timeout_s)
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    bad = [
        line
        for line in output.lower().splitlines()
        if ("error" in line or "warning" in line or "data after" in line)
        and not any(text in line for text in SEVEN_ZIP_MAY_SAY)
        and line.strip() not in ("errors:", "warnings:", "errors: 1", "warnings: 1")
    ]
    assert not bad and done.returncode in (0, 1, 2), output
    return output
