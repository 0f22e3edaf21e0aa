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
ALERT_RULE_ID: Final = "8e4f1d60-3b7a-4a59-b0c8-52d9e1f7a364"
BUILTIN_ALERT_RULE: Final[dict[str, Any]] = {
    "id": "auth_brute_force",
    "type": "builtin",
    "name": "Auth Brute Force",
    "action_pattern": "auth.failed*",
    "threshold": 5,
    "window_seconds": 300,
    "group_by": "actor_id",
    "severity": "high",
    "enabled": True,
    "cooldown_seconds": 3600,
}
# Somebody guesses the password of usr_77. The built-in sees it; a rule for all of a tenant's users shall see it, too.
ALERT_RULE_IN: Final[dict[str, Any]] = {
    "name": "Password guessing across a tenant",
    "action_pattern": "auth.failed*",
    "threshold": 20,
    "window_seconds": 120,
    "group_by": "tenant_id",
    "severity": "critical",
}
ALERT_RULE: Final[dict[str, Any]] = {
    "id": ALERT_RULE_ID,
    "type": "custom",
    **ALERT_RULE_IN,
    "enabled": True,
    "cooldown_seconds": 3600,
    "created_at": TIME,
}
ALERT: Final[dict[str, Any]] = {
    "id": "alr_01KARHK7T0C8Q2M4V6X9Z1B3D9",
    "rule_id": "auth_brute_force",
    "rule_name": "Auth Brute Force",
    "severity": "high",
    "status": "open",
    "group_by": "actor_id",
    "group_key": "usr_77",
    "tenant_id": "acme",
    "event_count": 5,
    "event_ids": [
        "evt_01KARHHCHRQD1A0QAC5MTZFR31",
        "evt_01KARHHV680SMEYJ6D8N9P9XGC",
        "evt_01KARHJ9TRKPQTT82F7J1ZC8T2",
        "evt_01KARHJRF8R5BHCWH5SEVYG3TB",
        "evt_01KARHK7T0C8Q2M4V6X9Z1B3D8",
    ],
    "threshold": 5,
    "window_seconds": 300,
    "triggered_at": TIME,
    "acknowledged_at": None,
    "resolved_at": None,
}
ACKNOWLEDGED_ALERT: Final[dict[str, Any]] = {
    **ALERT,
    "status": "acknowledged",
    "acknowledged_at": "2026-11-23T08:02:41.007Z",
}
REPLAY_IN: Final[dict[str, Any]] = {
    "rule": ALERT_RULE_IN,
    "rule_id": "auth_brute_force",
    "start_date": "2026-11-16",
    "end_date": "2026-11-23",
}
REPLAYED: Final[dict[str, Any]] = {
    "scanned": 48211,
    "fired": 1,
    "held_back": 12,
    "alerts": [
        {"triggered_at": "2026-11-23T08:01:12.480Z", "group_key": "acme", "tenant_id": "acme", "event_count": 20}
    ],
    "existing": {
        "fired": 1,
        "held_back": 28,
        "alerts": [{"triggered_at": TIME, "group_key": "usr_77", "tenant_id": "acme", "event_count": 5}],
    },
    "complete": True,
    "through": None,
}
WEBHOOK_IN: Final[dict[str, Any]] = {
    "url": "https://hooks.acme.example/logstitch",
    "description": "on-call pager",
    "min_severity": "high",
    "events": ["alert.triggered"],
}
WEBHOOK: Final[dict[str, Any]] = {
    "id": "whk_01KARHK7T0C8Q2M4V6X9Z1B3E1",
    **WEBHOOK_IN,
    "enabled": True,
    "disabled_reason": None,
    "failing_since": None,
    "created_at": TIME,
}
WEBHOOK_WITH_SECRET: Final[dict[str, Any]] = {**WEBHOOK, "secret": "whsec_wqx3UmPz8rJ0bV5nK2tYd7aLs9HcEf4iGoXpQyRjTuE="}
# The pager was restarted just when the alert came.
DELIVERY: Final[dict[str, Any]] = {
    "id": "dlv_01KARHK7T0C8Q2M4V6X9Z1B3E2",
    "webhook_id": WEBHOOK["id"],
    "alert_id": ALERT["id"],
    "type": "alert.triggered",
    "status": "delivered",
    "attempts": [
        {
            "number": 1,
            "attempted_at": "2026-11-23T08:00:00.204Z",
            "duration_ms": 37,
            "response_status": 503,
            "error": "http_error",
        },
        {
            "number": 2,
            "attempted_at": "2026-11-23T08:00:05.391Z",
            "duration_ms": 58,
            "response_status": 204,
            "error": None,
        },
    ],
    "created_at": TIME,
    "next_attempt_at": None,
    "ended_at": "2026-11-23T08:00:05.455Z",
}
TEST_DELIVERY: Final[dict[str, Any]] = {
    **DELIVERY,
    "id": "dlv_01KARHK7T0C8Q2M4V6X9Z1B3E3",
    "alert_id": None,
    "type": "webhook.test",
    "status": "pending",
    "attempts": [],
    "next_attempt_at": TIME,
    "ended_at": None,
}
RETRIED_DELIVERY: Final[dict[str, Any]] = {
    **DELIVERY,
    "status": "pending",
    "next_attempt_at": "2026-11-23T08:09:30.000Z",
    "ended_at": None,
}
TIER_ID: Final = "2b6e9c74-5a1d-4f3e-8c07-94d1f0b3a652"
# A customer's support staff may see who did what, but not from where.
TIER_IN: Final[dict[str, Any]] = {
    "name": "support",
    "categories": ["auth", "admin"],
    "hidden_fields": ["actor.email", "context.ip_address", "metadata.**.internal"],
}
TIER: Final[dict[str, Any]] = {"id": TIER_ID, **TIER_IN, "actions": None, "created_at": TIME}
VIEWER_TOKEN_IN: Final[dict[str, Any]] = {"tenant_id": "acme", "tier": "support", "expires_in": 900}
VIEWER_TOKEN: Final[dict[str, Any]] = {
    "token": "vt_eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ0aWQiOiJhY21lIn0.q5Xk0b3m9LcR5w0xk2JtB8dPa4GeU0iTnBrQ7V1fZ8M",
    "expires_at": "2026-11-23T08:15:00.000Z",
}
STREAM: Final[dict[str, Any]] = {
    "status": "active",
    "event_count": 43,
    "created_at": "2026-11-21T17:40:03.512Z",
    "last_event_at": TIME,
    "expires_at": "2026-11-28T17:40:03.512Z",
    "claimed_at": None,
}
CLAIM_IN: Final[dict[str, Any]] = {"token": "3f0e6b1c-8d2a-4c57-9b64-0a1f7e5d2c38", "project_id": PROJECT_ID}
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
    "gauges": {},
}
