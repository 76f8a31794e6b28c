"""Logging of both processes: structlog and the standard library, one output."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
QUIET_LIBRARIES: Final = ("hypercorn.access", "hypercorn.error", "pyfuse3", "httpx", "httpcore")
"""Libraries whose own INFO and DEBUG lines would drown ours."""


def set_up(
    level: str,
    as_json: bool,
    program: str,
    stream: TextIO | None = None,
    colors: bool | None = None,
) -> None:
    """Send every record, ours and the libraries', to ``stream`` (default stderr).

    Times are UTC with microseconds; tracebacks stay with their record, as
    text on a terminal and as a field in JSON.
    """
    out = stream or sys.stderr
    shared = _shared_processors(program)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(_formatter(shared, as_json, out.isatty() if colors is None else colors))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[level])
    logging.captureWarnings(True)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module: ``log = logs.get(__name__)``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def _shared_processors(program: str) -> list[Processor]:
    def add_program(_logger: Any, _method: str, event: Any) -> Any:
        event.setdefault("program", program)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        add_program,
    ]


def _formatter(shared: list[Processor], as_json: bool, colors: bool) -> logging.Formatter:
    render: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        render += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        plain = structlog.dev.plain_traceback
        render.append(structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain))
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=render)
