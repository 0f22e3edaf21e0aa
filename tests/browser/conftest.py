"""One browser and one service for all of these tests; a stand-in of the service for each that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.samples import Product
from tests.support.browser import Tab, missing, running_browser
from tests.support.pages_api import PagesApi, running_pages_api
from tests.support.postgres import Databases
from tests.support.service import Service, running_service


@pytest.fixture(scope="session")
def browser() -> Iterator[Tab]:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with running_browser() as tab:
        yield tab


@pytest.fixture
def tab(browser: Tab) -> Iterator[Tab]:
    """The browser as on a light desktop; the test fails if a page had troubles in it."""
    browser.look()
    browser.cdp("Emulation.setTimezoneOverride", timezoneId="UTC")
    browser.open("about:blank")
    browser.driver.get_log("browser")  # type: ignore[no-untyped-call]
    yield browser
    assert browser.troubles() == []


@pytest.fixture(scope="session")
def service(databases: Databases) -> Iterator[Service]:
    """A service for all tests: each writes into a project of its own."""
    with databases.database() as url, running_service(database_url=url) as running:
        yield running


@pytest.fixture
def api() -> Iterator[PagesApi]:
    with running_pages_api() as running:
        yield running


@pytest.fixture
def product(service: Service) -> Product:
    with service.client(service.master_key) as client:
        project = client.post("/api/v1/projects", json={"name": "Billing"}).json()["id"]
    key = Product(service, project, "").another_key()[1]
    return Product(service, project, key)
