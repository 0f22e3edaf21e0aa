"""The ledger's verdict: what was acknowledged against what is there."""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from logstitch.ids import event_id_text
from logstitch.loadtest.ledger import EXAMPLES, Ledger, Tally, difference, pack_id
from logstitch.loadtest.report import Report


def packed(n: int) -> bytes:
    """The id that the service gives event ``n`` in these tests."""
    return (2**120 + n).to_bytes(16, "big")


def ledger(count: int = 4) -> Ledger:
    """A run of ``count`` events, all acknowledged."""
    account = Ledger()
    account.send(0, count)
    account.acknowledge(0, [packed(n) for n in range(count)])
    return account


def test_everything_acknowledged_is_there() -> None:
    account = ledger(4)
    for n in range(4):
        account.find(n, packed(n))

    tally = account.tally()

    assert (tally.sent, tally.acked, tally.stored) == (4, 4, 4)
    assert (tally.lost, tally.duplicated, tally.unacked) == (0, 0, 0)
    assert tally.honest


def test_an_acknowledged_event_that_is_not_there_is_lost() -> None:
    account = ledger(4)
    for n in (0, 1, 3):
        account.find(n, packed(n))

    tally = account.tally()

    assert tally.lost == 1
    assert not tally.honest
    assert tally.examples["lost"] == (f"{event_id_text(packed(2))} (event 2)",)


def test_an_event_under_another_id_than_was_acknowledged_is_lost() -> None:
    account = ledger(1)
    account.find(0, packed(99))

    assert account.tally().lost == 1
    assert account.tally().stored == 1


def test_an_event_without_a_readable_id_is_lost() -> None:
    account = ledger(1)
    account.find(0, None)

    assert account.tally().lost == 1


@pytest.mark.parametrize("second", [packed(1), packed(99)])
def test_two_rows_under_one_key_are_a_duplicate_whatever_their_ids(second: bytes) -> None:
    account = ledger(3)
    for n in range(3):
        account.find(n, packed(n))
    account.find(1, second)

    tally = account.tally()

    assert tally.duplicated == 1
    assert tally.lost == 0
    assert not tally.honest


def test_three_rows_under_one_key_are_one_duplicated_event() -> None:
    account = ledger(1)
    for _ in range(3):
        account.find(0, packed(0))

    assert account.tally().duplicated == 1


def test_an_unacknowledged_event_may_be_there_or_not() -> None:
    account = Ledger()
    account.send(0, 2)
    account.find(0, packed(0))

    tally = account.tally()

    assert (tally.sent, tally.acked, tally.unacked, tally.unacked_stored) == (2, 0, 2, 1)
    assert tally.honest


def test_a_refused_event_may_not_be_there() -> None:
    account = Ledger()
    account.send(0, 2)
    account.refuse(0, 2)
    assert account.tally().honest

    account.find(1, packed(1))

    assert account.tally().refused_stored == 1
    assert not account.tally().honest


def test_an_event_that_was_never_sent_may_not_be_there() -> None:
    account = ledger(2)
    account.send(4, 2)  # 2 and 3 were planned, and then the run was stopped
    account.find(2, packed(2))
    account.find(77, packed(77))

    assert account.tally().foreign == 2
    assert account.tally().sent == 4
    assert not account.tally().honest


def test_an_altered_event_is_told() -> None:
    account = ledger(2)
    account.compare(0, None)
    account.compare(1, "actor.name")

    tally = account.tally()

    assert (tally.compared, tally.altered) == (2, 1)
    assert tally.examples["altered"] == ("event 1: actor.name",)
    assert not tally.honest


def test_examples_are_few_and_counts_complete() -> None:
    account = ledger(500)

    assert account.tally().lost == 500
    assert len(account.tally().examples["lost"]) == EXAMPLES


@given(st.lists(st.tuples(st.sampled_from(["acked", "unacked", "refused", "unsent"]), st.integers(0, 3)), max_size=60))
def test_the_tally_agrees_with_a_plain_count(events: list[tuple[str, int]]) -> None:
    account = Ledger()
    for n, (answer, _) in enumerate(events):
        if answer != "unsent":
            account.send(n, 1)
        if answer == "acked":
            account.acknowledge(n, [packed(n)])
        if answer == "refused":
            account.refuse(n, 1)
    for n, (_, rows) in enumerate(events):
        for _ in range(rows):
            account.find(n, packed(n))

    tally = account.tally()

    sent = [(answer, rows) for answer, rows in events if answer != "unsent"]
    assert tally.sent == len(sent) == tally.acked + tally.unacked + tally.refused
    assert tally.stored == sum(rows > 0 for _, rows in sent)
    assert tally.lost == sum(answer == "acked" and rows == 0 for answer, rows in sent)
    assert tally.duplicated == sum(rows > 1 for _, rows in sent)
    assert tally.foreign == sum(rows for answer, rows in events if answer == "unsent")


def test_a_hundred_thousand_events_fit_in_two_and_a_half_megabytes() -> None:
    tracemalloc.start()
    account = Ledger()
    for first in range(0, 100_000, 100):
        account.send(first, 100)
        account.acknowledge(first, [packed(n) for n in range(first, first + 100)])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert account.acked == 100_000
    assert size < 2_500_000


def test_ids_are_kept_as_16_bytes() -> None:
    assert pack_id(event_id_text(packed(5))) == packed(5)


@pytest.mark.parametrize(
    "text", [None, 5, "", "evt_", "evt_01jdc8z8yq3v1s7t9w6x4k2m0p", "alr_01JDC8Z8YQ3V1S7T9W6X4K2M0P"]
)
def test_what_is_not_an_event_id_is_told_apart(text: object) -> None:
    assert pack_id(text) is None


