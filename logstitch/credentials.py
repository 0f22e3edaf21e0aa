"""What a caller shows to be let in: how a key is made, how it is read from a header, and the digest that stands for it.

A key is ``mk_`` (master) or ``pk_`` (project) and 40 characters of base62. The first seven characters are its visible
prefix; the 36 behind them are 214 bits of randomness, so a plain SHA-256 is as good as a slow hash: there is nothing to
guess. Only the digest is stored and looked up, so the time that a look-up takes tells nothing about a key.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from logstitch.errors import Unauthorized

PREFIX_CHARS: Final = 7
"""How much of a key may be shown: ``pk_`` and four characters."""
SECRET_CHARS: Final = 40

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MARKS: Final = {"master": "mk_", "project": "pk_"}
# RFC 9110, 11.4: the scheme in any letter case, then spaces; RFC 6750, 2.1: the token.
_BEARER = re.compile(rb"bearer +([0-9A-Za-z._~+/-]+=*)", re.IGNORECASE)
_API_KEY = re.compile(rb"[mp]k_[0-9A-Za-z]{%d}" % SECRET_CHARS)
_VIEWER_MARK: Final = b"vt_"


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key. ``secret`` is shown once and kept nowhere."""

    secret: str
    prefix: str
    digest: bytes


def mint(kind: str) -> MintedKey:
    """A new key of ``kind``, ``master`` or ``project`` (a ``KeyType`` is one of them)."""
    secret = _MARKS[kind] + "".join(secrets.choice(_BASE62) for _ in range(SECRET_CHARS))
    return MintedKey(secret, secret[:PREFIX_CHARS], digest(secret))


def digest(secret: str | bytes) -> bytes:
    """The 32 bytes that stand for a key in the database and on the way to it."""
    return sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def viewer_token(authorization: bytes | None) -> str | None:
    """What begins as a viewer token in an ``Authorization`` header, good or not; None where it is anything else."""
    match = _BEARER.fullmatch(authorization or b"")
    return match[1].decode() if match is not None and match[1].startswith(_VIEWER_MARK) else None


def key_digest(authorization: bytes | None) -> bytes:
    """The digest of the API key in an ``Authorization`` header.

    Whatever has not the exact form of a key is refused here, without a look at the database.

    Raises ``Unauthorized``: no header, not ``Bearer``, or no key.
    """
    if not authorization:
        raise Unauthorized("Send your API key in the header: Authorization: Bearer <key>.")
    match = _BEARER.fullmatch(authorization)
    if match is None:
        raise Unauthorized("The Authorization header must be: Bearer <key>.")
    token = match[1]
    if _API_KEY.fullmatch(token) is None:
        raise Unauthorized("The bearer token has not the form of an API key.")
    return digest(token)
