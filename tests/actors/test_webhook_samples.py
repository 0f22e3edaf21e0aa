"""The sample receivers of the documentation believe what the service sends, and nothing else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import trio

from logstitch.actors.dispatcher import Dispatcher
from logstitch.actors.supervisor import open_supervisor
from logstitch.egress.addresses import Allow
from logstitch.ids import IdKind, id_text
from logstitch.recording.outbox import announce_test
from logstitch.recording.webhooks import rotation
from logstitch.store.database import Connection, Database, open_database
from logstitch.webhooks.signing import new_secret, secret_text, signed_headers
from tests.support.webhooks import MINT, NOW, NOW_MS, SECRET, make_project, make_webhook

SAMPLES = Path(__file__).resolve().parents[2] / "ops" / "samples"
ID = "dlv_01KARHK7T0C8Q2M4V6X9Z1B3D5"
BODY = b'{"type":"alert.triggered","data":{}}'
MINUTES = 60


@dataclass
class Sample:
    """A sample receiver that runs."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def post(self, headers: dict[str, str], body: bytes = BODY) -> int:
        with httpx.Client(trust_env=False) as client:
            return client.post(self.url, headers=headers, content=body).status_code

    def next_line(self) -> str:
        """What it says next: the id and the type of a message that it believes."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(params=["verify_webhook.py", "verify_webhook.mjs"])
def sample(request: pytest.FixtureRequest) -> Iterator[Sample]:
    command = sys.executable
    if request.param.endswith(".mjs"):
        command = shutil.which("node") or ""
        if not command:
            pytest.skip("no node on this machine (on Debian: apt install nodejs)")
    process = subprocess.Popen(
        [command, str(SAMPLES / request.param), "0"],
        env={**os.environ, "WEBHOOK_SECRET": secret_text(SECRET)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        port = int(process.stdout.readline().removeprefix("listening on "))
        try:
            yield Sample(process, port)
        finally:
            process.kill()


async def test_it_believes_what_the_service_sends_also_while_secrets_overlap(database_url: str, sample: Sample) -> None:
    async with open_database(database_url) as database, open_supervisor() as supervisor:
        project = await database.transact(make_project)
        row = await database.transact(lambda conn: make_webhook(conn, project[0], url=sample.url))
        supervisor.start("dispatcher", lambda: Dispatcher(database, Allow.parse("127.0.0.1")), capacity=4)

        async def send(number: int) -> None:
            delivery_id = UUID(int=number)

            def work(conn: Connection) -> None:
                announce_test(conn, project, row.id, delivery_id=delivery_id, now=NOW)

            await database.transact(work)
            assert await status_of(database, delivery_id) == "delivered"
            line = await trio.to_thread.run_sync(sample.next_line)
            assert line == f"{id_text(IdKind.DELIVERY, delivery_id.bytes)} webhook.test"

        await send(1)
        change = rotation(project[0], row.id, new_secret(), by=UUID(int=7), event_id=MINT.one(NOW_MS), now=lambda: NOW)
        await database.transact(change.run)
        await send(2)


async def status_of(database: Database, delivery_id: UUID) -> str:
    """How a delivery ended."""
    query = "SELECT status FROM deliveries WHERE delivery_id = %s AND status <> 'pending'"
    with trio.fail_after(20):
        while True:
            row = await database.transact(lambda conn: conn.execute(query, (delivery_id,)).fetchone())
            if row is not None:
                return str(row[0])
            await trio.sleep(0.02)


def test_it_believes_nothing_else(sample: Sample) -> None:
    now = int(time.time())
    good = signed_headers(ID, now, BODY, [SECRET])
    assert sample.post(good) == 204

    assert sample.post(good, BODY.replace(b"triggered", b"resolved!")) == 401
    assert sample.post(good | {"webhook-id": ID[:-1] + "6"}) == 401
    assert sample.post(good | {"webhook-timestamp": str(now + 1)}) == 401
    assert sample.post(good | {"webhook-signature": good["webhook-signature"][:-2]}) == 401
    assert sample.post(signed_headers(ID, now, BODY, [new_secret()])) == 401
    for at in (now - 6 * MINUTES, now + 6 * MINUTES):
        assert sample.post(signed_headers(ID, at, BODY, [SECRET])) == 401
    for name in good:
        assert sample.post({header: value for header, value in good.items() if header != name}) == 401
        assert sample.post(good | {name: "?"}) == 401
    assert sample.post(signed_headers(ID, now, BODY, [new_secret(), SECRET])) == 204


def test_it_keeps_no_more_than_a_megabyte_of_what_anybody_sends(sample: Sample) -> None:
    with socket.create_connection(("127.0.0.1", sample.port), timeout=10) as client, suppress(ConnectionError):
        client.sendall(b"POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n")
        client.sendall(bytes(2 * 1024 * 1024))  # of a gigabyte; it does not wait for the rest
        assert client.recv(100).split(b" ", 2)[1] == b"413"
    assert sample.post(signed_headers(ID, int(time.time()), BODY, [SECRET])) == 204


def test_a_body_of_unknown_length_does_not_stop_it(sample: Sample) -> None:
    with httpx.Client(trust_env=False) as client:
        answer = client.post(sample.url, content=iter([BODY]))  # chunked
    assert answer.status_code in (401, 411)
    assert sample.post(signed_headers(ID, int(time.time()), BODY, [SECRET])) == 204
