"""A webhook across the death of the service: killed when the receiver has it, it sends the same message again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import pytest
import standardwebhooks

from tests.support.service import Service, running_service, wait_until

pytestmark = pytest.mark.slow


class Receiver:
    """A receiver on loopback that takes every message, and answers as long as ``may_answer`` is set."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.messages: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.url = ""

    def next(self) -> tuple[dict[str, str], bytes]:
        return self.messages.get(timeout=20)


@contextmanager
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            made.messages.put(({name.lower(): value for name, value in self.headers.items()}, body))
            if made.may_answer.wait(20):
                try:
                    self.send_response(204)
                    self.end_headers()
                except OSError:
                    pass  # who asked was killed

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        made.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield made
        made.may_answer.set()
        server.shutdown()
        thread.join(10)


def status_of(service: Service, webhook_id: str) -> list[tuple[str, int]]:
    with service.client(service.master_key) as client:
        found = client.get(f"/api/v1/webhooks/{webhook_id}/deliveries").json()["deliveries"]
    return [(one["status"], len(one["attempts"])) for one in found]


def test_killed_after_the_post_it_sends_the_same_message_again(database_url: str) -> None:
    allow = ("--webhook-allow", "127.0.0.1/32")
    with receiver() as there:
        with running_service(*allow, database_url=database_url) as service:
            keys = service.keys
            with service.client(service.master_key) as client:
                made = client.post("/api/v1/webhooks", json={"url": there.url}).json()
                assert client.post(f"/api/v1/webhooks/{made['id']}/test").status_code == 201
                first_headers, first_body = there.next()
                service.kill()
        with psycopg.connect(database_url) as conn:  # as if the lease had run out, with tries left
            conn.execute("UPDATE deliveries SET due_at = now() - interval '1 second', tries_left = 7")
        there.may_answer.set()
        with running_service(*allow, database_url=database_url, keys=keys) as service:
            headers, body = there.next()
            wait_until(lambda: status_of(service, made["id"]) == [("delivered", 2)])
            assert service.stop() == 0
            log = service.log_text()

    assert (headers["webhook-id"], body) == (first_headers["webhook-id"], first_body)
    standardwebhooks.Webhook(made["secret"]).verify(body, headers)
    assert made["secret"].removeprefix("whsec_")[:12] not in log
    assert headers["webhook-signature"] not in log
