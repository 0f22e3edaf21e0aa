"""Turns public webhook payloads into audit events: one payload, one event, nothing invented.

    python ops/corpus/make.py PATH_TO_PACKAGE [--output FILE]

``PATH_TO_PACKAGE`` is the unpacked npm package ``@octokit/webhooks-examples`` (the directory or its ``.tgz``). The
output is gzipped NDJSON, the same bytes for the same input: order of the package, sorted keys, no time stamp.
What each field is made of stands in ``README.md`` beside this file.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

INDEX = "api.github.com/index.json"
OUTPUT = Path(__file__).parents[2] / "tests" / "support" / "corpus" / "github-events.ndjson.gz"

METADATA_BYTES = 32 * 1024
METADATA_DEPTH = 16
NAME_LENGTH = 256
CLIPPED_STRING = 1_000
"""How much of a long text a reduced payload keeps, in code points."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of webhook reads as an audit event: ``subject`` is the payload's member that it is about."""

    category: str
    subject: str | None
    type: str


# auth: proving who one is. access: who may reach what. mutation: content changed. admin: how things are set up.
# security: protection and findings. system: machines at work.
KINDS: dict[str, Kind] = {
    "branch_protection_rule": Kind("security", "rule", "branch_protection_rule"),
    "check_run": Kind("system", "check_run", "check_run"),
    "check_suite": Kind("system", "check_suite", "check_suite"),
    "code_scanning_alert": Kind("security", "alert", "code_scanning_alert"),
    "commit_comment": Kind("mutation", "comment", "commit_comment"),
    "create": Kind("mutation", None, "ref"),
    "delete": Kind("mutation", None, "ref"),
    "dependabot_alert": Kind("security", "alert", "dependabot_alert"),
    "deploy_key": Kind("access", "key", "deploy_key"),
    "deployment": Kind("system", "deployment", "deployment"),
    "deployment_review": Kind("system", "workflow_run", "workflow_run"),
    "deployment_status": Kind("system", "deployment_status", "deployment_status"),
    "discussion": Kind("mutation", "discussion", "discussion"),
    "discussion_comment": Kind("mutation", "comment", "discussion_comment"),
    "fork": Kind("access", "forkee", "repository"),
    "github_app_authorization": Kind("auth", None, "authorization"),
    "gollum": Kind("mutation", None, "page"),
    "installation": Kind("admin", "installation", "installation"),
    "installation_repositories": Kind("access", "installation", "installation"),
    "issue_comment": Kind("mutation", "comment", "issue_comment"),
    "issues": Kind("mutation", "issue", "issue"),
    "label": Kind("mutation", "label", "label"),
    "marketplace_purchase": Kind("admin", "marketplace_purchase", "marketplace_purchase"),
    "member": Kind("access", "member", "user"),
    "membership": Kind("access", "member", "user"),
    "merge_group": Kind("system", "merge_group", "merge_group"),
    "meta": Kind("admin", "hook", "hook"),
    "milestone": Kind("mutation", "milestone", "milestone"),
    "org_block": Kind("access", "blocked_user", "user"),
    "organization": Kind("access", "organization", "organization"),
    "package": Kind("mutation", "package", "package"),
    "page_build": Kind("system", "build", "page_build"),
    "ping": Kind("system", "hook", "hook"),
    "project": Kind("mutation", "project", "project"),
    "project_card": Kind("mutation", "project_card", "project_card"),
    "project_column": Kind("mutation", "project_column", "project_column"),
    "projects_v2_item": Kind("mutation", "projects_v2_item", "projects_v2_item"),
    "public": Kind("admin", "repository", "repository"),
    "pull_request": Kind("mutation", "pull_request", "pull_request"),
    "pull_request_review": Kind("mutation", "review", "pull_request_review"),
    "pull_request_review_comment": Kind("mutation", "comment", "pull_request_review_comment"),
    "pull_request_review_thread": Kind("mutation", "thread", "pull_request_review_thread"),
    "push": Kind("mutation", None, "ref"),
    "release": Kind("mutation", "release", "release"),
    "repository": Kind("admin", "repository", "repository"),
    "repository_dispatch": Kind("system", "repository", "repository"),
    "repository_import": Kind("admin", "repository", "repository"),
    "repository_vulnerability_alert": Kind("security", "alert", "vulnerability_alert"),
    "security_advisory": Kind("security", "security_advisory", "security_advisory"),
    "sponsorship": Kind("admin", "sponsorship", "sponsorship"),
    "star": Kind("access", "repository", "repository"),
    "status": Kind("system", "commit", "commit"),
    "team": Kind("access", "team", "team"),
    "team_add": Kind("access", "team", "team"),
    "watch": Kind("access", "repository", "repository"),
    "workflow_dispatch": Kind("system", None, "workflow"),
    "workflow_job": Kind("system", "workflow_job", "workflow_job"),
    "workflow_run": Kind("system", "workflow_run", "workflow_run"),
}

