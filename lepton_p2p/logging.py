"""What a log line of a peer looks like.

The rooms call ``structlog.get_logger()`` and say events; only the face that runs in the process (the command line)
decides about levels and formats, by :func:`configure_logging`.  A library user who configures nothing gets
structlog's own defaults.
"""

from __future__ import annotations

import logging
import sys
from typing import Literal, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import Processor

LEVELS = ("debug", "info", "warning", "error")
_PLAIN = ExceptionDictTransformer(show_locals=False)
"""Tracebacks without local variables: those may be large, and are nobody's business who reads a log."""


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is now: a live display redirects it while it is on the screen."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """The base class assigns one in places; there is only ever the current one."""


def configure_logging(level: str = "warning", format: Literal["console", "json"] = "console") -> None:
    """Send structlog's and the standard library's records to standard error, in one format.

    ``level`` is one of ``LEVELS``.  Times are UTC, ISO 8601.  The loggers of grpc and asyncio never go below WARNING:
    their debug output would drown ours.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    last: list[Processor] = (
        [structlog.processors.ExceptionRenderer(_PLAIN), structlog.processors.JSONRenderer()]
        if format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("grpc", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def filter_library_logs(level: str = "warning") -> None:
    """For programs that use the library: events from ``level`` up go to standard error.

    Unlike :func:`configure_logging` it leaves the standard library's loggers alone, and structlog too if the program
    has configured it.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
