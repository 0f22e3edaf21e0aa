"""What is said of viewer tokens and tiers: who holds a token, a token to be minted, tiers to be listed and changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.projects import Project
from logstitch.viewing.tiers import Tier, View


@dataclass(frozen=True, slots=True)
class Viewer:
    """The holder of a viewer token that is good: what may be seen, of which project. ``key_id`` minted the token."""

    key_id: UUID
    project: Project
    view: View


@dataclass(frozen=True, slots=True)
class AuthenticateViewer(Ask[Viewer]):
    """Who holds this token? It has the form of one, ``viewing.tokens.has_form``.

    Refused with ``Unauthorized`` or, where the key that minted it was revoked, ``KeyRevoked``.
    """

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class MintViewerToken(Ask["MintedToken"]):
    """Make a token for a tenant's events. ``by`` is the key that asks for it, with which it ends; ``tier`` is a name.

    Refused with ``InvalidRequest`` on ``tier``, where there is none of the name, or on ``tenant_id``.
    """

    project: Project
    by: UUID
    tenant_id: str
    tier: str | None
    life_seconds: int


@dataclass(frozen=True, slots=True)
class MintedToken:
    """``token`` is in this answer only."""

    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ListTiers(Ask["TierPage"]):
    """A project's tiers, newest first."""

    project_no: int
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class TierPage:
    """One page of tiers."""

    tiers: tuple[Tier, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class CreateTier(Ask[Tier]):
    """Make a tier. ``by`` is the key that asks for it.

    Refused with ``InvalidRequest`` (on ``hidden_fields.2``) or ``Conflict``: the name is taken, or there are as many as
    there may be.
    """

    project_no: int
    by: UUID
    name: str
    categories: tuple[str, ...] | None
    actions: tuple[str, ...] | None
    hidden_fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UpdateTier(Ask[Tier]):
    """Change these fields of a tier, by their names in ``Tier``. Answered when it applies in every process.

    Refused with ``NotFound`` and what ``CreateTier`` is refused with.
    """

    project_no: int
    by: UUID
    id: UUID
    changed: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteTier(Ask[None]):
    """Remove a tier. Answered when every process refuses the tokens that name it. Refused with ``NotFound``."""

    project_no: int
    by: UUID
    id: UUID
