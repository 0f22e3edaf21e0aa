"""A sample event on its way in, with the rules to be tried on it: what is large is read where it holds up nobody.

An event may have megabytes, and so may what is no event. So what no schema knows is looked for first, and of it no more
than an answer names: pydantic makes an error of every single unknown field, in one piece (0.9 s for 5 MiB of them).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import trio
from pydantic import TypeAdapter

from logstitch import gate
from logstitch.errors import InvalidRequest
from logstitch.http.schemas.common import MAX_SETTINGS_BYTES
from logstitch.http.schemas.redaction import TryRulesBody
from logstitch.http.services import Limits
from logstitch.model import metadata_error, unknown_fields, validate

_SCHEMA: TypeAdapter[TryRulesBody] = TypeAdapter(TryRulesBody)


class Samples:
    """Reads bodies of ``POST /api/v1/redaction/test``."""

    def __init__(self, limits: Limits) -> None:
        self._thread_bytes = limits.thread_bytes
        self._thread = trio.CapacityLimiter(1)

    async def read(self, body: bytes) -> TryRulesBody:
        """The event and the rules. Raises ``InvalidRequest`` that names every bad field."""
        if len(body) < self._thread_bytes:
            return read_sample(body)
        return await trio.to_thread.run_sync(read_sample, body, limiter=self._thread)


def read_sample(body: bytes) -> TryRulesBody:
    """A body whole. Raises ``InvalidRequest`` that names every bad field."""
    value = gate.parse(body)
    if type(value) is not dict:
        raise InvalidRequest("The body must be a JSON object.")
    if len(body) > MAX_SETTINGS_BYTES:
        _check_large(value)
    wanted = validate(_SCHEMA, value)
    event: Mapping[str, Any] = wanted["event"]
    if (message := metadata_error(event.get("metadata"))) is not None:
        raise InvalidRequest.on("event.metadata", message)
    return wanted


def _check_large(value: Mapping[str, Any]) -> None:
    others = {name: part for name, part in value.items() if name != "event"}
    if len(orjson.dumps(others)) > MAX_SETTINGS_BYTES:
        most = f"{MAX_SETTINGS_BYTES // 1024} KiB"
        raise InvalidRequest(f"Without the event, the body is larger than any that fits: it has at most {most}.")
    if details := unknown_fields(value.get("event"), "event"):
        raise InvalidRequest(details=details)
