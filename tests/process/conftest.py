"""Fixtures for the tests of the real process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.service import Service, running_service


@pytest.fixture
def service(database_url: str) -> Iterator[Service]:
    """A service of this test's own on a database of its own."""
    with running_service(database_url=database_url) as running:
        yield running
