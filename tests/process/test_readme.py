"""What the README tells people to type, typed: all but what starts the service, installs it, or runs these tests."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.service import CHECKOUT, Service, environment, running_service, wait_until

FIRST_EVENT = "First event in a minute"
REDACTION = "Redaction"
ALERTS = "Alerts: from event to page in your inbox"
VIEWER = "Show events to your customers"
STREAMS = "Anonymous streams"
TYPED = {FIRST_EVENT, REDACTION, ALERTS, VIEWER, STREAMS}
NOT_TYPED = {"Two commands", "The command line", "Develop"}

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def blocks_of(heading: str) -> list[str]:
    """The shell blocks below a heading, up to the next one."""
    section = re.split(r"^#{2,3} ", README.partition(f" {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def typed(lines: str, service: Service, **more: str) -> str:
    """What a shell prints that is given these lines, with the keys in its environment."""
    keys = {
        "LOGSTITCH_URL": service.url,
        "PROJECT_KEY": service.project_key,
        "MASTER_KEY": service.master_key,
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    done = subprocess.run(
        ["/bin/sh", "-euc", lines],
        cwd=CHECKOUT,
        env=environment(keys | more),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(text: str) -> list[Any]:
    """The JSON documents that follow one another in ``text``."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        answer, end = decoder.raw_decode(text)
        found.append(answer)
        text = text[end:]
    return found


def test_every_block_is_typed_here_or_cannot_be() -> None:
    headings = re.findall(r"^#{2,3} (.+)$", README, re.MULTILINE)
    assert {heading for heading in headings if blocks_of(heading)} == TYPED | NOT_TYPED


def test_a_first_event_is_found_again_and_a_key_made(service: Service) -> None:
    _, send, look, keys = blocks_of(FIRST_EVENT)

    sent, listed = answers(typed(send, service))
    again, _ = answers(typed(send, service))
    (found,) = answers(typed(look, service))
    projects, made = answers(typed(keys.replace("<the id>", service.project_id), service))

    (event,) = listed["events"]
    assert sent["ids"] == again["ids"] == [event["id"]]
    assert found["events"] == [event]
    assert [project["id"] for project in projects["projects"]] == [service.project_id]
    assert answers(typed(send, service, PROJECT_KEY=made["key"]))[0]["ids"] == sent["ids"]


def test_rules_are_set_tried_and_told_of(service: Service) -> None:
    with service.client() as client:
        event = {"action": "a.b", "category": "system", "actor": {"id": "u", "type": "user"}, "tenant_id": "acme"}
        stored = client.post("/api/v1/events", json=event | {"metadata": {"note": "order 4711"}})
        assert stored.status_code == 201
    (block,) = blocks_of(REDACTION)

    email, pattern, fields, sample, effect, log = answers(typed(block, service))

    assert (email["id"], email["enabled"], email["behavior"]) == ("builtin_email", True, "hash")
    assert (pattern["type"], pattern["behavior"]) == ("pattern", "mask")
    assert fields["fields"] == ["metadata.**.password", "metadata.**.token"]
    assert sample["event"]["metadata"] == {"card": "[REDACTED]", "note": "[REDACTED]"}
    assert effect["events_changed"] == 1
    assert len(log["events"]) == 3


def test_a_token_shows_its_tenant_s_events(service: Service) -> None:
    (block,) = blocks_of(VIEWER)

    (token,) = answers(typed(block, service))

    with service.client(token["token"]) as viewer:
        assert viewer.get("/api/v1/events").status_code == 200


def test_a_stream_takes_an_event_without_a_key(service: Service) -> None:
    (block,) = blocks_of(STREAMS)

    sent, info = answers(typed(block, service, MASTER_KEY="", PROJECT_KEY=""))

    assert len(sent["ids"]) == 1
    assert (info["status"], info["event_count"]) == ("active", 1)


def test_five_failed_logins_become_an_alert_and_a_signed_webhook(database_url: str, tmp_path: Path) -> None:
    first, second = blocks_of(ALERTS)
    started, _, then = first.partition("\n\n")
    assert started.startswith("LOGSTITCH_WEBHOOK_ALLOW=127.0.0.1/32 ops/run")
    port, printed = str(free_port()), tmp_path / "receiver"
    then = then.replace("8000 &", f"8000 > {printed} 2>&1 &").replace("8000", port)
    then = then.replace("sleep 1\n", f"until grep -q listening {printed}; do sleep 0.1; done\n", 1)
    before, _, after = then.partition("sleep 1")
    look = after.partition("\n")[2]
    with running_service("--webhook-allow=127.0.0.1/32", database_url=database_url) as service:
        stored = typed(before + f"\necho $! > {tmp_path}/pid", service)
        try:
            assert stored.count('"ids"') == 5
            wait_until(lambda: "alert.triggered" in printed.read_text(), seconds=4)  # the next attempt would be after 5
        finally:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        (alert,) = json.loads(typed(look, service))["alerts"]
        assert (alert["rule_id"], alert["group_key"], alert["event_count"]) == ("auth_brute_force", "mallory", 5)
        assert re.search(r"^dlv_\w{26} alert\.triggered$", printed.read_text(), re.MULTILINE)

        tried, made, changed = answers(typed(second, service))
        assert (tried["fired"], tried["existing"]["fired"], tried["complete"]) == (1, 1, True)
        assert (made["type"], made["threshold"]) == ("custom", 3)
        assert (changed["id"], changed["cooldown_seconds"]) == ("auth_brute_force", 600)
