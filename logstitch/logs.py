"""Logs are one JSON object a line, and carry nothing that redaction would have removed.

An exception is written as its type and the places it passed, never as its text: the text of a validation error quotes
the input, that of a database error the row. Only our own errors' messages, which are written for callers, are shown.
What other libraries log through ``logging`` takes the same way.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, BinaryIO

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from logstitch.errors import LogStitchError

_MAX_FRAMES = 30


def configure(level: int = logging.INFO, stream: BinaryIO | None = None) -> None:
    """Set up structlog and ``logging`` for the whole process; to be called once, before anything is logged.

    ``stream`` is standard error by default, and written to a line at a time.
    """
    out = stream or sys.stderr.buffer
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _describe_exception,
            _to_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(file=out),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[_ToStructlog()], force=True)


def describe(error: BaseException) -> dict[str, Any]:
    """What may be logged of an exception: its type, its message if it is one of ours, and where it came from.

    A group is described with the errors in it, the first few of them.
    """
    described: dict[str, Any] = {"type": type(error).__name__, "frames": _frames(error)}
    if isinstance(error, LogStitchError):
        described["message"] = error.message
    if isinstance(error, BaseExceptionGroup):
        described["errors"] = [describe(inner) for inner in error.exceptions[:5]]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        described["cause"] = {"type": type(cause).__name__, "frames": _frames(cause)}
    return described


def _frames(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


def _describe_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    error = event.pop("exc_info", None)
    if error:
        if error is True:
            error = sys.exc_info()[1]
        elif isinstance(error, tuple):
            error = error[1]
        if isinstance(error, BaseException):
            event["error"] = describe(error)
    return event


def _to_json(logger: WrappedLogger, method: str, event: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(event, default=_type_name, option=orjson.OPT_NON_STR_KEYS)


def _type_name(value: object) -> str:
    # A value that is no JSON is named by its type: its repr may hold what must not be in a log.
    return type(value).__name__


class _ToStructlog(logging.Handler):
    """Carries the records of other libraries over: the message's template and the logger's name, not its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        # The arguments may quote a request; the template is the library's own text.
        log = structlog.get_logger()
        log.log(record.levelno, "library", logger=record.name, text=str(record.msg)[:500], exc_info=record.exc_info)