# -- comparing

SENT: dict[str, Any] = {
    "action": "user.invited",
    "tenant_id": "acme",
    "actor": {"id": "1", "email": "ada@example.com"},
    "metadata": {"list": [1, {"deep": True}], "price": 1.0},
    "occurred_at": "2024-05-01T10:00:00.123456+02:00",
}
ADDED = {"id": "evt_x", "content_hash": "00", "received_at": "2024-05-01T08:00:01.000Z"}
STORED = {**SENT, **ADDED, "occurred_at": "2024-05-01T08:00:00.123Z"}


def test_an_event_as_it_was_sent_is_equal_but_for_what_the_service_adds() -> None:
    assert difference(SENT, STORED) is None
    assert difference({"action": "a.b"}, {**ADDED, "action": "a.b", "occurred_at": "2024-05-01T08:00:00.123Z"}) is None


def test_a_whole_float_may_come_back_as_an_integer() -> None:
    assert difference(SENT, {**STORED, "metadata": {"list": [1, {"deep": True}], "price": 1}}) is None


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"action": "user.deleted"}, "action"),
        ({"actor": {"id": "1"}}, "actor"),
        ({"actor": {"id": "1", "email": "x@example.com"}}, "actor.email"),
        ({"metadata": {"list": [1, {"deep": 1}], "price": 1.0}}, "metadata.list.1.deep"),
        ({"metadata": {"list": [1], "price": 1.0}}, "metadata.list"),
        ({"metadata": {**SENT["metadata"], "more": 1}}, "metadata"),
        ({"occurred_at": "2024-05-01T08:00:00.125Z"}, "occurred_at"),
        ({"occurred_at": None}, "occurred_at"),
        ({"target": {"id": "1"}}, "target (never sent)"),
    ],
)
def test_a_difference_is_named(change: dict[str, Any], path: str) -> None:
    assert difference(SENT, {**STORED, **change}) == path


def test_a_field_that_did_not_come_back_is_a_difference() -> None:
    assert difference(SENT, {name: value for name, value in STORED.items() if name != "actor"}) == "actor"


def test_what_was_redacted_may_differ_and_nothing_else() -> None:
    redacted = {
        **STORED,
        "actor": {"id": "1", "email": "[REDACTED]"},
        "redactions": [{"field": "actor.email", "rules": ["builtin_email"]}],
    }

    assert difference(SENT, redacted) is None
    assert difference(SENT, {**redacted, "actor": {"id": "2", "email": "[REDACTED]"}}) == "actor.id"
    assert difference(SENT, {**redacted, "redactions": [{"field": "actor.e", "rules": []}]}) == "actor.email"


def test_a_redacted_key_excuses_the_object_that_holds_it() -> None:
    sent = {"metadata": {"by_card": {"4111111111111111": 2}, "n": 1}}
    stored = {
        "metadata": {"by_card": {"[REDACTED]": 2}, "n": 1},
        "redactions": [{"field": "metadata.by_card.[REDACTED]", "rules": ["builtin_credit_card"]}],
    }

    assert difference(sent, stored) is None


# -- the report


def report(tally: Tally, **more: Any) -> Report:
    return Report(
        **{
            "run": "ltrun",
            "seed": 1,
            "url": "http://127.0.0.1",
            "projects": ["loadtest-1"],
            "rate": None,
            "batch": 100,
            "seconds": 2.0,
            "interrupted": False,
            "latency": {"p50": 1.0, "max": 2.0},
            "service": {"p50": 1.0, "max": 2.0},
            "errors": {},
            "complaint": None,
            "replays": 0,
            "bad_answers": 0,
            "missed_events": 0,
            "tally": tally,
            **more,
        }
    )


def kept() -> Ledger:
    account = ledger(4)
    for n in range(4):
        account.find(n, packed(n))
    return account


def test_a_service_that_kept_its_word_exits_0() -> None:
    assert report(kept().tally()).exit_code == 0
    assert report(Ledger().tally()).exit_code == 0  # stopped before anything was sent


def test_a_service_that_did_not_exits_1() -> None:
    twice = kept()
    twice.find(0, packed(0))

    assert report(ledger().tally()).exit_code == 1
    assert report(twice.tally()).exit_code == 1
    assert report(kept().tally(), bad_answers=1).exit_code == 1


def test_a_run_that_nothing_was_acknowledged_in_proves_nothing_and_exits_2() -> None:
    account = Ledger()
    account.send(0, 10)

    assert report(account.tally()).exit_code == 2


def test_the_report_reads_as_json_and_as_a_table() -> None:
    account = kept()
    account.send(4, 3)
    account.find(5, packed(5))
    told = report(account.tally(), errors={"503 unavailable": 3}, replays=2)

    as_json = orjson.loads(orjson.dumps(told.to_json()))
    console = Console(width=120)
    with console.capture() as captured:
        console.print(told.render())

    assert as_json["ok"] is True
    assert as_json["ledger"] == {
        "sent": 7,
        "acked": 4,
        "stored": 5,
        "lost": 0,
        "duplicated": 0,
        "unacked": 3,
        "unacked_stored": 1,
        "refused": 0,
        "refused_stored": 0,
        "foreign": 0,
        "compared": 0,
        "altered": 0,
    }
    assert as_json["events_per_second"] == 2.0
    assert as_json["errors"] == {"503 unavailable": 3}
    assert "3 (1 stored)" in captured.get()
    assert "503 unavailable: 3" in captured.get()
    assert "OK: all 4 acknowledged events are stored once" in captured.get()


def test_a_failure_shows_what_is_missing() -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(report(ledger(1).tally()).render())

    assert "FAILED" in captured.get()
    assert event_id_text(packed(0)) in captured.get()
