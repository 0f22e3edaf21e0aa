"""Stream ingest through the real actor: who may begin a stream, what is stored of it, and what is not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

from logstitch.actors import streams as module
from logstitch.actors.bounds import THREAD_BYTES
from logstitch.actors.messages.streams import GetStreamInfo
from logstitch.actors.streams import MAX_LOOKS, StreamIngest
from logstitch.errors import (
    Conflict,
    Forbidden,
    RateLimited,
    StreamAlreadyClaimed,
    StreamDailyLimitReached,
    StreamExpired,
    StreamNotFound,
    Unavailable,
)
from logstitch.ids import UlidMint
from logstitch.recording.streams import prepare_stream_event
from logstitch.store.streams import Totals
from logstitch.streams import LIFE_DAYS, StreamStatus, token_digest
from logstitch.times import DAY_MS
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.errors import ErrorLogs
from tests.support.ingest import event
from tests.support.streams import NOON_MS, ROOMY, StreamBench, moment, new_token, open_stream_bench


async def test_the_first_request_begins_a_stream_and_says_nothing_of_its_events(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        with pytest.raises(StreamNotFound):
            await bench.info(token)

        accepted = await bench.submit(token, event(), event(metadata={"n": 1}))
        await bench.submit(token.upper(), event(), at_ms=NOON_MS + 5)

        assert len(set(accepted.ids)) == 2
        info = await bench.info(token)
        assert (info.status, info.event_count) == (StreamStatus.ACTIVE, 3)
        assert (info.created_at, info.last_event_at) == (moment(NOON_MS), moment(NOON_MS + 5))
        assert info.expires_at == moment(NOON_MS + LIFE_DAYS * DAY_MS)
        assert info.claimed_at is None
        assert [body.get("metadata") for body in await bench.stored(token)] == [None, {"n": 1}, None]


async def test_redaction_is_what_every_project_begins_with_and_email_and_phone(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        metadata = {
            "mail": "jane.roe@example.com",
            "phone": "(415) 555-0132",
            "card": "4111 1111 1111 1111",
            "ssn": "123-45-6789",
            "ip": "203.0.113.77",
        }

        accepted = await bench.submit(token, event(metadata=metadata))

        assert accepted.redacted_count == 4
        (body,) = await bench.stored(token)
        assert body["metadata"] == dict.fromkeys(metadata, "[REDACTED]") | {"ip": "203.0.113.77"}


async def test_an_idempotency_key_counts_within_its_stream_and_for_what_was_sent(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        mail = event(idempotency_key="k", metadata={"mail": "jane.roe@example.com"})
        first = await bench.submit(token, mail)

        again = await bench.submit(token, mail, event())
        assert (again.ids[0], again.replays) == (first.ids[0], 1)
        with pytest.raises(Conflict):  # although redaction leaves the same of it
            await bench.submit(token, event(idempotency_key="k", metadata={"mail": "john.doe@example.com"}))
        elsewhere = await bench.submit(new_token(), mail)
        assert elsewhere.replays == 0


async def test_of_fifty_twins_one_is_stored(database_url: str) -> None:
    async with (
        open_stream_bench(database_url) as one,
        open_stream_bench(database_url, project_no=one.project.no) as other,
    ):
        token = new_token()
        found: Counter[str] = Counter()
        replays = 0

        async def send(bench: StreamBench) -> None:
            nonlocal replays
            accepted = await bench.submit(token, event(idempotency_key="k"))
            found.update(accepted.ids)
            replays += accepted.replays

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(send, (one, other)[number % 2])

        assert len(found) == 1
        assert replays == 49
        assert (await one.info(token)).event_count == 1
        assert (await one.totals()).streams == 1


async def test_a_hundred_events_a_day_also_when_many_send_at_once(database_url: str) -> None:
    async with (
        open_stream_bench(database_url) as one,
        open_stream_bench(database_url, project_no=one.project.no) as other,
    ):
        token = new_token()
        outcomes: Counter[str] = Counter()

        async def send(bench: StreamBench) -> None:
            try:
                await bench.submit(token, event(), event(), event())
                outcomes["taken"] += 1
            except StreamDailyLimitReached:
                outcomes["refused"] += 1

        async with trio.open_nursery() as nursery:
            for number in range(40):
                nursery.start_soon(send, (one, other)[number % 2])

        assert outcomes == {"taken": 33, "refused": 7}
        assert (await one.info(token)).event_count == 99


# -- who may begin one ----------------------------------------------------------------------------------------------


async def test_an_address_may_begin_so_many_streams_an_hour_and_go_on_with_those_it_has(database_url: str) -> None:
    async with open_stream_bench(database_url, per_address=3) as bench:
        tokens = [new_token() for _ in range(4)]
        for token in tokens[:3]:
            await bench.submit(token, event(), address="2001:db8:0:1::1")

        with pytest.raises(RateLimited) as refused:
            await bench.submit(tokens[3], event(), address="2001:db8:0:1:ffff::2")
        assert 1190 <= refused.value.retry_after <= 1201
        with pytest.raises(StreamNotFound):
            await bench.info(tokens[3])

        await bench.submit(tokens[0], event(), address="2001:db8:0:1::1")
        await bench.submit(tokens[3], event(), address="2001:db8:0:2::1")


async def test_what_begins_no_stream_is_not_counted(database_url: str) -> None:
    async with open_stream_bench(database_url, per_address=1, ceiling=Totals(10, 2000)) as bench:
        token = new_token()
        for _ in range(3):
            with pytest.raises(RateLimited) as refused:
                await bench.submit(token, event(metadata={"note": "x" * 2000}))
            assert "The service" in refused.value.message  # is full, and it is not this address that is limited

        await bench.submit(token, event())


TWINS = (event(idempotency_key="k"), event(), event(idempotency_key="k", metadata={"another": "one"}))


async def test_who_contradicts_himself_is_refused_before_any_work_and_it_counts(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stream_bench(database_url, per_address=2) as bench:
        token = new_token()
        work: list[Any] = []
        monkeypatch.setattr(module, "slices", lambda *_: work.append(1))
        monkeypatch.setattr(module, "StreamCommit", lambda *_, **__: work.append(1))
        for _ in range(2):
            with pytest.raises(Conflict) as refused:
                await bench.submit(token, *TWINS)
            assert [detail.field for detail in refused.value.details] == ["2.idempotency_key"]

        with pytest.raises(RateLimited):
            await bench.submit(token, event())
        assert work == []


async def test_twins_that_are_equal_are_one_event_however_they_are_spelled(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        one, other = event(idempotency_key="k", metadata={"n": 1, "m": 2}), event(idempotency_key="k")
        accepted = await bench.submit(new_token(), one, other | {"metadata": {"m": 2, "n": 1.0}})
        assert accepted.replays == 1


@pytest.mark.parametrize("threshold", [0, THREAD_BYTES])
async def test_a_stream_that_is_there_refuses_twins_that_differ(
    database_url: str, monkeypatch: pytest.MonkeyPatch, threshold: int
) -> None:
    monkeypatch.setattr(module, "THREAD_BYTES", threshold)
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event())
        with pytest.raises(Conflict):
            await bench.submit(token, *TWINS)
        assert (await bench.info(token)).event_count == 1


async def test_an_address_begins_a_few_streams_at_once_and_the_others_within_the_hour(database_url: str) -> None:
    async with open_stream_bench(database_url, per_address=20) as bench:
        for _ in range(5):
            await bench.submit(new_token(), event())

        with pytest.raises(RateLimited) as refused:
            await bench.submit(new_token(), event())
        assert 170 <= refused.value.retry_after <= 181


async def test_an_address_may_send_so_many_bytes_an_hour_to_whatever_streams(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ADDRESS_BYTES", 4000)
    async with open_stream_bench(database_url, per_address=3) as bench:
        token, long = new_token(), event(metadata={"note": "x" * 2000})
        await bench.submit(token, long)

        for again in (token, new_token()):
            with pytest.raises(RateLimited) as refused:
                await bench.submit(again, long)
            assert 300 <= refused.value.retry_after <= 3600
        await bench.submit(token, event())  # there is still room for a little one
        await bench.submit(token, long, address="198.51.100.7")


async def test_bytes_that_are_not_stored_are_given_back(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADDRESS_BYTES", 10_000)
    async with open_stream_bench(database_url, ceiling=Totals(10, 2000), per_address=1) as bench:
        for _ in range(5):
            with pytest.raises(RateLimited) as refused:
                await bench.submit(new_token(), event(metadata={"note": "x" * 6000}))
            assert "The service" in refused.value.message


async def test_one_that_two_begin_at_once_counts_once(database_url: str) -> None:
    async with open_stream_bench(database_url, per_address=1) as bench:
        token = new_token()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(bench.submit, token, event())

        assert (await bench.info(token)).event_count == 5


async def test_a_service_that_takes_no_new_streams_goes_on_with_those_there_are(database_url: str) -> None:
    async with (
        open_stream_bench(database_url) as before,
        open_stream_bench(database_url, project_no=before.project.no, per_address=0) as bench,
    ):
        token = new_token()
        await before.submit(token, event())

        await bench.submit(token, event())
        with pytest.raises(Forbidden):
            await bench.submit(new_token(), event())
        assert (await bench.claim(token)).events_migrated == 2


async def test_where_there_is_no_room_it_is_said_before_any_work(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_stream_bench(database_url, ceiling=Totals(1, 1 << 20)) as bench:
        token = new_token()
        await bench.submit(token, event())
        prepared: list[Any] = []
        monkeypatch.setattr(module, "prepare_stream_event", lambda *_, **__: prepared.append(1))

        with pytest.raises(RateLimited) as refused:
            await bench.submit(new_token(), event())

        assert refused.value.retry_after >= 60
        assert prepared == []


# -- at the end of a stream -----------------------------------------------------------------------------------------


async def test_an_expired_stream_takes_nothing_and_says_so_by_time_alone(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event())
        end = NOON_MS + LIFE_DAYS * DAY_MS

        assert (await bench.info(token, at_ms=end - 1)).status is StreamStatus.ACTIVE
        await bench.submit(token, event(), at_ms=end - 1)
        assert (await bench.info(token, at_ms=end)).status is StreamStatus.EXPIRED
        with pytest.raises(StreamExpired):
            await bench.submit(token, event(), at_ms=end)


async def test_a_claimed_stream_takes_nothing_and_keeps_saying_so(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event())
        await bench.claim(token)

        with pytest.raises(StreamAlreadyClaimed):
            await bench.submit(token, event())
        info = await bench.info(token, at_ms=NOON_MS + LIFE_DAYS * DAY_MS)
        assert (info.status, info.claimed_at, info.event_count) == (StreamStatus.CLAIMED, moment(NOON_MS), 1)


# -- under pressure -------------------------------------------------------------------------------------------------


async def test_one_bad_request_in_a_group_fails_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs
) -> None:
    # NUL cannot be stored in a text column; the gate refuses it long before, so this stands for any unforeseen failure.
    error_logs.expect("streams.request_failed")

    def prepare(incoming: Any, *rest: Any, **options: Any) -> Any:
        prepared = prepare_stream_event(incoming, *rest, **options)
        return prepared._replace(body="b\0") if incoming.raw["tenant_id"] == "bad" else prepared

    monkeypatch.setattr(module, "prepare_stream_event", prepare)
    async with open_stream_bench(database_url) as bench:
        outcomes: Counter[str] = Counter()

        async def send(tenant_id: str) -> None:
            try:
                await bench.submit(new_token(), event(tenant_id=tenant_id))
                outcomes["stored"] += 1
            except Exception as error:
                outcomes[type(error).__name__] += 1

        async with trio.open_nursery() as nursery:
            for tenant_id in ("good", "bad", "good"):
                nursery.start_soon(send, tenant_id)

        assert outcomes.pop("stored") == 2
        assert sum(outcomes.values()) == 1
        assert (await bench.totals()).streams == 2


async def test_looks_at_streams_are_bounded(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        await bench.submit(token, event())
        outcomes: Counter[str] = Counter()

        async def look() -> None:
            try:
                await bench.info(token)
                outcomes["answered"] += 1
            except Unavailable:
                outcomes["refused"] += 1

        async with trio.open_nursery() as nursery:
            for _ in range(2 * MAX_LOOKS):
                nursery.start_soon(look)

        assert outcomes["answered"] >= MAX_LOOKS
        assert outcomes.total() == 2 * MAX_LOOKS


async def test_a_big_request_is_encoded_in_a_thread_and_comes_back_whole(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        token = new_token()
        big = event(changes=[{"field": "f", "after": "x" * THREAD_BYTES}])
        await bench.submit(token, big)

        (body,) = await bench.stored(token)
        assert body == big


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        digest = token_digest(new_token())
        await check(
            Subject(
                factory=lambda: StreamIngest(bench.database, UlidMint(), per_address=ROOMY),
                question=lambda: GetStreamInfo(digest, NOON_MS),
            )
        )
