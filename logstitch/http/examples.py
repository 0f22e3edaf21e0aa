"""The examples that the documentation shows, together so that they tell one story. A test holds them to the schemas."""

from __future__ import annotations

from typing import Any, Final

REQUEST_ID: Final = "req_01KARHK7T0C8Q2M4V6X9Z1B3D5"
PROJECT_ID: Final = "0b9d7c1e-5f0a-4d3c-9a52-6c1f0e8b7a41"
KEY_ID: Final = "5d2f9f0e-7c44-4f5b-8a0e-1b6a3c9d2e70"
TIME: Final = "2026-11-23T08:00:00.123Z"
MORE: Final[dict[str, Any]] = {
    "cursor": "AAABmq8zF_sBmq8zF_t1Xv3kQm9LcR5w0xk2JtB8dPa4GeU0iTnBrQ7V",
    "has_more": True,
}
LAST: Final[dict[str, Any]] = {"cursor": None, "has_more": False}

EVENT_IN: Final[dict[str, Any]] = {
    "action": "user.role.updated",
    "category": "admin",
    "actor": {"id": "usr_42", "type": "user", "name": "Ada Lovelace"},
    "tenant_id": "acme",
    "target": {"id": "usr_77", "type": "user", "name": "Grace Hopper"},
    "context": {"ip_address": "203.0.113.42"},
    "metadata": {"reason": "promotion", "ticket": 4711},
    "changes": [{"field": "role", "before": "member", "after": "admin"}],
    "idempotency_key": "7f3c2a90-1c1e-4b7e-9d51-2b8f7d0c9a11",
    "occurred_at": TIME,
}
SMALL_EVENT_IN: Final[dict[str, Any]] = {
    "action": "auth.login",
    "category": "auth",
    "actor": {"id": "usr_77", "type": "user"},
    "tenant_id": "acme",
}
EVENT: Final[dict[str, Any]] = {
    "id": "evt_01KARHK7T0C8Q2M4V6X9Z1B3D7",
    **EVENT_IN,
    "metadata": {"reason": "promotion", "ticket": 4711},
    "received_at": TIME,
    "content_hash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
KEY: Final[dict[str, Any]] = {
    "id": KEY_ID,
    "prefix": "pk_q7Vt",
    "type": "project",
    "name": "billing service, production",
    "project_id": PROJECT_ID,
}
RULE_ID: Final = "c1a7e0d2-94b6-4c58-8f31-7d2b9e6a0f45"
PATTERN_RULE_IN: Final[dict[str, Any]] = {
    "name": "Internal account numbers",
    "type": "pattern",
    "pattern": "ACCT-[0-9]{8}",
    "behavior": "mask",
}
FIELD_RULE_IN: Final[dict[str, Any]] = {
    "name": "Passwords and notes",
    "type": "field_redact",
    "fields": ["metadata.**.password", "changes.*.after"],
}
BUILTIN_RULE: Final[dict[str, Any]] = {
    "id": "builtin_credit_card",
    "type": "builtin",
    "builtin_id": "credit_card",
    "name": "Credit Card Number",
    "behavior": "replace",
    "enabled": True,
}
PATTERN_RULE: Final[dict[str, Any]] = {"id": RULE_ID, **PATTERN_RULE_IN, "enabled": True, "created_at": TIME}
SAMPLE_IN: Final[dict[str, Any]] = {
    "event": {"metadata": {"card": "4111 1111 1111 1111", "note": "moved from ACCT-20261123"}},
    "rules": [{"type": "pattern", "pattern": "ACCT-[0-9]{8}", "behavior": "mask"}],
}
SAMPLE_TRIED: Final[dict[str, Any]] = {
    "event": {"metadata": {"card": "[REDACTED]", "note": "moved from ****1123"}},
    "redacted_count": 2,
    "redactions": [
        {
            "field": "metadata.card",
            "rule_id": "builtin_credit_card",
            "rule_name": "Credit Card Number",
            "behavior": "replace",
        },
        {"field": "metadata.note", "rule_id": "rules.0", "rule_name": "rules.0", "behavior": "mask"},
    ],
}
MEASURE_IN: Final[dict[str, Any]] = {"rule": PATTERN_RULE_IN, "start_date": "2026-11-01", "end_date": "2026-11-23"}
MEASURED: Final[dict[str, Any]] = {
    "scanned": 48211,
    "events_changed": 2,
    "fields_changed": 3,
    "fields": [{"field": "changes.*.after", "count": 2}, {"field": "metadata.note", "count": 1}],
    "samples": [
        {
            "id": "evt_01KARHK7T0C8Q2M4V6X9Z1B3D7",
            "occurred_at": TIME,
            "field": "metadata.note",
            "before": "moved from ACCT-20261123",
            "after": "moved from ****1123",
        }
    ],
    "complete": True,
    **LAST,
}
PROJECT: Final[dict[str, Any]] = {"id": PROJECT_ID, "name": "Billing", "created_at": TIME}
ACTOR: Final[dict[str, Any]] = {
    "path": "ingest/7",
    "state": "running",
    "restarts": 0,
    "last_error": None,
    "depth": 0,
    "capacity": 1000,
    "peak": 12,
    "oldest_age": 0.0,
    "handled": 48211,
    "rejected": 0,
    "last_progress_age": 0.004,
    "in_flight": 0,
}
