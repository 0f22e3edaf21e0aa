"""Places in lists: where a page ended, and where the next one begins."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class Order(StrEnum):
    """Order of a page by (occurred_at, id)."""

    DESC = "desc"
    ASC = "asc"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order (occurred_at, id): the last event that the caller has seen."""

    occurred_at_ms: int
    id: UUID


@dataclass(frozen=True, slots=True)
class Page:
    """Keyset position in a list that is ordered newest first by (created_at, id)."""

    created_at: datetime
    id: UUID
