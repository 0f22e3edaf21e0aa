"""The canary sweep: secrets are sent wherever a request can carry them, and found nowhere afterwards.

A real service at log level debug, with an embedded PostgreSQL of its own, gets unique secrets: in every part of events
that are stored, and in requests that fail, in bodies, keys, headers, paths and queries. Then everything that it has
written is searched for them: every column of every table, its log, PostgreSQL's log, metrics, health pages, every
answer, and the bytes of every file of the data directory, write-ahead log included.

Decisions: an answer may not repeat a secret either, not to him who has sent it; error bodies go to other people's logs.
What is the same for a rule's own pattern, which its owner reads in every list of rules, is not swept for, nor are the
parts of an event that the contract leaves unscanned (action, category, tenant_id, idempotency_key, times).
"""

from __future__ import annotations

import random
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import psycopg
import pytest
from psycopg import sql

from tests.support.canaries import Canaries, Finding, Search
from tests.support.postgres import scratch_directory
from tests.support.service import Service, running_service, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EVENTS, KEYS, PROJECTS, RULES = "/api/v1/events", "/api/v1/keys", "/api/v1/projects", "/api/v1/redaction/rules"
JSON = {"Content-Type": "application/json"}
PART_EVENTS = 2048
"""Of an open segment, from which on its words are indexed."""


@dataclass
class Sender:
    """Sends requests byte for byte, each on a connection of its own, and keeps every answer."""

    service: Service
    answers: list[tuple[str, int, bytes]] = field(default_factory=list)
    """What the request was, the status, and all bytes of the answer."""

    def send(
        self,
        label: str,
        method: str = "GET",
        target: str = EVENTS,
        body: object = b"",
        *,
        key: str | None = "",
        headers: dict[str, str] | None = None,
        url: str | None = None,
    ) -> int:
        """One request. ``key``: empty for the project key, ``None`` for no credential."""
        text = body if isinstance(body, bytes) else orjson.dumps(body)
        fields = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(text))}
        if text:
            fields |= JSON
        if key is not None:
            fields["Authorization"] = f"Bearer {key or self.service.project_key}"
        fields |= headers or {}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        return self.raw(label, "\r\n".join(lines).encode() + text, url=url)

    def raw(self, label: str, data: bytes, *, url: str | None = None) -> int:
        """Bytes as they are; the status, or 0 where there was no answer."""
        address = urlsplit(url or self.service.url)
        got = b""
        with socket.create_connection((address.hostname, address.port), timeout=20) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while some := sock.recv(65536):
                    got += some
            except (ConnectionError, TimeoutError):
                pass  # it has said what it had to say
        status = int(found[1]) if (found := re.match(rb"HTTP/1.1 (\d{3}) ", got)) else 0
        self.answers.append((label, status, got))
        return status

    def last(self) -> Any:
        """The JSON of the last answer."""
        return orjson.loads(self.answers[-1][2].partition(b"\r\n\r\n")[2])


def event(**fields: Any) -> dict[str, Any]:
    return {
        "action": "user.login",
        "category": "auth",
        "actor": {"id": "u1", "type": "user"},
        "tenant_id": "acme",
        **fields,
    }


# -- what is sent --------------------------------------------------------------------------------------------------


def make_rules(sender: Sender) -> None:
    """Rules of the project's own, and built-ins that hash and mask instead of replacing."""
    master = sender.service.master_key
    for rule in (
        {"name": "words", "type": "pattern", "pattern": "CNRY-[0-9a-f]{16}"},
        {"name": "values", "type": "field_redact", "fields": ["metadata.**.password", "changes.*.after.secret"]},
    ):
        assert sender.send("make a rule", "POST", RULES, rule, key=master) == 201
    for slug, behavior in (("ssn", "hash"), ("aws_key", "mask")):
        assert (
            sender.send("set a built-in", "PUT", f"{RULES}/builtin_{slug}", {"behavior": behavior}, key=master) == 200
        )


