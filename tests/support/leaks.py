"""Services that are broken on purpose, each by one leak: what a sweep for secrets is trusted by.

python -m tests.support.leaks NAME serve …
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from logstitch import metrics
from logstitch.errors import Detail
from logstitch.http import api, errors
from logstitch.recording.rules import RuleBook
from logstitch.redaction.engine import RuleSet


def no_redaction() -> None:
    """Events are stored as they come."""

    def nothing(self: RuleBook, unsaved: object = ()) -> RuleSet:
        return RuleSet(self.version)

    RuleBook.compile = nothing  # type: ignore[method-assign]


def chatty_log() -> None:
    """A line at level debug tells the query and the headers of a request."""
    answer = api.App._http

    async def told(self: Any, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        structlog.get_logger().debug("request.head", query=scope["query_string"].decode("latin-1"), headers=headers)
        await answer(self, scope, receive, send)

    api.App._http = told  # type: ignore[method-assign]


def echoed_names() -> None:
    """An error names unknown fields as they were sent."""

    def as_sent(details: Sequence[Detail]) -> Sequence[Detail]:
        return details

    errors.presentable = as_sent


def routes_by_path() -> None:
    """Requests are counted by the path that was asked for."""
    answer = api.App._http

    async def counted(self: Any, scope: Any, receive: Any, send: Any) -> None:
        metrics.answered(scope["method"], scope["path"], 404, 0.0)
        await answer(self, scope, receive, send)

    api.App._http = counted  # type: ignore[method-assign]


LEAKS: dict[str, Callable[[], None]] = {
    leak.__name__: leak for leak in (no_redaction, chatty_log, echoed_names, routes_by_path)
}


def main() -> None:
    """Break it, then run the command line with the remaining arguments."""
    from logstitch.cli import app

    LEAKS[sys.argv.pop(1)]()
    app()


if __name__ == "__main__":
    main()
