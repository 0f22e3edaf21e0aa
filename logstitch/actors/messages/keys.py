"""What is said of API keys: who holds one, and making, listing and revoking them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.projects import Project
from logstitch.model import Plan


class KeyType(StrEnum):
    """The two kinds of API key."""

    MASTER = "master"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated key. ``project`` is the key's own project, ``None`` for a master key."""

    key_id: UUID
    type: KeyType
    organization_id: UUID
    plan: Plan
    project: Project | None


@dataclass(frozen=True, slots=True)
class Authenticate(Ask[Principal]):
    """Who holds the key with this SHA-256? Refused with ``InvalidApiKey`` or ``KeyRevoked``."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it may be shown: never the key itself."""

    id: UUID
    type: KeyType
    name: str
    prefix: str
    project_id: UUID | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class CreateKey(Ask["CreatedKey"]):
    """Make a project key. Refused with ``NotFound`` for a project that is not the organization's."""

    organization_id: UUID
    project_id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """``secret`` is the key, shown this once."""

    key: Key
    secret: str


@dataclass(frozen=True, slots=True)
class ListKeys(Ask["KeyPage"]):
    """Keys of the organization, or of one project, newest first."""

    organization_id: UUID
    project_id: UUID | None
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One page of keys."""

    keys: tuple[Key, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class RevokeKey(Ask[Key]):
    """Revoke a project key for ever; answered when every process refuses it. Repeating it answers the first time.

    With ``project_id`` only a key of that project is found. Refused with ``NotFound``, also for master keys.
    """

    organization_id: UUID
    project_id: UUID | None
    key_id: UUID