def stored_events(secrets: Canaries) -> Iterator[tuple[str, dict[str, Any]]]:
    """Events that are accepted, with secrets in every part that is scanned; what each is about."""
    for part in ("id", "name", "email"):
        where = f"actor.{part}"
        yield where, event(actor={"id": "u1", "type": "user", part: secrets.pick(where)})
    for part in ("id", "type", "name"):
        where = f"target.{part}"
        text = secrets.pick(where) if part != "type" else secrets.card(where)
        yield where, event(target={"id": "t", "type": "t", part: text})
    for part in ("ip_address", "user_agent", "location", "session_id"):
        where = f"context.{part}"
        text = secrets.text(where) if part == "user_agent" else secrets.card(where)
        yield where, event(context={part: text})
    where = "metadata, values"
    kinds = ("card", "spaced_card", "wide_card", "hidden_card", "ssn", "aws", "jwt", "bearer", "api_key", "word")
    yield where, event(metadata={kind: getattr(secrets, kind)(f"{where}: {kind}") for kind in kinds})
    where = "metadata, in a sentence"
    yield where, event(metadata={"note": secrets.text(where)})
    where = "metadata, keys"
    yield where, event(metadata={secrets.pick(where): 1, "deep": {secrets.text(where): {secrets.pick(where): [1]}}})
    where = "metadata, nested"
    yield where, event(metadata={"a": {"b": [{"c": [[secrets.text(where)]]}, secrets.pick(where)]}})
    where = "metadata, numbers"
    yield where, event(metadata={"n": secrets.card_number(where), "list": [1, secrets.card_number(where), 2.5]})
    where = "metadata, fields of a rule"
    yield where, event(metadata={"password": secrets.value(where), "user": {"password": [secrets.value(where)]}})
    where = "metadata, a long text"
    yield where, event(metadata={"log": ("line of a log, nothing in it\n" * 300) + secrets.text(where) + "\n" * 300})
    where = "changes"
    yield (
        where,
        event(
            changes=[
                {"field": secrets.pick(where), "before": secrets.text(where), "after": secrets.card_number(where)},
                {
                    "field": "f",
                    "before": {secrets.pick(where): [secrets.text(where)]},
                    "after": {"secret": secrets.value(where)},
                },
            ]
        ),
    )


def send_events(sender: Sender, secrets: Canaries) -> None:
    """Singly, in a batch, and again with the same idempotency key."""
    for where, one in stored_events(secrets):
        assert sender.send(f"store {where}", "POST", EVENTS, one) == 201, sender.answers[-1]
    batch = [{**one, "idempotency_key": f"batch-{n}"} for n, (_, one) in enumerate(stored_events(secrets))]
    assert sender.send("store a batch", "POST", EVENTS, batch) == 201
    assert sender.send("store it again", "POST", EVENTS, batch) == 201
    # A conflict shows neither what is stored nor what was sent.
    other = [{**one, "metadata": {"other": secrets.text("conflict")}} for one in batch]
    assert sender.send("conflict in a batch", "POST", EVENTS, other) == 409
    assert sender.send("conflict", "POST", EVENTS, other[0]) == 409


