"""Keys: shown once, listed without themselves, revoked for ever."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from logstitch.actors.messages.projects import Project
from tests.support.client import Client
from tests.support.world import Organization, World


async def test_a_new_key_is_shown_once_and_works(master: Client, project: Project) -> None:
    made = await master.post(
        "/api/v1/keys", {"project_id": str(project.id), "type": "project", "name": "billing, production"}
    )

    assert made.status == 201
    key = made.json()
    assert key["key"].startswith(key["prefix"])
    assert len(key["prefix"]) == 7
    assert (await master.with_key(key["key"]).get("/api/v1/events")).status == 200
    listed = await master.get("/api/v1/keys")
    assert key["key"].encode() not in listed.body


async def test_the_list_spells_three_fields_in_camel_case(master: Client, producer: Client) -> None:
    keys = (await master.get("/api/v1/keys")).json()["keys"]

    assert [list(key) for key in keys] == [
        ["id", "prefix", "type", "name", "project_id", "lastUsedAt", "createdAt", "revokedAt"]
    ] * 2
    assert {key["type"] for key in keys} == {"master", "project"}


async def test_a_project_key_sees_those_of_its_project(
    producer: Client, world: World, organization: Organization, project: Project
) -> None:
    own = world.make_key(organization, project, "own")
    world.make_key(organization, world.project(organization), "a sibling's")
    world.make_key(organization, None, "a master key")

    keys = (await producer.get("/api/v1/keys")).json()["keys"]

    assert {key["project_id"] for key in keys} == {str(project.id)}
    assert keys[0]["id"] == str(own.key.id)


async def test_a_master_key_may_ask_for_one_project(
    master: Client, world: World, organization: Organization, project: Project
) -> None:
    world.make_key(organization, project, "one")

    keys = (await master.get(f"/api/v1/keys?project_id={project.id}")).json()["keys"]

    assert [key["name"] for key in keys] == ["one"]


async def test_keys_are_paged_newest_first(master: Client, world: World, organization: Organization) -> None:
    made = [str(world.make_key(organization, None, f"k{n}").key.id) for n in range(6)]

    first = (await master.get("/api/v1/keys?limit=4")).json()
    second = (await master.get(f"/api/v1/keys?limit=100&cursor={first['cursor']}")).json()

    assert [key["id"] for key in first["keys"] + second["keys"]][:6] == made[::-1]
    assert (first["has_more"], second["has_more"], second["cursor"]) == (True, False, None)


async def test_a_cursor_of_keys_is_none_of_projects(master: Client, world: World, organization: Organization) -> None:
    for n in range(3):
        world.make_key(organization, None, f"k{n}")
    cursor = (await master.get("/api/v1/keys?limit=1")).json()["cursor"]

    assert list((await master.get(f"/api/v1/projects?cursor={cursor}")).details) == ["cursor"]


@pytest.mark.parametrize(
    ("change", "details"),
    [
        ({"project_id": None}, {"project_id": "Expected a UUID"}),
        ({"project_id": "{}"}, {"project_id": "Expected a UUID"}),
        ({"type": "master"}, {"type": "Must be 'project'"}),
        ({"name": ""}, {"name": "Must have at least 1 character(s)"}),
        ({"name": "x" * 101, "x": 1}, {"name": "Must have at most 100 characters", "x": "Unknown field"}),
    ],
)
async def test_a_bad_key_names_every_bad_field(
    master: Client, project: Project, change: dict[str, object], details: dict[str, str]
) -> None:
    answer = await master.post(
        "/api/v1/keys", {"project_id": str(project.id), "type": "project", "name": "k", **change}
    )

    assert (answer.status, answer.details) == (400, details)


async def test_what_is_missing_is_required(master: Client) -> None:
    answer = await master.post("/api/v1/keys", {})

    assert answer.details == {"project_id": "Required", "type": "Required", "name": "Required"}


async def test_a_key_for_another_organizations_project(master: Client, world: World) -> None:
    foreign = world.project(world.organization())

    answer = await master.post("/api/v1/keys", {"project_id": str(foreign.id), "type": "project", "name": "k"})

    assert (answer.status, answer.code) == (404, "not_found")


async def test_revoking_twice_answers_the_same(
    master: Client, world: World, organization: Organization, project: Project
) -> None:
    made = world.make_key(organization, project, "old")

    first = await master.delete(f"/api/v1/keys/{made.key.id}")
    again = await master.delete(f"/api/v1/keys/{made.key.id}")

    assert first.status == again.status == 200
    assert first.json() | {"request_id": ""} == again.json() | {"request_id": ""}
    assert first.json()["deleted"] is True
    assert (await master.with_key(made.secret).get("/api/v1/events")).code == "key_revoked"


async def test_what_may_not_be_revoked_is_unknown(
    master: Client, producer: Client, world: World, organization: Organization
) -> None:
    sibling = world.make_key(organization, world.project(organization), "a sibling's").key.id
    stranger = world.organization()
    foreign = world.make_key(stranger, world.project(stranger), "foreign").key.id
    a_master: UUID = world.keys[0].key.id
    for client, id in [
        (producer, sibling),
        (producer, foreign),
        (master, foreign),
        (master, a_master),
        (master, uuid4()),
        (master, "not-a-uuid"),
    ]:
        answer = await client.delete(f"/api/v1/keys/{id}")
        assert (answer.status, answer.code) == (404, "not_found")
