"""Where the service is and who calls: checked once, so that a mistake is told where it was made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote
from uuid import uuid4

import httpx

from logstitch import __version__

USER_AGENT: Final = f"logstitch-python/{__version__}"
DEFAULT_TIMEOUT: Final = 15.0
"""The service answers within 10 s; the rest is the way there and back."""
_KEY: Final = re.compile(r"[!-~]{1,8192}")


def new_stream_token() -> str:
    """A token of a new anonymous stream. It is a secret: whoever has it may send to the stream and claim it."""
    return str(uuid4())


@dataclass(frozen=True, slots=True)
class Settings:
    """Raises ``ValueError`` on a URL or a key that cannot be used; the message never holds the key."""

    base_url: str
    key: str | None = field(repr=False)
    project_id: str | None
    timeout: float

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except httpx.InvalidURL as error:
            raise ValueError(f"base_url: {error}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("base_url must begin with http:// or https:// and a host")
        if url.userinfo or url.query or url.fragment:
            raise ValueError("base_url must have no user, query or fragment")
        if self.key is not None and _KEY.fullmatch(self.key) is None:
            raise ValueError("key must be visible ASCII characters without spaces")
        if self.project_id is not None and _KEY.fullmatch(self.project_id) is None:
            raise ValueError("project_id must be a UUID")
        if not self.timeout > 0:
            raise ValueError("timeout must be above 0 seconds")
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))

    def claim_url(self, token: str) -> str:
        """The page on which a person claims a stream."""
        return f"{self.base_url}/claim?token={quote(token, safe='')}"