def send_bad_bodies(sender: Sender, secrets: Canaries) -> None:
    """Bodies that are refused, whatever is wrong with them."""
    post = "POST"

    def refused(where: str, body: object, status: int = 400, **options: Any) -> None:
        assert sender.send(where, post, EVENTS, body, **options) == status, sender.answers[-1]

    for where in ("action", "category", "occurred_at"):
        refused(f"bad {where}", event(**{where: secrets.text(f"bad {where}")}))
    refused("bad actor type", event(actor={"id": "u", "type": secrets.pick("bad actor type")}))
    for where in ("actor", "target", "context", "metadata", "changes"):
        refused(f"bad {where}", event(**{where: secrets.text(f"bad {where}")}))
        refused(f"bad {where}, list", event(**{where: [secrets.card_number(f"bad {where}, list")]}))
    refused("bad tenant", event(tenant_id=[secrets.pick("bad tenant")]))
    refused("long name", event(actor={"id": "u", "type": "user", "name": secrets.text("long name") + "x" * 300}))
    for n in range(8):  # of every kind, if chance wants it
        refused("unknown field", event(**{secrets.pick("unknown field"): secrets.text("unknown field")}))
        refused("unknown field of actor", event(actor={"id": "u", "type": "user", secrets.pick("unknown field"): n}))
        refused("unknown field in a batch", [event(), event(context={secrets.text("unknown field"): n})])
    refused("unknown fields, many", event(**{secrets.pick("unknown field"): 1 for _ in range(300)}))
    refused("no object", [secrets.text("no object")])
    refused("a string", secrets.text("a string"))
    good = orjson.dumps(event(metadata={"a": secrets.text("broken JSON")}))
    refused("cut short", good[:-3])
    refused("trailing", good + secrets.text("trailing").encode())
    refused("not UTF-8", good.replace(b"acme", b"\xff\xfe"))
    refused("a key twice", b'{"%s":1,"%s":2}' % ((secrets.pick("a key twice").encode(),) * 2))
    refused("NaN", b'{"a":NaN,"b":"%s"}' % secrets.card("NaN").encode())
    refused("U+0000", b'{"a":"%s\\u0000"}' % secrets.card("U+0000").encode())
    refused("too deep", b"[" * 40 + b'"%s"' % secrets.card("too deep").encode() + b"]" * 40)
    refused("a long integer", b'{"a":%d00000000}' % secrets.card_number("a long integer"))
    refused("nothing but a secret", secrets.text("nothing but a secret").encode())
    large = orjson.dumps(event(metadata={"a": secrets.text("too large")}))
    refused("too large", large + b" " * (5 * 1024 * 1024), 413)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [large, *[b" " * 65536] * 90]) + b"0\r\n\r\n"
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {sender.service.project_key}\r\n"
    sender.raw(
        "too large, in chunks",
        f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + chunks,
    )
    body = orjson.dumps(event(metadata={"a": secrets.text("client leaves")}))
    sender.raw(
        "client leaves", f"{head}Content-Type: application/json\r\nContent-Length: 99999\r\n\r\n".encode() + body
    )
    for header in ("Content-Type", "Content-Encoding"):
        where = f"wrong {header}"
        text = f"text/{secrets.pick(where)}"
        refused(where, event(metadata={"a": secrets.text(where)}), 415, headers={header: text})


