"""Fixtures for the tests of the real process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.service import Service, running_service


@pytest.fixture
def service(blank_database_url: str) -> Iterator[Service]:
    """A service of this test's own on a database of its own."""
    with running_service(database_url=blank_database_url) as running:
        yield running
