"""A small deployment in memory, its app, and a client of it for each kind of credential."""

from __future__ import annotations

import pytest

from logstitch.actors.messages.projects import Project
from logstitch.http.api import App, create_app
from tests.support.client import Client, Documented
from tests.support.world import Organization, Stage, World


@pytest.fixture(scope="session")
def stage() -> Stage:
    return Stage(World())


@pytest.fixture(scope="session")
def session_app(stage: Stage) -> App:
    """One app for all tests: to make it, and its documentation, takes a while."""
    return create_app(stage.services())


@pytest.fixture(scope="session")
def documented(session_app: App) -> Documented:
    return Documented(session_app)


@pytest.fixture
def world(stage: Stage) -> World:
    """This test's own."""
    stage.world = World()
    return stage.world


@pytest.fixture
def organization(world: World) -> Organization:
    return world.organization()


@pytest.fixture
def project(world: World, organization: Organization) -> Project:
    """The only project of ``organization``."""
    return world.project(organization)


@pytest.fixture
def app(session_app: App, world: World) -> App:
    return session_app


@pytest.fixture
def anyone(app: App, documented: Documented) -> Client:
    """A client without a credential."""
    return Client(app, documented=documented)


@pytest.fixture
def master(anyone: Client, world: World, organization: Organization) -> Client:
    """A client with a master key."""
    return anyone.with_key(world.key(organization))


@pytest.fixture
def producer(anyone: Client, world: World, organization: Organization, project: Project) -> Client:
    """A client with a key of ``project``."""
    return anyone.with_key(world.key(organization, project))


@pytest.fixture
async def viewer(producer: Client) -> Client:
    """A client with a viewer token for the tenant acme, minted by ``producer``."""
    minted = await producer.post("/api/v1/viewer-tokens", {"tenant_id": "acme"})
    token: str = minted.json()["token"]
    return producer.with_key(token)
