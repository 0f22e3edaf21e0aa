"""Places in lists: where a page ended, and where the next one begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from logstitch.times import EPOCH

T = TypeVar("T")


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
    """Keyset position in a list that is ordered by (created_at, id): of the newest first, or of the oldest."""

    created_at: datetime
    id: UUID


def page_of(
    items: Iterable[T],
    place: Callable[[T], Page | None],
    after: Page | None,
    limit: int,
    *,
    newest_first: bool = False,
) -> tuple[tuple[T, ...], Page | None]:
    """Of a list that is at hand in its order: at most ``limit`` items behind ``after``, and where their page ends, if
    there are more. ``place`` is None for what nobody created: that comes first, before everything that ever was."""

    def is_behind(one: Page, other: Page) -> bool:
        here, there = (one.created_at, one.id), (other.created_at, other.id)
        return here < there if newest_first else here > there

    places = [(place(item) or Page(EPOCH, UUID(int=index)), item) for index, item in enumerate(items)]
    left = [(at, item) for at, item in places if after is None or is_behind(at, after)]
    page = left[:limit]
    return tuple(item for _, item in page), page[-1][0] if len(left) > limit else None
