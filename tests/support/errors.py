"""An ERROR in the log that no test asked for is a failure of the test that it came in."""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog


@dataclass(slots=True)
class ErrorLogs:
    """What was logged as ERROR or worse during one test, through structlog or logging."""

    seen: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def expect(self, text: str) -> None:
        """This test causes at least one error whose event or message contains ``text``; such errors are fine."""
        self.expected.append(text)

    def complaint(self) -> str | None:
        """What is wrong, at the end of the test; None when all is as it was expected."""
        unexpected = [line for line in self.seen if not any(text in line for text in self.expected)]
        if unexpected:
            return "Unexpected ERROR logs:\n" + "\n".join(unexpected)
        missing = [text for text in self.expected if not any(text in line for line in self.seen)]
        return f"Expected ERROR logs that never came: {missing}" if missing else None


class _Handler(logging.Handler):
    def __init__(self, logs: ErrorLogs) -> None:
        super().__init__(logging.ERROR)
        self.logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        self.logs.seen.append(f"{record.name}: {record.getMessage()}")


@contextmanager
def recorded_errors() -> Iterator[ErrorLogs]:
    """Record errors from both kinds of logger."""
    logs = ErrorLogs()

    def processor(_: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if method in {"error", "exception", "critical", "fatal"}:
            logs.seen.append(f"{event.get('event')} { ({k: v for k, v in event.items() if k != 'event'}) }")
        return event

    # In place: loggers that were bound before hold this very list.
    processors = structlog.get_config()["processors"]
    processors.insert(0, processor)
    handler = _Handler(logs)
    logging.getLogger().addHandler(handler)
    try:
        yield logs
    finally:
        logging.getLogger().removeHandler(handler)
        if processor in processors:
            processors.remove(processor)