def send_bad_requests(sender: Sender, secrets: Canaries) -> None:
    """Secrets in heads: credentials, headers, queries, paths, methods, and what is no HTTP at all."""
    for where in ("Authorization", "X-Project-Id", "Cookie", "User-Agent", "Referer", "X-Request-Id", "Host", "Accept"):
        sender.send(
            f"header {where}", headers={where: secrets.text(f"header {where}").encode("ascii", "ignore").decode()}
        )
    for scheme in ("Bearer", "Basic", "bearer", ""):
        where = f"credential, {scheme or 'no scheme'}"
        assert sender.send(where, key=None, headers={"Authorization": f"{scheme} {secrets.pick(where)}".strip()}) == 401
    sender.send(
        "unknown key",
        key="pk_" + secrets.api_key("unknown key").partition("_")[2].replace("live_", "")[:32] + "aA1bB2cC",
    )
    sender.send("header name", headers={secrets.card("header name"): "x"})
    body = event(metadata={"a": secrets.text("body without a key")})
    assert sender.send("body without a key", "POST", EVENTS, body, key=None) == 401
    names = (
        "search",
        "actor_id",
        "tenant_id",
        "action",
        "target_id",
        "category",
        "cursor",
        "start_date",
        "project_id",
        "limit",
    )
    for name in (*names, "order", "actor_type", "x"):
        where = f"query {name}"
        sender.send(where, target=f"{EVENTS}?{name}={quote(secrets.pick(where))}")
        sender.send(where, target=f"{EVENTS}?{name}={quote(secrets.text(where))}")
    for _ in range(6):
        where = "name in a query"
        assert sender.send(where, target=f"{EVENTS}?{quote(secrets.pick(where))}=1") == 400
        sender.send(where, target=f"{EVENTS}?{quote(secrets.text(where))}=1&a=%zz")
        name = quote(secrets.pick(where))
        assert sender.send(where, target=f"{EVENTS}?{name}=1&{name}=2") == 400
    for path in (
        "/{}",
        "/api/v1/{}",
        f"{EVENTS}/{{}}",
        f"{KEYS}/{{}}",
        f"{RULES}/{{}}",
        "/claim?token={}",
        "//{}",
        "/docs/{}",
        "/%2F{}",
    ):
        for method in ("GET", "POST", "PUT", "DELETE"):
            where = f"{method} {path}"
            sender.send(where, method, path.format(quote(secrets.pick(where))), {}, key=sender.service.master_key)
    sender.send("method", secrets.aws("method"))
    sender.raw("no HTTP", secrets.text("no HTTP").encode() + b"\r\n\r\n")
    sender.raw("version", f"GET / HTTP/{secrets.card('version')}\r\n\r\n".encode())
    sender.raw("no colon", f"GET / HTTP/1.1\r\n{secrets.pick('no colon')}\r\n\r\n".encode())
    sender.raw(
        "long head", f"GET / HTTP/1.1\r\nHost: h\r\nX: {secrets.text('long head')}{'x' * 20000}\r\n\r\n".encode()
    )
    lengths = f"Content-Length: 1\r\nContent-Length: {secrets.card('two lengths')}"
    sender.raw("two lengths", f"POST / HTTP/1.1\r\nHost: h\r\n{lengths}\r\n\r\n".encode())
    sender.raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + secrets.text("HTTP/2").encode())
    ops = sender.service.ops_url
    for path in ("/{}", "/metrics/{}", "/health/actors/{}", "/metrics?x={}"):
        where = f"operations {path}"
        sender.send(where, target=path.format(quote(secrets.pick(where))), url=ops)


def send_to_others(sender: Sender, secrets: Canaries) -> None:
    """Samples for redaction, rules that are not saved, and bodies of the other endpoints that are refused."""
    master = sender.service.master_key
    sample = dict(next(one for where, one in stored_events(secrets) if where == "metadata, in a sentence"))
    tried = "/api/v1/redaction/test"
    assert sender.send("a sample", "POST", tried, {"event": sample}) == 200
    for where, one in stored_events(secrets):
        assert sender.send(f"a sample: {where}", "POST", tried, {"event": one}) == 200
    where = "a sample with an unsaved rule"
    word = secrets.card(where)
    rules = [{"type": "pattern", "pattern": word}]
    assert sender.send(where, "POST", tried, {"event": {"metadata": {"a": word}}, "rules": rules}) == 200
    assert sender.send("bad sample", "POST", tried, {"event": {secrets.pick("bad sample"): 1}}) == 400
    assert sender.send("bad sample", "POST", tried, {"event": {"metadata": secrets.text("bad sample")}}) == 400
    test = f"{RULES}/test"
    for where, rule in (
        ("pattern", {"type": "pattern", "pattern": f"x{secrets.card('pattern')}"}),
        ("fields", {"type": "field_redact", "fields": [f"metadata.{secrets.card('fields')}"]}),
    ):
        assert sender.send(f"laboratory, {where}", "POST", test, {"rule": {"name": "r", **rule}}, key=master) == 200
    everything = {"name": "r", "type": "pattern", "pattern": "[^x]+", "behavior": "mask"}
    assert sender.send("laboratory, everything", "POST", test, {"rule": everything}, key=master) == 200
    assert sender.last()["scanned"] > 0
    wrongs: list[tuple[str, dict[str, Any]]] = [
        ("bad pattern", {"rule": {"name": "r", "type": "pattern", "pattern": f"({secrets.card('bad pattern')}"}}),
        ("bad path", {"rule": {"name": "r", "type": "field_redact", "fields": [secrets.pick("bad path")]}}),
        ("bad type", {"rule": {"name": "r", "type": secrets.pick("bad type")}}),
        ("bad date", {"rule": everything, "start_date": secrets.pick("bad date")}),
        ("bad cursor", {"rule": everything, "cursor": secrets.pick("bad cursor")}),
        ("unknown member", {"rule": everything, secrets.pick("unknown member"): 1}),
    ]
    for where, wrong in wrongs:
        assert sender.send(f"laboratory, {where}", "POST", test, wrong, key=master) == 400, sender.answers[-1]
        assert sender.send(f"rule, {where}", "POST", RULES, wrong, key=master) == 400
    for where, wrong in wrongs[:3]:
        assert sender.send(f"rule, {where}", "POST", RULES, wrong["rule"], key=master) == 400, sender.answers[-1]
    for target in (KEYS, PROJECTS):
        where = f"POST {target}"
        wrong = {"name": [secrets.pick(where)], secrets.pick(where): secrets.text(where), "type": secrets.pick(where)}
        assert sender.send(where, "POST", target, wrong, key=master) == 400


