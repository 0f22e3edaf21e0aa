"""What the event that tells of a change of settings says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from logstitch.model import EVENT
from logstitch.recording.audit import Amendment, audit_event

ADA = UUID(int=7)
OLD = {"name": "support", "hidden_fields": []}
NEW = {"name": "support", "hidden_fields": ["context"]}

Settings = Mapping[str, Any] | None


def told(before: Settings, after: Settings, **verb: str) -> dict[str, Any]:
    return audit_event("tier", "t1", "support", before, after, ADA, **verb)


@pytest.mark.parametrize(
    ("before", "after", "verb"), [(None, NEW, "created"), (OLD, NEW, "updated"), (OLD, None, "deleted")]
)
def test_the_action_says_what_was_done(before: Settings, after: Settings, verb: str) -> None:
    event = told(before, after)

    assert event["action"] == f"logstitch.tier.{verb}"
    EVENT.validate_python({**event, "tenant_id": "any but the reserved one"})


def test_what_has_a_better_name_goes_by_it() -> None:
    assert told(OLD, NEW, verb="claimed") == told(OLD, NEW) | {"action": "logstitch.tier.claimed"}


def test_it_names_what_has_changed_and_nothing_else() -> None:
    assert told(OLD, NEW)["changes"] == [{"field": "hidden_fields", "before": [], "after": ["context"]}]
    assert told(None, {"name": "a"})["changes"] == [{"field": "name", "after": "a"}]
    assert told({"name": "a"}, None)["changes"] == [{"field": "name", "before": "a"}]


def test_a_change_is_of_what_is_there_then_or_was_there_before() -> None:
    assert Amendment(None, "new").subject == Amendment("old", "new").subject == "new"
    assert Amendment("old", None).subject == "old"
    nothing: Amendment[str] = Amendment(None, None)
    with pytest.raises(ValueError, match="a change of nothing"):
        _ = nothing.subject
