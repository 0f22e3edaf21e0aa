"""Viewer tokens in the real service: what is withdrawn is withdrawn in every worker, and secrets are rotated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from logstitch.http import examples
from tests.support.service import CHECKOUT, Service, environment, running_service

EVENTS = "/api/v1/events"
TRIES = 3


@pytest.fixture
def workers(database_url: str) -> Iterator[Service]:
    with running_service(database_url=database_url, workers=2) as running:
        yield running


def get(service: Service, token: str, target: str = EVENTS, **headers: str) -> httpx.Response:
    """One request over a connection of its own, so that any worker may get it."""
    return httpx.get(
        service.url + target, headers={"Authorization": f"Bearer {token}", **headers}, trust_env=False, timeout=30
    )


def done(client: httpx.Client, method: str, path: str, json: object) -> dict[str, Any]:
    """The body of the answer that says that it was done. A machine that is busy may need to be asked again."""
    for _ in range(TRIES):
        answer = client.request(method, path, json=json)
        if answer.status_code != 503:
            break
    assert answer.is_success, answer.text
    body: dict[str, Any] = answer.json()
    return body


def seen_by_all(service: Service, token: str) -> set[int]:
    """The statuses of many requests."""
    return {get(service, token).status_code for _ in range(20)}


def mint(service: Service, key: str | None = None, **wanted: Any) -> str:
    with service.client(key) as client:
        token: str = done(client, "POST", "/api/v1/viewer-tokens", {"tenant_id": "acme", **wanted})["token"]
    return token


def rotate(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "logstitch", "key", "rotate-viewer-secret", *arguments],
        env=environment({"LOGSTITCH_DATABASE_URL": service.database_url}),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.slow
def test_what_is_withdrawn_is_withdrawn_in_every_worker(workers: Service) -> None:
    with workers.client() as client, workers.client(workers.master_key) as master:
        assert client.post(EVENTS, json=[examples.EVENT_IN, {**examples.SMALL_EVENT_IN, "tenant_id": "x"}]).is_success
        hidden = {"name": "support", "hidden_fields": ["actor.email", "metadata"]}
        tier = done(master, "POST", "/api/v1/tiers", hidden)
        wanted = {"project_id": workers.project_id, "type": "project", "name": "minter"}
        minter = done(master, "POST", "/api/v1/keys", wanted)
        through, whole = mint(workers, minter["key"], tier="support"), mint(workers)
        assert seen_by_all(workers, through) == seen_by_all(workers, whole) == {200}
        (event,) = get(workers, through).json()["events"]
        assert "metadata" not in event
        assert len(get(workers, through, f"{EVENTS}?search=promotion").json()["events"]) == 0
        assert len(get(workers, whole, f"{EVENTS}?search=promotion").json()["events"]) == 1

        done(master, "PUT", f"/api/v1/tiers/{tier['id']}", {"hidden_fields": ["actor.**"]})
        shown = [get(workers, through).json()["events"][0] for _ in range(20)]
        assert {str(event["actor"]) for event in shown} == {"{}"}
        assert all("metadata" in event for event in shown)

        assert master.delete(f"/api/v1/keys/{minter['id']}").is_success
        assert seen_by_all(workers, through) == {401}
        assert get(workers, through).json()["error"]["code"] == "key_revoked"

        again = mint(workers, tier="support")
        assert seen_by_all(workers, again) == {200}
        assert master.delete(f"/api/v1/tiers/{tier['id']}").is_success
        assert seen_by_all(workers, again) == {401}
        assert seen_by_all(workers, whole) == {200}


@pytest.mark.slow
def test_secrets_are_rotated_with_overlap_or_without(workers: Service) -> None:
    old = mint(workers)

    assert rotate(workers).returncode == 0
    new = mint(workers)
    assert seen_by_all(workers, old) == seen_by_all(workers, new) == {200}

    refused = rotate(workers)
    assert refused.returncode == 1
    assert "--revoke-former" in refused.stderr
    assert seen_by_all(workers, old) == {200}

    assert rotate(workers, "--revoke-former").returncode == 0
    assert seen_by_all(workers, old) == seen_by_all(workers, new) == {401}
    assert seen_by_all(workers, mint(workers)) == {200}


@pytest.mark.slow
def test_tokens_outlive_the_service_but_not_the_deployment(service: Service, blank_database_url: str) -> None:
    token = mint(service)
    service.stop()

    with running_service(database_url=service.database_url, keys=service.keys) as restarted:
        assert get(restarted, token).status_code == 200
    with running_service(database_url=blank_database_url) as another:
        assert get(another, token).status_code == 401


def test_pages_of_any_origin_can_read_what_a_token_shows_and_why_it_shows_nothing(service: Service) -> None:
    token = mint(service, expires_in=60)
    origin = {"Origin": "https://shop.example"}

    for credential, status in ((token, 200), (token[:-4] + "AAAA", 401), ("vt_" + "a" * 15_000, 401)):
        answer = get(service, credential, **origin)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, "*")
    assert "access-control-allow-credentials" not in answer.headers
    preflight = httpx.options(
        service.url + EVENTS,
        headers={**origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"},
        trust_env=False,
    )
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()


def test_no_token_and_no_secret_is_in_a_log_line_or_a_metric(service: Service) -> None:
    token = mint(service)
    for credential in (token, token[:-4] + "AAAA"):
        get(service, credential)
        get(service, credential, f"{EVENTS}?token={credential}")
    with service.ops() as ops:
        metrics = ops.get("/metrics").text

    service.stop()

    for part in token.removeprefix("vt_").split("."):
        assert part not in service.log_text()
        assert part not in metrics
