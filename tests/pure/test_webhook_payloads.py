"""What receivers are sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st

from logstitch.detection.alerts import alert_fields
from logstitch.webhooks.payloads import WebhookEvent, alert_body, trial_body
from tests.support.webhooks import alert

PROJECT = UUID("0b9d7c1e-5f0a-4d3c-9a52-6c1f0e8b7a41")
NOW = datetime(2026, 11, 23, 9, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1)))


@given(kind=st.sampled_from(WebhookEvent), key=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_body_says_what_happened_when_and_to_which_alert(kind: WebhookEvent, key: str) -> None:
    told = alert(group_key=key)

    body = alert_body(kind, PROJECT, told, NOW)

    assert orjson.loads(body) == {
        "type": kind.value,
        "timestamp": "2026-11-23T08:00:00.123Z",
        "data": {"project_id": str(PROJECT), "alert": alert_fields(told)},
    }


def test_a_test_message_has_a_type_of_its_own() -> None:
    body = orjson.loads(trial_body(PROJECT, UUID(int=5), NOW.astimezone(UTC)))

    assert body == {
        "type": "webhook.test",
        "timestamp": "2026-11-23T08:00:00.123Z",
        "data": {"project_id": str(PROJECT), "webhook_id": "whk_00000000000000000000000005"},
    }
    assert body["type"] not in set(WebhookEvent)