ACTOR_TYPES = {"User": "user", "Bot": "service", "Organization": "service"}

IDENTITIES = ("id", "ghsa_id", "sha", "head_sha", "node_id", "number", "ref", "path", "login", "url")
NAMES = ("title", "display_title", "full_name", "name", "login", "tag_name", "summary", "pattern")

# Moments that lie in the past when the webhook is sent; due_on, expires_at and the like are plans, not history.
# effective_date is the one moment of a marketplace purchase; where it can be a plan, the subject bears a better one.
MOMENTS = frozenset(
    {
        "answer_chosen_at",
        "archived_at",
        "closed_at",
        "completed_at",
        "created_at",
        "date",
        "dismissed_at",
        "effective_date",
        "fixed_at",
        "published_at",
        "pushed_at",
        "run_started_at",
        "since",
        "starred_at",
        "started_at",
        "submitted_at",
        "suspended_at",
        "timestamp",
        "updated_at",
        "withdrawn_at",
    }
)
RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def canonical(value: object) -> bytes:
    """The bytes that sizes and identities are counted over: sorted keys, no white space."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def depth(value: object) -> int:
    """Levels of nesting; a scalar has none."""
    if isinstance(value, dict):
        return 1 + max((depth(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth(item) for item in value), default=0)
    return 0


def read_kinds(package: Path) -> list[Json]:
    """The package's index: a list of ``{name, examples: [payload, …]}``."""
    if package.is_dir():
        text = (package / INDEX).read_bytes()
    else:
        with tarfile.open(package) as archive:
            member = archive.extractfile(f"package/{INDEX}")
            if member is None:
                raise SystemExit(f"{package}: no {INDEX} inside")
            text = member.read()
    kinds: list[Json] = json.loads(text)
    return kinds


def action_of(kind: str, payload: Json) -> str:
    """``issues.opened``; ``push.received`` for a kind without actions."""
    verb = re.sub(r"[^a-z0-9_]+", "_", str(payload.get("action") or "received").lower()).strip("_")
    return f"{kind}.{verb}"


def actor_of(payload: Json) -> Json:
    """Who did it; a payload without sender was made by the platform itself."""
    sender = payload.get("sender")
    if not sender:
        return {"id": "github", "type": "system", "name": "GitHub"}
    actor = {"id": str(sender["id"]), "type": ACTOR_TYPES[sender["type"]], "name": sender["login"]}
    pusher = payload.get("pusher")
    if isinstance(pusher, dict) and pusher.get("name") == sender["login"] and pusher.get("email"):
        actor["email"] = pusher["email"]
    return actor


def tenant_of(payload: Json) -> str:
    """The account it happened in: organization, else owner of the repository, else whose account it concerns."""
    sponsored = (payload.get("sponsorship") or {}).get("sponsorable")
    accounts = [
        payload.get("organization"),
        (payload.get("repository") or {}).get("owner"),
        (payload.get("installation") or {}).get("account"),
        (payload.get("marketplace_purchase") or {}).get("account"),
        sponsored,
        payload.get("sender"),
    ]
    return next((str(account["login"]) for account in accounts if account and account.get("login")), "github")


def subject_of(kind: Kind, payload: Json) -> Json:
    """The object that the event is about, in the shape that ``IDENTITIES`` and ``NAMES`` are looked up in."""
    if kind.subject is not None:
        found = payload.get(kind.subject)
        return dict(found) if isinstance(found, dict) else {}
    if kind.type == "page":
        return dict(payload["pages"][0])
    if kind.type == "workflow":
        return {"path": payload["workflow"], "name": payload["workflow"]}
    if kind.type == "ref":
        return {"ref": payload["ref"], "name": payload["ref"]}
    return {}


def target_of(kind: Kind, payload: Json, clipped: Counter[str]) -> Json | None:
    """What it was done to, or nothing where the payload names nothing."""
    subject = subject_of(kind, payload)
    field = next((name for name in IDENTITIES if subject.get(name) not in (None, "")), None)
    if field is None:
        return None
    identity = str(subject[field])
    if field == "number":  # unique inside its repository only
        identity = f"{payload['repository']['full_name']}#{identity}"
    target = {"id": identity, "type": str(payload.get("ref_type") or kind.type)}
    name = next((subject[name] for name in NAMES if isinstance(subject.get(name), str) and subject[name]), None)
    if name is not None:
        target["name"] = name[:NAME_LENGTH]
        clipped["target.name"] += len(name) > NAME_LENGTH
    return target


