"""The shortest proof that the service works: an empty directory, `init`, `serve`, one event in, the same event out.

Run with the Python of an environment made from requirements.lock: ``python ops/lib/smoke.py``. Standard library only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 30.0
EVENT = {
    "action": "user.login",
    "category": "auth",
    "actor": {"id": "u_1", "type": "user", "name": "Ada Lovelace"},
    "tenant_id": "acme",
    "metadata": {"attempt": 1, "note": "naïve 漢字", "ratio": 0.1},
}


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(method: str, url: str, key: str | None = None, body: object = None) -> dict[str, Any]:
    """One request; the JSON object it is answered with."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - always http to 127.0.0.1
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment's
    with opener.open(request, timeout=10) as answer:
        found = json.load(answer)
    assert isinstance(found, dict)
    return found


def wait_until_ready(service: subprocess.Popen[bytes], url: str) -> None:
    """Return when the service says that it is ready."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            call("GET", url)
            return
        except (urllib.error.URLError, OSError) as error:
            if service.poll() is not None:
                sys.exit(f"smoke: the service ended with {service.returncode} before it was ready")
            if time.monotonic() > deadline:
                sys.exit(f"smoke: not ready after {START_SECONDS:.0f} s ({error})")
            time.sleep(0.05)


def main() -> None:
    """Exit with 0 when everything held."""
    data = Path(tempfile.mkdtemp(prefix="logstitch-smoke-"))
    # Nothing of the caller's configuration: this is about a fresh start.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LOGSTITCH_")}
    environment["PYTHON"] = os.path.realpath(sys.executable)
    try:
        init = [sys.executable, "-m", "logstitch", "init", "--json", "--data", str(data)]
        keys = json.loads(subprocess.run(init, check=True, stdout=subprocess.PIPE, env=environment, timeout=120).stdout)
        port, ops_port = free_port(), free_port()
        command = [str(CHECKOUT / "ops" / "run"), "--data", str(data)]
        command += ["--bind", f"127.0.0.1:{port}", "--ops-bind", f"127.0.0.1:{ops_port}"]
        service = subprocess.Popen(command, env=environment)
        try:
            wait_until_ready(service, f"http://127.0.0.1:{ops_port}/health/ready")
            events = f"http://127.0.0.1:{port}/api/v1/events"
            (event_id,) = call("POST", events, keys["project_key"], EVENT)["ids"]
            found = call("GET", f"{events}/{event_id}", keys["project_key"])
            differing = {name for name, value in EVENT.items() if found.get(name) != value}
            assert not differing, f"came back different: {differing} in {found}"
            listed = call("GET", f"{events}?tenant_id=acme", keys["project_key"])["events"]
            assert [event["id"] for event in listed] == [event_id], listed
            service.send_signal(signal.SIGTERM)
            status = service.wait(STOP_SECONDS)
            assert status == 0, f"the service ended with {status} after SIGTERM"
        finally:
            if service.poll() is None:
                service.send_signal(signal.SIGINT)
                try:
                    service.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    service.kill()
                    service.wait()
    finally:
        shutil.rmtree(data)
    print(f"smoke: ok on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
