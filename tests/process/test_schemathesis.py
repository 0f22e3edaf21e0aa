"""The published OpenAPI document, put to the real service by a tool that knows nothing else of it."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.support.service import Service

# A schema cannot say that a cursor must come from an earlier page, or that a project must exist: a request that fits
# the schema may be refused for what it names. Everything else that the tool can check is checked.
NOT_JUDGED = "positive_data_acceptance"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("credential", ["project", "master", "viewer"])
def test_every_answer_is_one_that_the_document_promises(service: Service, tmp_path: Path, credential: str) -> None:
    key = _credential(service, credential)
    done = subprocess.run(
        [
            str(Path(sysconfig.get_path("scripts"), "schemathesis")),
            "run",
            f"{service.url}/api/v1/openapi.json",
            "--header",
            f"Authorization: Bearer {key}",
            "--phases=examples,coverage,fuzzing",
            "--checks=all",
            f"--exclude-checks={NOT_JUDGED}",
            "--seed=1",
            "--max-examples=20",
            "--request-timeout=20",
            "--suppress-health-check=all",
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    with service.ops() as ops:
        assert 'status="500"' not in ops.get("/metrics").text


def _credential(service: Service, kind: str) -> str:
    if kind == "viewer":
        with service.client() as client:
            token: str = client.post("/api/v1/viewer-tokens", json={"tenant_id": "acme"}).json()["token"]
        return token
    return service.project_key if kind == "project" else service.master_key
