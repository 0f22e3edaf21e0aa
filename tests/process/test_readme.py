"""What the README tells people to type, typed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.service import CHECKOUT, Service, environment, running_service, wait_until

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


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_five_failed_logins_become_an_alert_and_a_signed_webhook(database_url: str, tmp_path: Path) -> None:
    first, second = blocks_of("Alerts: from event to page in your inbox")
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

        tried, made, changed = (
            json.loads(answer) for answer in typed(second, service).replace("}{", "}\n{").split("\n")
        )
        assert (tried["fired"], tried["existing"]["fired"], tried["complete"]) == (1, 1, True)
        assert (made["type"], made["threshold"]) == ("custom", 3)
        assert (changed["id"], changed["cooldown_seconds"]) == ("auth_brute_force", 600)
