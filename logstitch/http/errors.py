"""The one table that turns an error into a status and a code, and the one place that builds error bodies.

An error without a row is a defect of ours: 500, and a line in the log with its type and the places it passed. Its text
is neither shown nor logged, since nobody wrote it for the caller.

What names a bad field may be what somebody sent: a field that is not known, a piece of a pattern. Error bodies go to
consoles and other people's logs, so it is shown only as far as it holds nothing that the built-in rules would remove,
and reads as names do. A project's own rules are not known here; what they are about (numbers, codes) rarely reads so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import orjson
import structlog

from logstitch import errors
from logstitch.errors import Detail, LogStitchError
from logstitch.http.responses import Headers, Reply
from logstitch.http.services import wall_clock_ms
from logstitch.ids import new_request_id
from logstitch.redaction.definitions import BUILTINS, REDACTED, Behavior, BuiltinState
from logstitch.redaction.engine import RuleSet, redact
from logstitch.redaction.rules import compile_rules

log = structlog.get_logger(__name__)


class BodyTimeout(LogStitchError):
    """The body did not arrive in time."""


class BodyTooLarge(LogStitchError):
    """The body is over the limit, as announced or as counted."""


class UnsupportedMediaType(LogStitchError):
    """The body is not plain JSON in UTF-8."""


class MethodNotAllowed(LogStitchError):
    """The route is there, but not for this method; ``allow`` lists those it is there for."""

    def __init__(self, allow: Iterable[str]) -> None:
        super().__init__("This route does not take this method.")
        self.allow = tuple(sorted(allow))


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an error is on the wire, and the sentence that the documentation says about it."""

    status: int
    code: str
    when: str


TABLE: Final[Mapping[type[LogStitchError], Meaning]] = MappingProxyType(
    {
        errors.InvalidRequest: Meaning(400, "validation_error", "The request breaks the schema; `details` name where."),
        errors.Unauthorized: Meaning(401, "unauthorized", "No Authorization header, or one that cannot be read."),
        errors.InvalidApiKey: Meaning(401, "invalid_api_key", "The key is not known."),
        errors.KeyRevoked: Meaning(401, "key_revoked", "The key was revoked."),
        errors.Forbidden: Meaning(403, "forbidden", "This kind of credential may not do this."),
        errors.AlertRuleLimitReached: Meaning(
            403, "alert_rule_limit_reached", "The plan's custom alert rules are used up."
        ),
        errors.WebhooksNotAvailable: Meaning(403, "webhooks_not_available", "The plan has no webhooks."),
        errors.NotFound: Meaning(404, "not_found", "Nothing there, or nothing that this caller may know of."),
        errors.StreamNotFound: Meaning(404, "stream_not_found", "No stream has this token."),
        MethodNotAllowed: Meaning(405, "method_not_allowed", "`Allow` lists the methods of this route."),
        BodyTimeout: Meaning(408, "request_timeout", "The body did not arrive in time."),
        errors.Conflict: Meaning(409, "conflict", "The request contradicts what is stored."),
        errors.StreamExpired: Meaning(410, "stream_expired", "The stream has expired, and its events are removed."),
        errors.StreamAlreadyClaimed: Meaning(410, "stream_already_claimed", "The stream was claimed."),
        BodyTooLarge: Meaning(413, "payload_too_large", "The body is over 5 MiB."),
        UnsupportedMediaType: Meaning(
            415, "unsupported_media_type", "The body is not `application/json` in UTF-8, or has a Content-Encoding."
        ),
        errors.DailyEventLimitReached: Meaning(
            429, "daily_event_limit_reached", "The plan's events of this UTC day are used up."
        ),
        errors.StreamDailyLimitReached: Meaning(
            429, "stream_daily_limit_reached", "The stream's events of this UTC day are used up."
        ),
        errors.RateLimited: Meaning(429, "rate_limited", "Too many requests."),
        errors.Unavailable: Meaning(503, "unavailable", "Transient: the same request may succeed in a moment."),
        LogStitchError: Meaning(500, "internal_error", "The service failed."),
    }
)
INTERNAL: Final = TABLE[LogStitchError]
_INDEX: Final = re.compile(r"^((?:[0-9]{1,2}\.)?)", re.ASCII)
"""Of an item of a batch."""
NUMBER_DIGITS: Final = 4
"""Digits that make a part of a path a number, or a token, rather than a name."""
NAME_CHARS: Final = 64
_ODD: Final = re.compile(r"[^\w$ *…-]|[A-Z]{4}")
"""What names of fields do not have: signs, and capitals in a row, of which codes are made."""