def moments(record: Json) -> Iterator[tuple[datetime, str]]:
    """Every past moment that ``record`` itself (not its members) bears, with the text to send for it."""
    for name in sorted(MOMENTS & record.keys()):
        value = record[name]
        if isinstance(value, int) and not isinstance(value, bool):  # some payloads carry Unix seconds
            when = datetime.fromtimestamp(value, UTC)
            yield when, when.isoformat().replace("+00:00", "Z")
        elif isinstance(value, str) and RFC3339.fullmatch(value):
            yield datetime.fromisoformat(value), value


def occurred_at_of(kind: Kind, payload: Json) -> str | None:
    """The latest moment of the subject; else of the payload's head commit or top level; else of the repository."""
    head = payload.get("head_commit")
    for record in (subject_of(kind, payload), head, payload, payload.get("repository")):
        if isinstance(record, dict) and (found := max(moments(record), default=None)):
            return found[1]
    return None


def changes_of(kind: Kind, payload: Json) -> list[Json]:
    """The payload's ``changes`` as before and after; the after is the subject's present value where it has one."""
    changes = payload.get("changes")
    if not isinstance(changes, dict):
        return []
    subject = subject_of(kind, payload)
    found = []
    for field, change in changes.items():
        if isinstance(change, dict) and "from" in change:
            found.append({"field": field, "before": change["from"], "after": change.get("to", subject.get(field))})
    return found


def reduced(payload: Json) -> Json:
    """A payload over the limits, made to fit: links dropped, long texts clipped, too deep levels emptied."""

    def shrink(value: object, level: int) -> object:
        if isinstance(value, dict):
            if level > METADATA_DEPTH:
                return None
            kept = {k: v for k, v in value.items() if not (k in ("url", "_links") or k.endswith("_url"))}
            return {k: shrink(v, level + 1) for k, v in kept.items()}
        if isinstance(value, list):
            return None if level > METADATA_DEPTH else [shrink(item, level + 1) for item in value]
        return value[:CLIPPED_STRING] if isinstance(value, str) else value

    smaller = {key: shrink(value, 2) for key, value in payload.items()}
    if len(canonical(smaller)) > METADATA_BYTES:
        smaller = {key: value for key, value in smaller.items() if not isinstance(value, dict | list)}
    return smaller


def event_of(name: str, payload: Json, counts: Counter[str]) -> Json:
    """One payload as one event of the wire contract. ``counts`` gathers what had to be cut or left out."""
    kind = KINDS[name]
    event: Json = {
        "action": action_of(name, payload),
        "category": kind.category,
        "actor": actor_of(payload),
        "tenant_id": tenant_of(payload),
        "metadata": payload,
        "idempotency_key": f"github:{name}:{hashlib.sha256(canonical(payload)).hexdigest()[:32]}",
    }
    if len(canonical(payload)) > METADATA_BYTES or depth(payload) > METADATA_DEPTH:
        event["metadata"] = reduced(payload)
        counts["metadata reduced"] += 1
    if target := target_of(kind, payload, counts):
        event["target"] = target
    else:
        counts["no target"] += 1
    if occurred_at := occurred_at_of(kind, payload):
        event["occurred_at"] = occurred_at
    else:
        counts["no occurred_at"] += 1
    if changes := changes_of(kind, payload):
        event["changes"] = changes
    return event


def make(package: Path, counts: Counter[str]) -> bytes:
    """The corpus of the unpacked (or packed) npm package as gzip bytes."""
    lines = []
    identities: set[str] = set()
    for kind in read_kinds(package):
        for payload in kind["examples"]:
            event = event_of(kind["name"], payload, counts)
            counts["redeliveries"] += event["idempotency_key"] in identities
            identities.add(event["idempotency_key"])
            counts["events"] += 1
            lines.append(canonical(event))
        counts["kinds"] += 1
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=9, mtime=0) as stream:
        stream.write(b"\n".join(lines) + b"\n")
    return packed.getvalue()


def main(arguments: list[str]) -> int:
    """Writes the corpus and prints what was made of how much."""
    parser = argparse.ArgumentParser(description="Make the corpus of real events from @octokit/webhooks-examples.")
    parser.add_argument("package", type=Path, help="the unpacked package directory, or its .tgz")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    counts: Counter[str] = Counter()
    packed = make(options.package, counts)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(packed)
    for what in ("events", "kinds", "redeliveries", "metadata reduced", "target.name", "no target", "no occurred_at"):
        print(f"{counts[what]:6} {what}")
    print(f"{len(packed):6} bytes in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