def send_to_streams(sender: Sender, secrets: Canaries) -> None:
    """Anonymous events, which only built-in rules look at, and a claim that makes them the project's."""
    token = str(uuid.UUID(int=secrets.rng.getrandbits(128), version=4))
    stream = f"/api/v1/streams/{token}/events"
    kinds = ("card", "spaced_card", "wide_card", "hidden_card", "ssn", "aws", "jwt", "bearer", "api_key")
    for kind in kinds:
        where = f"stream, {kind}"
        one = event(metadata={"a": getattr(secrets, kind)(where), getattr(secrets, kind)(where): [1]})
        assert sender.send(where, "POST", stream, one, key=None) == 201, sender.answers[-1]
        wrong = {**one, getattr(secrets, kind)(f"bad {where}"): 1}
        assert sender.send(f"bad {where}", "POST", stream, wrong, key=None) == 400
        sender.send(f"bad token, {kind}", "POST", f"/api/v1/streams/{quote(getattr(secrets, kind)(where))}/events", one)
    assert sender.send("stream, info", target=f"/api/v1/streams/{token}/info", key=None) == 200
    claim = {"token": token, "project_id": sender.service.project_id}
    master = sender.service.master_key
    for name in ("token", "project_id"):
        wrong = {**claim, name: secrets.pick(f"claim, {name}")}
        assert sender.send(f"claim, bad {name}", "POST", "/api/v1/streams/claim", wrong, key=master) == 400
    assert sender.send("claim", "POST", "/api/v1/streams/claim", claim, key=master) == 200
    # The stream's token is a secret, too, once it is not in the request's own path.
    secrets.remember("stream token", token)


def raise_an_alert(sender: Sender, secrets: Canaries) -> None:
    """An alert about actors whose ids were taken out."""
    failed = {"action": "auth.failed"}
    for _ in range(5):
        where = "who failed to log in"
        assert (
            sender.send(where, "POST", EVENTS, event(**failed, actor={"id": secrets.card(where), "type": "user"}))
            == 201
        )
    wait_until(lambda: sender.send("alerts", target="/api/v1/alerts") == 200 and sender.last()["alerts"], seconds=30)
    assert sender.last()["alerts"][0]["group_key"] == "[REDACTED]"


