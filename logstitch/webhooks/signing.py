"""Signatures of the Standard Webhooks specification (https://www.standardwebhooks.com, symmetric scheme ``v1``).

What is signed is ``id.timestamp.body``, with the bytes of the body as they go out. The id is the same at every attempt,
so that a receiver can tell a repetition; the timestamp is that of the attempt, so that it can refuse an old message.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

SECRET_BYTES: Final = 32
"""Of a new secret; the specification wants 24 to 64."""
OVERLAP: Final = timedelta(hours=24)
"""How long a former secret signs beside the new one."""


def new_secret() -> bytes:
    """A secret for an endpoint."""
    return secrets.token_bytes(SECRET_BYTES)


def secret_text(secret: bytes) -> str:
    """A secret as receivers' libraries take it: ``whsec_`` and base64."""
    return f"whsec_{b64encode(secret).decode()}"


def signed_headers(message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> dict[str, str]:
    """The three headers of a message that is sent at ``timestamp`` (Unix seconds), signed with each of the secrets."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{b64encode(hmac.digest(key, content, 'sha256')).decode()}" for key in keys),
    }
