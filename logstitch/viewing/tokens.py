"""A viewer token is a JSON Web Token (RFC 7519) that says whose events may be read, through which tier, and until when.

``vt_`` and a JWS in compact form, signed with HMAC-SHA-256 under a secret of the deployment. The header's ``kid`` names
the secret; the claim ``kid`` is the API key that minted the token, with which it ends. Issuer and audience hold the
deployment's id. The tier is named by its id, so that no other tier of the same name ever takes its place.

Everything that a token must not be is refused in one way and with one text: what is wrong with it is nobody's business
but ours. Signature, algorithm, audience and issuer are PyJWT's to check; times, types and the very set of claims are
checked here, since PyJWT takes a token without ``exp``, a ``true`` for a number, and no clock but its own.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import jwt
import orjson

from logstitch.errors import Unauthorized

MARK: Final = "vt_"
ALGORITHM: Final = "HS256"
MIN_LIFE_SECONDS: Final = 60
MAX_LIFE_SECONDS: Final = 86_400
DEFAULT_LIFE_SECONDS: Final = 3600
LEEWAY_SECONDS: Final = 30
"""How far ahead the clock of the process that minted a token may be."""
MAX_TOKEN_CHARS: Final = 2048
"""A tenant of 256 characters outside the BMP takes 1,960. What is longer is not looked at."""
MAX_TENANT_CHARS: Final = 256

_FORM: Final = re.compile(r"vt_eyJ[0-9A-Za-z_-]{1,512}\.eyJ[0-9A-Za-z_-]{1,2048}\.[0-9A-Za-z_-]{43}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CLAIMS: Final = frozenset({"iss", "aud", "iat", "exp", "jti", "pid", "tid", "kid"})
_OPTIONS: Final[Any] = {
    "require": sorted(_CLAIMS),
    "strict_aud": True,
    # By a clock that is an argument, and by type, in _claims.
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
    "verify_sub": False,
    "verify_jti": False,
}


class UnknownSecret(Unauthorized):
    """The token names a secret that is not held: of another deployment, ended, or newer than what was looked up."""


class TooLong(ValueError):
    """The tenant's name makes the token longer than one may be."""


@dataclass(frozen=True, slots=True)
class Secret:
    """What tokens are signed with. ``until`` is Unix time; None for the one that signs now."""

    id: UUID
    key: bytes = field(repr=False)
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets that hold, and the id of the deployment that they are of."""

    deployment: UUID
    held: Sequence[Secret]

    @property
    def current(self) -> Secret | None:
        """The one to sign with; None where none was made yet."""
        return next((secret for secret in self.held if secret.until is None), None)

    @property
    def issuer(self) -> str:
        """The claim ``iss``."""
        return f"logstitch:{self.deployment}"

    @property
    def audience(self) -> str:
        """The claim ``aud``."""
        return f"logstitch-viewer:{self.deployment}"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says. Times are Unix time in seconds; ``key_id`` is the key that minted it."""

    project_id: UUID
    tenant_id: str
    tier_id: UUID | None
    key_id: UUID
    issued_at: int
    expires_at: int


def mint(secrets: Secrets, claims: Claims, jti: bytes) -> str:
    """A token that says so. ``jti`` are random bytes that no other token has.

    Raises ``TooLong``, and ``LookupError`` where there is no secret to sign with.
    """
    secret = secrets.current
    if secret is None:
        raise LookupError("there is no secret to sign with")
    payload = {
        "iss": secrets.issuer,
        "aud": secrets.audience,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
        "jti": urlsafe_b64encode(jti).rstrip(b"=").decode(),
        "pid": str(claims.project_id),
        "tid": claims.tenant_id,
        "kid": str(claims.key_id),
    }
    if claims.tier_id is not None:
        payload["tier"] = str(claims.tier_id)
    # Not jwt.encode, which spells every character outside ASCII in six or twelve.
    token = MARK + jwt.PyJWS().encode(
        orjson.dumps(payload), secret.key, algorithm=ALGORITHM, headers={"typ": "JWT", "kid": str(secret.id)}
    )
    if len(token) > MAX_TOKEN_CHARS:
        raise TooLong
    return token


def has_form(token: str) -> bool:
    """Whether a text may be a token at all; nothing is decoded."""
    return len(token) <= MAX_TOKEN_CHARS and _FORM.fullmatch(token) is not None


def verify(token: str, secrets: Secrets, now: float) -> Claims:
    """What a token says, if it is one of ours and its time is not over. ``now`` is Unix time in seconds.

    Raises ``Unauthorized`` for any other text whatever; ``UnknownSecret``, one of its kind, where the secret is not
    among ``secrets``.
    """
    if not has_form(token):
        raise _refused()
    try:
        return _verify(token[len(MARK) :], secrets, now)
    except Unauthorized:
        raise
    except Exception:
        # Whatever PyJWT and the parsers under it let out; its tree of errors does not hold all of it.
        raise _refused() from None


def _verify(token: str, secrets: Secrets, now: float) -> Claims:
    header = jwt.get_unverified_header(token)
    if header.keys() != {"alg", "typ", "kid"} or header["alg"] != ALGORITHM:
        raise _refused()
    secret = next((secret for secret in secrets.held if str(secret.id) == header["kid"]), None)
    if secret is None:
        raise UnknownSecret(_REFUSED)
    if secret.until is not None and now >= secret.until:
        raise _refused()
    payload = jwt.decode(
        token,
        secret.key,
        algorithms=[ALGORITHM],
        audience=secrets.audience,
        issuer=secrets.issuer,
        options=_OPTIONS,
    )
    if not _has_one_spelling(token):
        raise _refused()
    claims = _claims(payload)
    life = claims.expires_at - claims.issued_at
    if not MIN_LIFE_SECONDS <= life <= MAX_LIFE_SECONDS or claims.issued_at > now + LEEWAY_SECONDS:
        raise _refused()
    if now >= claims.expires_at:
        raise Unauthorized("The viewer token has expired.")
    return claims


def _has_one_spelling(token: str) -> bool:
    """Whether no other text stands for the same signature: the last of its 43 characters has two bits to spare.

    The other two parts are what is signed, letter by letter.
    """
    return token[-1] in "AEIMQUYcgkosw048"


def _claims(payload: Mapping[str, object]) -> Claims:
    if not _CLAIMS <= payload.keys() <= _CLAIMS | {"tier"}:
        # What a later version may add could narrow what is shown.
        raise _refused()
    tenant_id, tier = payload["tid"], payload.get("tier")
    if type(tenant_id) is not str or not 1 <= len(tenant_id) <= MAX_TENANT_CHARS or type(payload["jti"]) is not str:
        raise _refused()
    return Claims(
        _uuid(payload["pid"]),
        tenant_id,
        None if tier is None else _uuid(tier),
        _uuid(payload["kid"]),
        _seconds(payload["iat"]),
        _seconds(payload["exp"]),
    )


def _uuid(value: object) -> UUID:
    if type(value) is not str or _UUID.fullmatch(value) is None:
        raise _refused()
    return UUID(value)


def _seconds(value: object) -> int:
    if type(value) is not int:  # a bool is an int, too
        raise _refused()
    return value


_REFUSED: Final = "The viewer token is not valid."


def _refused() -> Unauthorized:
    return Unauthorized(_REFUSED)
