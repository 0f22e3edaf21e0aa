"""What is said of projects: finding, making and listing them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.pages import Page


@dataclass(frozen=True, slots=True)
class Project:
    """A project as every other actor needs it: ``no`` is the short number that stands for it inside."""

    no: int
    id: UUID
    organization_id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ResolveProject(Ask[Project]):
    """The organization's project with this id, or its only one when ``project_id`` is ``None``.

    Refused with ``NotFound`` (also for a project of somebody else) or ``InvalidRequest`` on ``project_id``.
    """

    organization_id: UUID
    project_id: UUID | None


@dataclass(frozen=True, slots=True)
class CreateProject(Ask[Project]):
    """Make a project in the organization."""

    organization_id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class ListProjects(Ask["ProjectPage"]):
    """Projects of the organization, newest first."""

    organization_id: UUID
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """One page of projects."""

    projects: tuple[Project, ...]
    next: Page | None