def send_to_alerts(sender: Sender, secrets: Canaries) -> None:
    """Whatever is refused about alert rules, webhooks, tokens and tiers."""
    master = sender.service.master_key
    rule = {"name": "r", "action_pattern": "*", "threshold": 5, "window_seconds": 60, "group_by": "actor_id"}
    for path, good in (
        ("/api/v1/alerts/rules", {**rule, "severity": "low"}),
        ("/api/v1/alerts/rules/test", {"rule": {**rule, "severity": "low"}}),
        ("/api/v1/webhooks", {"url": "https://example.com/hook"}),
        ("/api/v1/tiers", {"name": "t", "hidden_fields": ["metadata.a"]}),
    ):
        for name in good:
            where = f"{path}, bad {name}"
            if name != "name":
                assert sender.send(where, "POST", path, {**good, name: [secrets.pick(where)]}, key=master) == 400, where
            assert sender.send(where, "POST", path, {**good, secrets.pick(where): 1}, key=master) == 400, where
    for url in ("http://{}/", "https://{}@example.com/", "https://10.0.0.1/{}", "ftp://example.com/{}"):
        where = f"webhook {url}"
        wrong = {"url": url.format(quote(secrets.pick(where)))}
        assert sender.send(where, "POST", "/api/v1/webhooks", wrong, key=master) == 400, where
    token = {"tenant_id": "acme", "tier": secrets.pick("tier of a token")}
    assert sender.send("tier of a token", "POST", "/api/v1/viewer-tokens", token) == 400
    for prefix in ("vt_", "vt_eyJhbGciOiJIUzI1NiJ9."):
        where = f"viewer token, {prefix}"
        headers = {"Authorization": f"Bearer {prefix}{quote(secrets.pick(where))}"}
        assert sender.send(where, key=None, headers=headers) == 401


def send_while_backends_end(sender: Sender, secrets: Canaries, database: str) -> None:
    """Events whose transactions are cut in the middle, as often as it happens."""
    with psycopg.connect(database, autocommit=True) as conn:
        for n in range(5):
            where = "while backends end"
            conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'logstitch'")
            one = event(metadata={"a": secrets.text(where)}, idempotency_key=f"cut-{n}")
            assert sender.send(where, "POST", EVENTS, one) in (201, 503)


