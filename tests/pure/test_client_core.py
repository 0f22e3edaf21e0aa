"""The client's core, played through without a network: what is sent, repeated, split, kept and reported."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.client.buffer import Offer, Queue, QueueOptions, refused_indexes
from logstitch.client.core import Core, Paging
from logstitch.client.errors import (
    ClientClosed,
    Conflict,
    Forbidden,
    Gone,
    InvalidRequest,
    NoAnswer,
    ServerError,
    TooManyRequests,
    UnusableAnswer,
)
from logstitch.client.retries import Retries
from logstitch.client.schema import Event, EventPage
from logstitch.client.wire import Answer, Lost, Request, event_page
from tests.support.playing import LOST, REQUEST_ID, Play, an_event, events_of, ok, refusal, stored

# -- one request


def test_a_request_is_repeated_with_the_same_bytes_until_it_is_answered() -> None:
    play = Play([LOST, refusal(503, "unavailable"), Answer(502, {}, b"<html>")])
    logged = play.run(play.core().log(an_event(7)))
    assert logged.ids == ("evt_u7",)
    assert len(play.sent) == 4
    assert {request.body for request in play.sent} == {play.sent[0].body}
    assert events_of(play.sent[0])[0]["idempotency_key"] == "key-0"
    assert play.waits == [0.5, 1.0, 2.0]


def test_after_the_last_attempt_the_last_failure_is_told() -> None:
    play = Play([LOST] * 4)
    with pytest.raises(NoAnswer, match=r"events.create: no answer in 4 attempts \(ConnectError\)") as failed:
        play.run(play.core().log(an_event()))
    assert failed.value.__cause__ is LOST.cause
    play = Play([LOST, LOST, LOST, refusal(503, "unavailable")])
    with pytest.raises(ServerError) as refused:
        play.run(play.core().log(an_event()))
    assert (refused.value.attempts, refused.value.code) == (4, "unavailable")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 431])
def test_a_refusal_that_will_stay_is_not_repeated(status: int) -> None:
    play = Play([refusal(status, "code")])
    with pytest.raises(Exception, match=f"{status} code"):
        play.run(play.core().log(an_event()))
    assert len(play.sent) == 1


def test_retry_after_is_obeyed_and_never_undercut() -> None:
    play = Play([refusal(429, "rate_limited", retry_after="7"), refusal(503, "unavailable", retry_after="1")])
    play.run(play.core().log(an_event()))
    assert play.waits == [7.5, 2.0]  # what was asked for, and the backoff


def test_a_limit_that_ends_tomorrow_is_told_today() -> None:
    play = Play([refusal(429, "daily_event_limit_reached", retry_after="43200")])
    with pytest.raises(TooManyRequests) as refused:
        play.run(play.core().log(an_event()))
    assert refused.value.retry_after == 43200
    assert play.waits == []


def test_a_request_takes_no_longer_than_it_may_altogether() -> None:
    play = Play()

    def slow(request: Request) -> Lost:
        play.time += 25
        return Lost("ReadTimeout")

    play = Play([slow] * 4)
    with pytest.raises(NoAnswer) as failed:
        play.run(play.core(Retries(tries=3, seconds=60)).log(an_event()))
    assert failed.value.attempts == 3
    assert play.allowed == [60.0, 34.5, 8.5]


def test_a_mistake_that_every_attempt_would_make_is_made_once() -> None:
    play = Play([Lost("LocalProtocolError", passing=False)])
    with pytest.raises(NoAnswer):
        play.run(play.core().log(an_event()))
    assert len(play.sent) == 1


def test_a_claim_that_was_perhaps_made_before_says_so() -> None:
    play = Play([refusal(503, "unavailable"), refusal(410, "stream_already_claimed")])
    with pytest.raises(Gone) as refused:
        play.run(play.core().claim_stream("token", "project"))
    assert refused.value.uncertain
    play = Play([refusal(410, "stream_already_claimed")])
    with pytest.raises(Gone) as refused:
        play.run(play.core().claim_stream("token", "project"))
    assert not refused.value.uncertain
    # A 429 was a clear no: the attempt before it has done nothing.
    play = Play([refusal(429, "rate_limited"), refusal(410, "stream_already_claimed")])
    with pytest.raises(Gone) as refused:
        play.run(play.core().claim_stream("token", "project"))
    assert not refused.value.uncertain


def test_a_claim_names_its_project() -> None:
    play = Play([ok(project_id="p2", events_migrated=3, duplicates=0)])
    assert play.run(play.core(project_id="p1").claim_stream("t", None)).events_migrated == 3
    assert json.loads(play.sent[0].body or b"") == {"token": "t", "project_id": "p1"}
    with pytest.raises(ValueError, match="project_id"):
        play.core().claim_stream("t", None)


# -- batches


def test_a_long_list_goes_in_batches_of_a_hundred_in_order() -> None:
    play = Play()
    logged = play.run(play.core().log_batch(an_event(n) for n in range(250)))
    assert logged.ids == tuple(f"evt_u{n}" for n in range(250))
    assert [len(events_of(request)) for request in play.sent] == [100, 100, 50]
    assert logged.request_ids == (REQUEST_ID,) * 3
    assert len({event["idempotency_key"] for request in play.sent for event in events_of(request)}) == 250


def test_no_events_are_no_request() -> None:
    play = Play()
    assert play.run(play.core().log_batch([])).ids == ()
    assert play.sent == []


def test_a_refusal_half_way_says_what_is_stored_and_counts_from_the_first_event() -> None:
    play = Play([stored, refusal(400, "validation_error", "7.actor.id", "body")])
    with pytest.raises(InvalidRequest) as refused:
        play.run(play.core().log_batch(an_event(n) for n in range(150)))
    assert refused.value.stored == tuple(f"evt_u{n}" for n in range(100))
    assert [detail.field for detail in refused.value.details] == ["107.actor.id", "body"]
    assert "107.actor.id" in str(refused.value)


def test_nothing_is_sent_of_a_list_that_holds_what_cannot_be_sent() -> None:
    play = Play()
    with pytest.raises(TypeError):
        play.run(play.core().log_batch([*(an_event(n) for n in range(150)), an_event(metadata={"x": object()})]))
    assert play.sent == []


# -- pages


def test_a_list_is_turned_page_by_page() -> None:
    pages = [ok(events=[{"id": "evt_1"}], cursor="c1", has_more=True), ok(events=[], cursor=None, has_more=False)]
    play, core = Play(pages), Play().core()
    paging, seen = Paging({"tenant_id": "acme"}, 50, None), list[Event]()
    while (request := paging.next()) is not None:
        page = play.run(core.exchange(request, event_page))
        paging.turn(page)
        seen += page.events
    assert [event["id"] for event in seen] == ["evt_1"]
    assert [dict(request.query).get("cursor") for request in play.sent] == [None, "c1"]
    assert all(dict(request.query)["tenant_id"] == "acme" for request in play.sent)


def test_a_list_that_leads_back_to_itself_is_not_read_for_ever() -> None:
    paging = Paging({}, 50, "c1")
    with pytest.raises(UnusableAnswer, match="without a new cursor"):
        paging.turn(EventPage((), "c1", True, REQUEST_ID))


# -- the queue


def filled(core: Core, count: int, **options: Any) -> Queue:
    queue = Queue(QueueOptions(**options))
    for n in range(count):
        core.enqueue(queue, an_event(n))
    return queue


def closing(play: Play, queue: Queue, seconds: float = 20) -> Core:
    queue.close(play.time + seconds)
    return play.core()


def sent_actors(play: Play) -> list[list[str]]:
    return [[event["actor"]["id"] for event in events_of(request)] for request in play.sent]


def test_a_full_batch_goes_at_once_and_the_rest_after_the_interval() -> None:
    play = Play()
    core = play.core()
    queue = filled(core, 130, flush_interval=1.0)
    began = play.time
    sent_at = []

    def idle(seconds: float) -> None:
        if seconds > 1:
            queue.close(play.time + 20)
        else:
            play.time += seconds

    def answer(request: Request) -> Answer:
        sent_at.append(play.time - began)
        return stored(request)

    play.on_idle = idle
    play._replies = iter([answer, answer])
    play.run(core.deliver(queue))
    assert [len(actors) for actors in sent_actors(play)] == [100, 30]
    assert sent_at == [0.0, 1.0]
    assert queue.statistics().sent == 130


def test_a_flush_is_not_kept_waiting() -> None:
    play = Play()
    core = play.core()
    queue = filled(core, 3)
    assert queue.due_in(play.time) == 1.0
    number = queue.hurry()
    assert queue.due_in(play.time) == 0.0
    play.run(closing(play, queue).deliver(queue))
    assert queue.settled == number == 3


def test_an_outage_loses_nothing_and_repeats_the_same_bytes() -> None:
    play = Play([LOST, refusal(503, "unavailable"), Answer(200, {}, b"<html>")] * 5)
    core = play.core()
    queue = filled(core, 5)
    queue.hurry()

    def idle(seconds: float) -> None:
        play.time += min(seconds, 1e6)
        if seconds > 1e6:
            queue.close(play.time + 20)

    play.on_idle = idle
    play.run(core.deliver(queue))
    assert len(play.sent) == 16
    assert {request.body for request in play.sent} == {play.sent[0].body}
    assert queue.statistics().sent == 5
    assert play.drops == []
    assert max(play.waits[:-1]) == 30.0


def test_nothing_that_goes_wrong_on_this_side_makes_the_queue_drop_events() -> None:
    play = Play([Lost("LocalProtocolError", passing=False)])
    core = play.core()
    queue = filled(core, 2)
    play.run(closing(play, queue).deliver(queue))
    assert sent_actors(play) == [["u0", "u1"]] * 2
    assert play.drops == []


def test_a_queued_event_says_when_it_was_queued() -> None:
    play = Play()
    core = play.core()
    queue = filled(core, 1)
    play.time += 300
    play.run(closing(play, queue).deliver(queue))
    assert events_of(play.sent[0])[0]["occurred_at"] == "2026-11-23T08:00:00.000Z"


def test_who_empties_the_queue_is_woken_for_its_first_event_and_for_a_full_batch() -> None:
    queue = Queue(QueueOptions(flush_at=3))
    offers = [queue.offer(b"{}", 0.0) for _ in range(5)]
    assert offers == [Offer.RIPE, Offer.TAKEN, Offer.RIPE, Offer.TAKEN, Offer.TAKEN]


def test_whoever_wants_a_flush_cuts_the_backoff_short_once() -> None:
    play = Play([LOST, LOST])
    core = play.core()
    queue = filled(core, 1)
    queue.hurry()
    waited: list[tuple[int, float]] = []

    def idle(seconds: float) -> None:
        waited.append((len(play.sent), seconds))
        if len(waited) == 1:
            queue.hurry()  # and no time has passed
        elif seconds > 1e6:
            queue.close(play.time + 20)
        else:
            play.time += seconds

    play.on_idle = idle
    play.run(core.deliver(queue))
    assert waited == [(1, 0.5), (2, 1.0), (3, float("inf"))]


def test_what_the_service_asked_for_is_waited_for_even_in_a_hurry() -> None:
    play = Play([refusal(503, "unavailable", retry_after="5")])
    core = play.core()
    queue = filled(core, 1)
    queue.hurry()
    at = []

    def idle(seconds: float) -> None:
        at.append(seconds)
        if len(at) == 1:
            queue.hurry()
        elif seconds > 1e6:
            queue.close(play.time + 20)
        else:
            play.time += seconds

    play.on_idle = idle
    play.run(core.deliver(queue))
    assert at == [5.5, 5.0, float("inf")]


def test_an_event_that_is_refused_is_reported_and_the_others_are_sent() -> None:
    play = Play([refusal(400, "validation_error", "1.actor.id", "1.action", "3.category")])
    core = play.core()
    queue = filled(core, 5)
    play.run(closing(play, queue).deliver(queue))
    assert sent_actors(play) == [["u0", "u1", "u2", "u3", "u4"], ["u0", "u2", "u4"]]
    [drop] = play.drops
    assert [event["actor"]["id"] for event in drop.events] == ["u1", "u3"]
    assert drop.reason == "refused"
    assert isinstance(drop.error, InvalidRequest)
    assert all("idempotency_key" in event for event in drop.events)
    statistics = queue.statistics()
    assert (statistics.sent, statistics.dropped_refused, statistics.waiting) == (3, 2, 0)


def test_a_conflict_takes_out_its_own_event_only() -> None:
    play = Play([refusal(409, "conflict", "0.idempotency_key")])
    core = play.core()
    queue = filled(core, 2)
    play.run(closing(play, queue).deliver(queue))
    assert sent_actors(play)[1:] == [["u1"]]
    assert isinstance(play.drops[0].error, Conflict)


def test_a_refusal_of_the_batch_as_such_drops_it_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    play = Play([refusal(403, "forbidden")])
    core = play.core()
    queue = filled(core, 3)
    with caplog.at_level(logging.WARNING):
        play.run(closing(play, queue).deliver(queue))
    assert isinstance(play.drops[0].error, Forbidden)
    assert len(play.drops[0].events) == 3
    assert "3 queued events dropped (refused), 3 so far: 403 forbidden" in caplog.text
    assert "u1" not in caplog.text  # events are nobody's business who reads a log


def test_a_batch_that_is_too_large_is_halved_until_it_fits() -> None:
    def service(request: Request) -> Answer:
        return refusal(413, "payload_too_large") if len(events_of(request)) > 3 else stored(request)

    play = Play([service] * 20)
    core = play.core()
    queue = filled(core, 8)
    play.run(closing(play, queue).deliver(queue))
    assert [event for actors in sent_actors(play) if len(actors) <= 3 for event in actors] == [
        f"u{n}" for n in range(8)
    ]
    assert play.drops == []


def test_an_event_that_is_too_large_by_itself_is_reported() -> None:
    play = Play([refusal(413, "payload_too_large")] * 2)
    core = play.core()
    queue = filled(core, 2)
    play.run(closing(play, queue).deliver(queue))
    assert [event["actor"]["id"] for event in play.drops[0].events] == ["u0"]
    assert queue.statistics().sent == 1


def test_a_full_queue_drops_the_newest_and_tells_each_time(caplog: pytest.LogCaptureFixture) -> None:
    play = Play()
    core = play.core()
    with caplog.at_level(logging.WARNING):
        queue = filled(core, 10, max_queue=3)
    assert [drop.events[0]["actor"]["id"] for drop in play.drops] == [f"u{n}" for n in range(3, 10)]
    assert {drop.reason for drop in play.drops} == {"full"}
    assert queue.statistics().dropped_full == 7
    assert len(caplog.records) == 3  # a flood of drops is not a flood of lines


def test_large_events_fill_a_queue_by_their_bytes() -> None:
    play = Play()
    queue = Queue(QueueOptions(max_bytes=1000))
    offers = [play.core().enqueue(queue, an_event(n, metadata={"x": "y" * 300})) for n in range(4)]
    assert offers == [Offer.RIPE, Offer.TAKEN, Offer.FULL, Offer.FULL]


def test_a_callback_that_fails_holds_nothing_up(caplog: pytest.LogCaptureFixture, error_logs: Any) -> None:
    error_logs.expect("on_drop failed")
    play = Play([refusal(400, "validation_error", "0.action")])

    def broken(dropped: object) -> None:
        raise RuntimeError("not ours")

    core = Core(Retries(), 15.0, on_drop=broken, clock=lambda: play.time)
    queue = filled(core, 2)
    queue.close(play.time + 20)
    play.run(core.deliver(queue))
    assert queue.statistics().sent == 1


def test_at_the_end_what_cannot_be_sent_in_time_is_left_and_told() -> None:
    play = Play([LOST] * 100)
    core = play.core()
    queue = filled(core, 4)
    began = play.time
    play.run(closing(play, queue, seconds=5).deliver(queue))
    assert play.time - began < 5
    assert len(play.sent) > 5  # it was worth trying more often than in a long outage
    unsent = core.give_up(queue)
    assert unsent is not None
    assert [event["actor"]["id"] for event in unsent.events] == ["u0", "u1", "u2", "u3"]
    assert [(drop.reason, len(drop.events)) for drop in play.drops] == [("left", 4)]
    assert queue.statistics().dropped_left == 4
    assert queue.settled == 0
    assert core.give_up(queue) is None


def test_at_the_end_nobody_waits_for_a_limit_that_ends_tomorrow() -> None:
    play = Play([refusal(429, "daily_event_limit_reached", retry_after="43200")])
    core = play.core()
    queue = filled(core, 1)
    play.run(closing(play, queue).deliver(queue))
    assert play.waits == []
    assert core.give_up(queue) is not None


def test_a_close_in_a_long_outage_tries_again_at_once() -> None:
    play = Play([LOST])
    core = play.core()
    queue = filled(core, 1)
    queue.hurry()
    play.on_idle = lambda seconds: queue.close(play.time + 20)
    play.run(core.deliver(queue))
    assert len(play.sent) == 2
    assert queue.statistics().sent == 1


def test_a_closed_queue_takes_nothing() -> None:
    play = Play()
    queue = Queue(QueueOptions())
    queue.close(play.time)
    with pytest.raises(ClientClosed):
        play.core().enqueue(queue, an_event())


def test_what_is_settled_after_it_was_given_up_is_not_counted_twice() -> None:
    play = Play()
    core = play.core()
    queue = filled(core, 2)

    def late(request: Request) -> Answer:
        core.give_up(queue)
        return refusal(400, "validation_error", "0.action")

    play._replies = iter([late])
    play.run(closing(play, queue).deliver(queue))
    assert [drop.reason for drop in play.drops] == ["left"]
    statistics = queue.statistics()
    assert (statistics.sent, statistics.dropped_refused, statistics.dropped_left) == (0, 0, 2)


OUTCOMES = st.sampled_from(["stored", "lost", "503", "400", "413", "403", "page"])


@given(st.integers(0, 320), st.lists(OUTCOMES, max_size=30), st.integers(1, 100), st.integers(1, 400))
def test_every_event_is_sent_once_or_reported_once(
    count: int, outcomes: list[str], flush_at: int, max_queue: int
) -> None:
    play = Play()
    core = play.core()
    queue = filled(core, count, flush_at=flush_at, max_queue=max_queue)
    kept: list[str] = []

    def reply(outcome: str) -> Callable[[Request], Answer | Lost]:
        def answer(request: Request) -> Answer | Lost:
            events = [event["actor"]["id"] for event in events_of(request)]
            if outcome == "stored":
                kept.extend(events)
                return stored(request)
            if outcome == "400":
                return refusal(400, "validation_error", f"{len(events) // 2}.action")
            if outcome == "page":
                return Answer(200, {}, b"<html>")
            return LOST if outcome == "lost" else refusal(int(outcome), "code")

        return answer

    play._replies = iter([*map(reply, outcomes), *[reply("stored")] * 400])
    queue.close(play.time + 10_000)
    play.run(core.deliver(queue))
    dropped = [event["actor"]["id"] for drop in play.drops for event in drop.events]
    assert sorted(kept + dropped) == sorted(f"u{n}" for n in range(count))
    assert kept == sorted(kept, key=lambda actor: int(actor[1:]))
    statistics = queue.statistics()
    assert statistics.waiting == 0
    assert statistics.sent == len(kept)
    assert statistics.sent + statistics.dropped_full + statistics.dropped_refused == count


@given(st.lists(st.text(max_size=6) | st.integers(0, 200).map(lambda n: f"{n}.x")), st.integers(1, 100))
def test_only_events_of_the_batch_are_named(fields: list[str], count: int) -> None:
    assert all(0 <= index < count for index in refused_indexes(fields, count))
