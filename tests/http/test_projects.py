"""Which project a request is about, and the projects themselves."""

from __future__ import annotations

from uuid import uuid4

import pytest

from logstitch.actors.messages.projects import Project
from tests.support.client import Client
from tests.support.world import Organization, World


async def test_a_new_project_is_answered_flat_and_listed(master: Client) -> None:
    made = await master.post("/api/v1/projects", {"name": "Payroll"})

    assert made.status == 201
    listed = (await master.get("/api/v1/projects")).json()["projects"]
    assert listed == [{key: made.json()[key] for key in ("id", "name", "created_at")}]


async def test_projects_are_paged_newest_first(master: Client, world: World, organization: Organization) -> None:
    names = [f"p{n}" for n in range(5)]
    for name in names:
        world.project(organization, name)

    seen, target = [], "/api/v1/projects?limit=2"
    while True:
        page = (await master.get(target)).json()
        seen += [project["name"] for project in page["projects"]]
        if not page["has_more"]:
            break
        target = f"/api/v1/projects?limit=2&cursor={page['cursor']}"

    assert seen == names[::-1]
    assert page["cursor"] is None


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({}, {"name": "Required"}),
        ({"name": ""}, {"name": "Must have at least 1 character(s)"}),
        ({"name": "x" * 101}, {"name": "Must have at most 100 characters"}),
        ({"name": 7}, {"name": "Expected a string"}),
        ({"name": "x", "plan": "pro"}, {"plan": "Unknown field"}),
    ],
)
async def test_a_bad_project_names_every_bad_field(master: Client, body: object, details: dict[str, str]) -> None:
    answer = await master.post("/api/v1/projects", body)

    assert (answer.status, answer.details) == (400, details)


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null", b"7"])
async def test_a_body_that_is_no_object(master: Client, body: bytes) -> None:
    answer = await master.request("POST", "/api/v1/projects", body=body)

    assert (answer.status, answer.code) == (400, "validation_error")


# -- which project -------------------------------------------------------------------------------------------------


async def test_a_master_key_may_leave_out_the_only_project(master: Client, project: Project) -> None:
    assert (await master.get("/api/v1/events")).status == 200


@pytest.mark.parametrize("way", ["query", "header", "both", "capitals"])
async def test_a_master_key_names_one_of_several(
    way: str, master: Client, world: World, organization: Organization, project: Project
) -> None:
    other = world.project(organization)
    target = f"/api/v1/events?project_id={other.id}" if way in ("query", "both") else "/api/v1/events"
    named = str(other.id).upper() if way == "capitals" else str(other.id)
    headers = {} if way == "query" else {"X-Project-Id": named}

    answer = await master.request("GET", target, headers=headers)

    assert answer.status == 200
    assert getattr(world.asked[-1], "project_no", None) == other.no


async def test_without_a_name_several_are_ambiguous(
    master: Client, world: World, organization: Organization, project: Project
) -> None:
    world.project(organization)

    answer = await master.get("/api/v1/events")

    assert (answer.status, answer.code, list(answer.details)) == (400, "validation_error", ["project_id"])


@pytest.mark.parametrize("bad", ["7", "", "{U}", "urn:uuid:U", "U ", "U0", "U,U", "０U"])
@pytest.mark.parametrize("way", ["query", "header"])
async def test_what_is_no_uuid(way: str, bad: str, master: Client, producer: Client, project: Project) -> None:
    value = bad.replace("U", str(project.id))
    for client in (master, producer):
        if way == "header":
            if not value.isascii() or value.endswith(" "):  # a server strips spaces around a header's value
                continue
            answer = await client.get("/api/v1/events", X_Project_Id=value)
        else:
            answer = await client.get(
                "/api/v1/events?project_id=" + value.replace(" ", "%20").replace("０", "%EF%BC%90")
            )

        assert (answer.status, list(answer.details)) == (400, ["project_id"])


async def test_header_and_parameter_must_agree(master: Client, project: Project) -> None:
    answer = await master.get(f"/api/v1/events?project_id={project.id}", X_Project_Id=str(uuid4()))

    assert (answer.status, list(answer.details)) == (400, ["project_id"])


async def test_another_organizations_project_is_unknown(master: Client, world: World, project: Project) -> None:
    foreign = world.project(world.organization())

    theirs = await master.get(f"/api/v1/events?project_id={foreign.id}")
    nobodys = await master.get(f"/api/v1/events?project_id={uuid4()}")

    assert (theirs.status, theirs.code) == (404, "not_found")
    assert theirs.json()["error"] == nobodys.json()["error"]


async def test_a_project_key_may_name_its_own_project_and_no_other(
    producer: Client, world: World, organization: Organization, project: Project
) -> None:
    sibling = world.project(organization)

    assert (await producer.get(f"/api/v1/events?project_id={project.id}")).status == 200
    for other in (sibling.id, uuid4()):
        answer = await producer.get("/api/v1/events", X_Project_Id=str(other))
        assert (answer.status, answer.code) == (403, "forbidden")


async def test_where_no_project_is_meant_the_header_says_nothing_and_the_parameter_is_unknown(master: Client) -> None:
    assert (await master.get("/api/v1/projects", X_Project_Id="whatever")).status == 200
    assert (await master.get(f"/api/v1/projects?project_id={uuid4()}")).details == {"project_id": "Unknown field"}
