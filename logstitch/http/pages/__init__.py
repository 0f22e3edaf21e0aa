"""The pages that people see, and the module of which the viewer is one: files beside this one, served as they are.

No template and no build step: what is served is what is in the repository. The policy of every page lets it run its own
script and use its own sheet, talk to the address that it came from, and nothing else; no inline code, no other origin,
no frame around it, and no string of an event that a browser could take for markup (Trusted Types).
"""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from logstitch.http.endpoints import Call, Endpoint, Success
from logstitch.http.responses import Headers, Reply
from logstitch.http.schemas.common import AnyText

_HERE = files(__name__)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The Content-Security-Policy of the pages (https://www.w3.org/TR/CSP3/)."""

_HTML, _SCRIPT, _STYLE = "text/html", "text/javascript", "text/css"

# A page's address may hold a token: it is named to nobody, and the page is kept by no cache.
_PAGE: Headers = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_PART: Headers = ((b"cache-control", b"no-cache"),)
# For pages of other origins. Five minutes: an upgrade must not leave old viewers about for long.
_MODULE: Headers = ((b"cache-control", b"public, max-age=300"), (b"cross-origin-resource-policy", b"cross-origin"))

_HEADERS = {_HTML: _PAGE, _SCRIPT: _PART, _STYLE: _PART}
_GZIP = re.compile(rb"(?:^|[,\s])gzip\s*(?:$|,|;(?!\s*q=0(?:\.0*)?\s*(?:,|$)))")


class LinkQuery(BaseModel):
    """Any parameters: people open links that mail programs and trackers have added to. Pages read what is theirs."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class ClaimQuery(LinkQuery):
    """What the claim page is opened with. The page itself looks at it, and says what is wrong with it."""

    token: Annotated[str | None, Field(description="The stream.")] = None


@dataclass(frozen=True, slots=True)
class Asset:
    """One thing that is served: its name in the table of roles, its path, and the files that it is made of."""

    name: str
    path: str
    sources: tuple[str, ...]
    media: str
    summary: str
    query: type[BaseModel] = LinkQuery
    cors: bool = False
    headers: Headers | None = None
    """None for those that its media type always has."""

    def text(self) -> str:
        """What is served."""
        return "\n".join((_HERE / source).read_text(encoding="utf-8") for source in self.sources)


PUBLIC = (
    Asset(
        "pages.viewer_module",
        "/viewer.js",
        ("viewer.js",),
        _SCRIPT,
        "The viewer, to be embedded",
        cors=True,
        headers=_MODULE,
    ),
    Asset("pages.viewer", "/viewer", ("viewer.html",), _HTML, "The viewer as a page"),
    Asset("pages.viewer_script", "/viewer-page.js", ("viewer-page.js",), _SCRIPT, "Script of that page"),
    Asset("pages.viewer_style", "/viewer-page.css", ("page.css", "viewer-page.css"), _STYLE, "Style of that page"),
    Asset("pages.claim", "/claim", ("claim.html",), _HTML, "Claim a stream", ClaimQuery),
    Asset("pages.claim_script", "/claim.js", ("claim.js",), _SCRIPT, "Script of that page"),
    Asset("pages.claim_style", "/claim.css", ("page.css", "claim.css"), _STYLE, "Style of that page"),
)
OPERATOR = (
    Asset("pages.operator", "/", ("operator.html",), _HTML, "How the process is, as a page"),
    Asset("pages.operator_script", "/operator.js", ("operator.js",), _SCRIPT, "Script of that page"),
    Asset("pages.operator_style", "/operator.css", ("page.css", "operator.css"), _STYLE, "Style of that page"),
)


def takes_gzip(accept_encoding: bytes) -> bool:
    """Whether a client that sent this header takes gzip (RFC 9110, 12.5.3); ``*`` is not taken for a yes."""
    return _GZIP.search(accept_encoding.lower()) is not None


def endpoint_headers(asset: Asset) -> Headers:
    """The headers of an asset, beside its type, its length and those that every answer has."""
    own = _HEADERS[asset.media] if asset.headers is None else asset.headers
    return (*own, (b"vary", b"Accept-Encoding"))


def endpoint(asset: Asset) -> Endpoint:
    """The endpoint that answers with ``asset``, packed once, when the app is made."""
    body = asset.text().encode()
    headers = endpoint_headers(asset)
    media = f"{asset.media}; charset=utf-8".encode()
    plain = Reply(200, body, headers, media)
    packed = Reply(200, gzip.compress(body, 9, mtime=0), (*headers, (b"content-encoding", b"gzip")), media)

    async def answer(call: Call, _: bytes) -> Reply:
        return packed if takes_gzip(call.head.headers.get(b"accept-encoding", b"")) else plain

    return Endpoint(
        name=asset.name,
        method="GET",
        path=asset.path,
        handler=answer,
        summary=asset.summary,
        description=f"{asset.summary}.",
        query=asset.query,
        success=Success(200, f"{asset.summary}.", AnyText, "…", {}, asset.media),
        cors=asset.cors,
    )


def endpoints() -> tuple[Endpoint, ...]:
    """The pages of the public address."""
    return tuple(map(endpoint, PUBLIC))


def operator_endpoints() -> tuple[Endpoint, ...]:
    """The page of the operations address."""
    return tuple(map(endpoint, OPERATOR))
