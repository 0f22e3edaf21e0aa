"""What takes the place of a match: a fixed word, a keyed hash, or a mask that keeps what people recognise it by."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from typing import Final

from logstitch.jcs import canonical
from logstitch.redaction.definitions import REDACTED, Behavior
from logstitch.redaction.folding import encode, fold

Replace = Callable[[str], str]
"""From the matched text, as it was sent, to what takes its place."""

_NO_DIGIT = re.compile(r"[^0-9]")
STARS: Final = "****"
_KEPT: Final = 4
_LONG_ENOUGH: Final = 8


def mask_text(text: str) -> str:
    """The last four characters of eight or more that are seen, else stars, as many for any length."""
    seen = fold(text)
    return STARS + seen[-_KEPT:] if len(seen) >= _LONG_ENOUGH else STARS


def _last_four_digits(before: str) -> Replace:
    return lambda text: before + _NO_DIGIT.sub("", fold(text))[-_KEPT:]


def _mask_email(text: str) -> str:
    local, _, domain = fold(text).rpartition("@")
    return f"{local[:1]}***@{domain}"


def _mask_ipv4(text: str) -> str:
    first, second, *_ = fold(text).split(".")
    return f"{first}.{second}.*.*"


def _mask_aws(text: str) -> str:
    seen = fold(text)
    return seen[:4] + STARS + seen[-_KEPT:]


MASKS: Final[Mapping[str, Replace]] = {
    "credit_card": _last_four_digits("****-****-****-"),
    "ssn": _last_four_digits("***-**-"),
    "phone": _last_four_digits("***-***-"),
    "email": _mask_email,
    "ipv4": _mask_ipv4,
    "jwt": lambda _: "eyJ***",
    "bearer_token": mask_text,
    "aws_key": _mask_aws,
}


def replacement(behavior: Behavior, mask: Replace, secret: bytes) -> Replace:
    """The function that carries out ``behavior``. The hash is HMAC-SHA-256 (RFC 2104) of the text as it was sent."""
    if behavior is Behavior.REPLACE:
        return lambda _: REDACTED
    if behavior is Behavior.HASH:
        return lambda text: "sha256:" + hmac.digest(secret, encode(text), "sha256").hex()
    return mask


def text_of(value: object) -> str:
    """What a whole value of any JSON type is hashed and masked as: a string as it is, else its canonical JSON."""
    return value if isinstance(value, str) else canonical(value).decode()


def replace_value(value: object, behavior: Behavior, replace: Replace) -> str:
    """What a whole value becomes. Of what is neither text nor number a mask shows nothing."""
    if behavior is Behavior.REPLACE:
        return REDACTED
    if behavior is Behavior.MASK and not (isinstance(value, str | int | float) and not isinstance(value, bool)):
        return STARS
    return replace(text_of(value))
