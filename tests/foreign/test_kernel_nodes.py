"""The transports' conformance suite on device nodes of the kernel, in a guest."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support.guest import ROOT, needs, run_guest

pytestmark = pytest.mark.foreign


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sg", "bsg", "sgio"])
def test_the_suite_passes(tmp_path: Path, kind: str) -> None:
    needs("iscsistart")
    if kind == "sgio":
        pytest.importorskip("sgio", reason="cython-sgio is an optional package")
    suite = f"HSMFS_GUEST={kind} {sys.executable} -m pytest -q --basetemp=/mnt/tests"
    command = f"cd {ROOT} && {suite} -p no:cacheprovider tests/conformance/test_transport.py"
    (done,) = run_guest(tmp_path, [command], timeout_s=800)
    assert done.code == 0, done.output[-4000:]
    passed = re.search(r"(\d+) passed, (\d+) skipped", done.output)
    assert passed is not None and int(passed[1]) >= 28 and int(passed[2]) <= 4, done.output[-500:]