def fill_a_part(sender: Sender, secrets: Canaries) -> None:
    """As many events as it takes for the words to be indexed, one in ten with a secret."""
    numbers = count()
    for _ in range(PART_EVENTS // 100 + 1):
        batch = [
            event(metadata={"note": secrets.text("indexed") if next(numbers) % 10 == 0 else "nothing"})
            for _ in range(100)
        ]
        assert sender.send("indexed", "POST", EVENTS, batch) == 201


# -- where it is searched for --------------------------------------------------------------------------------------


def database_of(data: Path) -> str:
    """The URL of the embedded server's database, for its superuser: from what the server says of itself."""
    lines = (data / "postgres" / "postmaster.pid").read_text().splitlines()
    return f"host={lines[4]} port={lines[3]} user=postgres dbname=logstitch"


def sweep_tables(search: Search, database: str) -> Iterator[Finding]:
    """Every column of every table of ours, as text; bytes as bytes."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("SET client_encoding = 'UTF8'")
        columns = conn.execute(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert {("events", "body"), ("word_blocks", "block"), ("redaction_rules", "pattern")} <= {
            (table, column) for _, table, column, _ in columns
        }
        for schema, table, column, kind in columns:
            cast = sql.SQL("{}") if kind == "bytea" else sql.SQL("convert_to({}::text, 'UTF8')")
            query = sql.SQL("SELECT " + "{} FROM {} WHERE {} IS NOT NULL").format(
                cast.format(sql.Identifier(column)), sql.Identifier(schema, table), sql.Identifier(column)
            )
            values = b"\n".join(bytes(value) for (value,) in conn.execute(query))
            yield from search.find(values, f"table {table}.{column}")


def sweep_files(search: Search, data: Path) -> Iterator[Finding]:
    """Every file of the data directory, PostgreSQL's log and write-ahead log among them, but not its programs."""
    files = [
        path
        for path in sorted(data.rglob("*"))
        if path.is_file() and not path.is_symlink() and not path.relative_to(data).parts[0].startswith("postgresql-")
    ]
    names = {path.name for path in files} | {path.parent.name for path in files}
    assert {"postgres.log", "pg_wal", "base"} <= names | {path.parent.parent.name for path in files}
    for path in files:
        content = path.read_bytes().rstrip(b"\0")
        yield from search.find(content, f"file {path.relative_to(data)}")


def sweep_pages(search: Search, sender: Sender) -> Iterator[Finding]:
    """Metrics, and every page about health."""
    ops = sender.service.ops_url
    pages = ["/metrics", "/health/live", "/health/ready", "/health/actors"]
    before = len(sender.answers)
    for page in pages:
        assert sender.send(page, target=page, key=None, url=ops) == 200
    for path in re.findall(rb'"path":"([^"]+)"', sender.answers[-1][2]):
        assert sender.send("actor", target=f"/health/actors/{path.decode()}", key=None, url=ops) == 200
    for label, _, text in sender.answers[before:]:
        yield from search.find(text, f"operations page {label}")


@contextmanager
def a_service(*command: str) -> Iterator[tuple[Service, Path]]:
    """A service with a data directory of its own, at log level debug."""
    data = scratch_directory()
    try:
        with running_service(
            "--data", str(data), "--log-level", "debug", command=command or ("-m", "logstitch")
        ) as service:
            yield service, data
            if service.process.poll() is None:
                service.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def swept(*command: str, whole: bool) -> tuple[list[Finding], Canaries]:
    """Everything that is found. Without ``whole``: no words are indexed, no backend is ended."""
    secrets = Canaries(random.Random(20261123))
    with a_service(*command) as (service, data):
        database = database_of(data)
        sender = Sender(service)
        make_rules(sender)
        send_events(sender, secrets)
        send_bad_bodies(sender, secrets)
        send_bad_requests(sender, secrets)
        send_to_others(sender, secrets)
        send_to_streams(sender, secrets)
        send_to_alerts(sender, secrets)
        if whole:
            send_while_backends_end(sender, secrets, database)
            raise_an_alert(sender, secrets)
            fill_a_part(sender, secrets)
            wait_until(lambda: _has_words(database), seconds=60)
        for target in (f"{EVENTS}?limit=100", f"{EVENTS}?search=line", RULES, KEYS):
            assert sender.send("read back", target=target) == 200
        assert not [label for label, status, _ in sender.answers if status == 500]
        search = Search(secrets.all)
        found = [
            finding for label, _, answer in sender.answers for finding in search.find(answer, f"answer to {label}")
        ]
        found += sweep_pages(search, sender)
        found += sweep_tables(search, database)
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("CHECKPOINT")
        service.stop()
        found += search.find(service.log_text().encode(), "the service's log")
        assert service.log_text().count('"event":"request"') > 200
        found += sweep_files(search, data)
    return found, secrets


def _has_words(database: str) -> bool:
    with psycopg.connect(database) as conn:
        return conn.execute("SELECT EXISTS (SELECT FROM word_blocks)").fetchone() == (True,)


def _told(found: list[Finding]) -> str:
    return "\n".join(dict.fromkeys(map(str, found)))


def test_no_secret_is_found_anywhere() -> None:
    found, secrets = swept(whole=True)

    assert len(secrets.all) > 1000
    assert {canary.kind for canary in secrets.all} >= {
        "card",
        "ssn",
        "aws",
        "jwt",
        "bearer",
        "api key",
        "word",
        "value",
    }
    assert not found, _told(found)


@pytest.mark.parametrize(
    ("leak", "places", "only"),
    [
        (
            "no_redaction",
            ["table events.body", "file postgres/base", "file postgres/pg_wal", "answer to read back"],
            "",
        ),
        ("chatty_log", ["the service's log"], "the service's log"),
        ("echoed_names", ["answer to unknown field", "answer to name in a query"], "answer to "),
        ("routes_by_path", ["operations page /metrics"], "operations page /metrics"),
    ],
)
def test_a_leak_is_found(leak: str, places: list[str], only: str) -> None:
    found, _ = swept("-m", "tests.support.leaks", leak, whole=False)

    for place in places:
        assert any(finding.place.startswith(place) for finding in found), f"{leak} is not seen in {place}"
    assert all(finding.place.startswith(only) for finding in found), _told(found)