HEADERS_TOO_LARGE: Final = Meaning(431, "headers_too_large", "Over 64 headers, or 16 KiB of them.")
"""Answered by the server, before there is a request."""


def meaning_of(error: BaseException) -> Meaning:
    """The row of the nearest class."""
    for kind in type(error).__mro__:
        if (meaning := TABLE.get(kind)) is not None:
            return meaning
    return INTERNAL


def reply_to(error: Exception, request_id: str) -> Reply:
    """The answer to whatever went wrong. Logs what is a defect."""
    meaning = meaning_of(error)
    if meaning is INTERNAL or not isinstance(error, LogStitchError):
        log.error("request_failed", request_id=request_id, exc_info=error)
        return Reply(500, envelope(INTERNAL.code, "The service failed to answer this request.", request_id))
    details = presentable(getattr(error, "details", ()))
    return Reply(
        meaning.status, envelope(meaning.code, error.message, request_id, details), _headers_of(error, meaning)
    )


def presentable(details: Sequence[Detail]) -> Sequence[Detail]:
    """The details as they may be shown: without what any of the built-in rules finds, switched on or not, and without
    parts of paths that are rather numbers, codes or tokens than names, which a project's own rules may be about."""
    if not details:
        return details
    split = [_INDEX.split(detail.field, maxsplit=1) for detail in details]
    texts = [text for (_, _, path), detail in zip(split, details, strict=True) for text in (path, detail.message)]
    shown = redact({"metadata": {"texts": texts}}, _everything()).event["metadata"]["texts"]
    return [
        Detail(index + _names_only(path), message)
        for (_, index, _), path, message in zip(split, shown[::2], shown[1::2], strict=True)
    ]


@cache
def _everything() -> RuleSet:
    """All built-in rules; compiled for the first error that has details, since many a process never has one."""
    return compile_rules([BuiltinState(builtin.slug, True, Behavior.REPLACE) for builtin in BUILTINS], (), secret=b"")


def _names_only(path: str) -> str:
    return ".".join([part if _is_name(part) else REDACTED for part in path.split(".")])


def _is_name(part: str) -> bool:
    return len(part) <= NAME_CHARS and sum(map(str.isdigit, part)) < NUMBER_DIGITS and _ODD.search(part) is None


def refusal(code: str, message: str) -> bytes:
    """The body of an answer that the server gives before there is a request (for ``http.server.serve``)."""
    return envelope(code, message, new_request_id(wall_clock_ms()))


def envelope(code: str, message: str, request_id: str, details: Iterable[Detail] = ()) -> bytes:
    """``{"error": {"code", "message", "details"?}, "request_id"}``"""
    error: dict[str, Any] = {"code": code, "message": message}
    if listed := [{"field": detail.field, "message": detail.message} for detail in details]:
        error["details"] = listed
    return orjson.dumps({"error": error, "request_id": request_id})


_WITH_RETRY_AFTER: Final = (
    errors.Unavailable,
    errors.DailyEventLimitReached,
    errors.StreamDailyLimitReached,
    errors.RateLimited,
)


def _headers_of(error: LogStitchError, meaning: Meaning) -> Headers:
    if isinstance(error, _WITH_RETRY_AFTER):
        return ((b"retry-after", b"%d" % max(1, error.retry_after)),)
    if isinstance(error, MethodNotAllowed):
        return ((b"allow", ", ".join(error.allow).encode()),)
    if meaning.status == 401:
        return ((b"www-authenticate", b"Bearer"),)  # RFC 9110, 15.5.2: a 401 must carry it
    return ()
