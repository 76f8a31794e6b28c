"""What all tests share: hypothesis profiles, and no unexpected warnings."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "quick", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", parent=settings.get_profile("quick"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(autouse=True)
def no_unexpected_warnings(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """A WARNING or worse that nobody expected fails the test (see allow_warnings)."""
    yield
    if request.node.get_closest_marker("allow_warnings"):
        return
    found = [
        record
        for when in ("setup", "call")
        for record in caplog.get_records(when)
        if record.levelno >= logging.WARNING
    ]
    if found:
        lines = "\n".join(f"{r.levelname} {r.name}: {r.getMessage()}" for r in found)
        pytest.fail(f"unexpected log records:\n{lines}", pytrace=False)
