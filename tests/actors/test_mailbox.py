"""Posting, answering, and what the numbers say, without a supervisor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import assert_type

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, assert_no_checkpoints, wait_all_tasks_blocked

from logstitch.actors.mailbox import Address, Ask, Asks, Box, Mailbox, open_mailbox
from logstitch.errors import ActorDown, AskTimeout, MailboxFull, NotFound


@dataclass(frozen=True, slots=True)
class Double(Ask[int]):
    number: int


@dataclass(frozen=True, slots=True)
class Remember:
    word: str


async def doubling(mailbox: Mailbox) -> None:
    async for envelope in mailbox:
        match envelope.message:
            case Double(number):
                envelope.reply(2 * number)


# -- asking --------------------------------------------------------------------------------------------------------


async def test_an_ask_is_answered(nursery: trio.Nursery) -> None:
    address, mailbox = open_mailbox("numbers", 4)
    nursery.start_soon(doubling, mailbox)
    held: Asks = address  # what handlers are typed with
    answer = await held.ask(Double(21), timeout=1)
    assert_type(answer, int)
    assert answer == 42


async def test_a_refusal_is_raised_to_the_asker(nursery: trio.Nursery) -> None:
    address, mailbox = open_mailbox("numbers", 4)

    @nursery.start_soon
    async def refuse() -> None:
        (await mailbox.receive()).refuse(NotFound("There is no such number."))

    with pytest.raises(NotFound, match="There is no such number"):
        await address.ask(Double(1), timeout=1)


async def test_one_error_that_refuses_many_asks_does_not_collect_their_tracebacks() -> None:
    address, mailbox = open_mailbox("numbers", 4)
    error = NotFound("There is no such number.")
    depths = []

    async def ask() -> None:
        with pytest.raises(NotFound) as caught:
            await address.ask(Double(1), timeout=1)
        depths.append(len(caught.traceback))

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        for envelope in await mailbox.take(4):
            envelope.refuse(error)
    assert len(set(depths)) == 1


async def test_asking_is_a_checkpoint_and_answering_is_none(nursery: trio.Nursery) -> None:
    address, mailbox = open_mailbox("numbers", 4)

    @nursery.start_soon
    async def answer() -> None:
        first, second = await mailbox.receive(), await mailbox.receive()
        with assert_no_checkpoints():
            first.reply(1)
            second.refuse(NotFound("no"))

    async def ask_and_be_refused() -> None:
        with pytest.raises(NotFound):
            await address.ask(Double(2), timeout=1)

    nursery.start_soon(ask_and_be_refused)
    with assert_checkpoints():
        await address.ask(Double(1), timeout=1)


async def test_without_an_answer_the_deadline_ends_the_wait(autojump_clock: MockClock) -> None:
    address, _ = open_mailbox("numbers", 4)
    with pytest.raises(AskTimeout):
        await address.ask(Double(1), timeout=8)
    assert trio.current_time() == pytest.approx(8)


@pytest.mark.parametrize("seconds", [0, -1.5])
async def test_without_time_left_nothing_is_asked(seconds: float) -> None:
    address, _ = open_mailbox("numbers", 4)
    with pytest.raises(AskTimeout):
        await address.ask(Double(1), timeout=seconds)
    assert address.health().depth == 0


async def test_an_answer_given_before_the_deadline_wins_although_the_asker_wakes_after_it(
    mock_clock: MockClock,
) -> None:
    address, mailbox = open_mailbox("numbers", 4)
    answers = []

    async def ask() -> None:
        answers.append(await address.ask(Double(21), timeout=8))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        (await mailbox.receive()).reply(42)
        mock_clock.jump(100)
    assert answers == [42]


async def test_a_reply_tolerates_that_the_asker_has_run_out_of_time(autojump_clock: MockClock) -> None:
    address, mailbox = open_mailbox("numbers", 4)
    with pytest.raises(AskTimeout):
        await address.ask(Double(21), timeout=1)
    envelope = await mailbox.receive()
    assert (envelope.abandoned, envelope.answered) == (True, False)
    envelope.reply(42)
    assert (envelope.abandoned, envelope.answered) == (False, True)
    assert address.health().handled == 1


async def test_a_reply_tolerates_that_the_asker_was_cancelled() -> None:
    address, mailbox = open_mailbox("numbers", 4)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: address.ask(Double(21), timeout=1))
            envelope = await mailbox.receive()
            scope.cancel()
    envelope.refuse(NotFound("too late"))
    assert envelope.answered


async def test_who_is_cancelled_already_posts_nothing() -> None:
    address, _ = open_mailbox("numbers", 4)
    with trio.CancelScope() as scope:
        scope.cancel()
        await address.ask(Double(21), timeout=1)
    assert scope.cancelled_caught
    assert address.health().depth == 0


async def test_the_first_answer_counts(nursery: trio.Nursery) -> None:
    address, mailbox = open_mailbox("numbers", 4)

    @nursery.start_soon
    async def answer_thrice() -> None:
        envelope = await mailbox.receive()
        envelope.reply(42)
        envelope.reply(43)
        envelope.refuse(NotFound("no"))

    assert await address.ask(Double(21), timeout=1) == 42
    assert address.health().handled == 1


# -- the bound -----------------------------------------------------------------------------------------------------


async def test_a_full_mailbox_refuses_at_once_and_counts() -> None:
    address, mailbox = open_mailbox("words", 2)
    address.tell(Remember("one"))
    address.tell(Remember("two"))
    with pytest.raises(MailboxFull), assert_no_checkpoints():
        address.tell(Remember("three"))
    with pytest.raises(MailboxFull):
        await address.ask(Double(1), timeout=1)
    assert address.health().rejected == 2
    assert [e.message.word for e in await mailbox.take(10)] == ["one", "two"]
    address.tell(Remember("four"))


async def test_a_waiting_receiver_does_not_stretch_the_bound(nursery: trio.Nursery) -> None:
    address, mailbox = open_mailbox("words", 2)
    nursery.start_soon(mailbox.receive)
    await wait_all_tasks_blocked()
    address.tell(Remember("one"))  # goes to the receiver's hands, past the channel's buffer
    address.tell(Remember("two"))
    with pytest.raises(MailboxFull):
        address.tell(Remember("three"))
    assert address.health().peak == 2


@pytest.mark.parametrize("capacity", [0, -1])
async def test_a_mailbox_holds_at_least_one_message(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        open_mailbox("words", capacity)


# -- reading -------------------------------------------------------------------------------------------------------


async def test_taking_waits_for_one_and_then_takes_what_is_there_in_order() -> None:
    address, mailbox = open_mailbox("words", 10)
    taken = []

    async def take() -> None:
        taken.append([envelope.message for envelope in await mailbox.take(3)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        await wait_all_tasks_blocked()
        for word in "abcde":
            address.tell(word)
    await take()
    assert taken == [["a", "b", "c"], ["d", "e"]]


async def test_a_closed_mailbox_takes_nothing_new_and_is_read_to_its_end() -> None:
    address, mailbox = open_mailbox("words", 4)
    address.tell("last")
    mailbox.close()
    assert address.closed
    assert mailbox.closed
    with pytest.raises(ActorDown):
        address.tell("too late")
    with pytest.raises(ActorDown):
        await address.ask(Double(1), timeout=1)
    assert [envelope.message async for envelope in mailbox] == ["last"]
    with pytest.raises(trio.EndOfChannel):
        await mailbox.take(1)
    with pytest.raises(trio.EndOfChannel):
        mailbox.receive_nowait()


async def test_closing_wakes_whoever_waits_for_a_message(nursery: trio.Nursery) -> None:
    _, mailbox = open_mailbox("words", 4)
    nursery.start_soon(doubling, mailbox)
    await wait_all_tasks_blocked()
    mailbox.close()


async def test_nothing_there_is_told_without_waiting() -> None:
    address, mailbox = open_mailbox("words", 4)
    with pytest.raises(trio.WouldBlock):
        mailbox.receive_nowait()
    address.tell("hello")
    assert mailbox.receive_nowait().message == "hello"


# -- how it is -----------------------------------------------------------------------------------------------------


async def test_the_oldest_message_is_waiting_or_in_flight(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    address, mailbox = open_mailbox("numbers", 4)
    assert address.health().oldest_age == 0.0
    nursery.start_soon(lambda: address.ask(Double(1), timeout=100))
    await trio.sleep(3)
    address.tell(Remember("this"))
    await trio.sleep(2)
    first = await mailbox.receive()
    health = address.health()
    assert (health.depth, health.in_flight, health.peak) == (1, 1, 2)
    assert health.oldest_age == pytest.approx(5)
    first.reply(2)
    assert address.health().oldest_age == pytest.approx(2)
    mailbox.receive_nowait()
    address.tell(Remember("that"))
    health = address.health()
    assert (health.depth, health.peak) == (1, 2)


async def test_a_tell_is_over_when_the_actor_is_back_for_more(nursery: trio.Nursery) -> None:
    address, mailbox = open_mailbox("words", 4)
    address.tell(Remember("this"))
    envelope = await mailbox.receive()
    assert address.health().in_flight == 1
    nursery.start_soon(mailbox.receive)
    await wait_all_tasks_blocked()
    assert address.health().in_flight == 0
    assert address.health().handled == 1
    assert envelope.answered
    nursery.cancel_scope.cancel()


async def test_receiving_answering_and_saying_so_are_progress_and_posting_is_not(autojump_clock: MockClock) -> None:
    address, mailbox = open_mailbox("numbers", 4)

    async def seconds_since_progress() -> float:
        await trio.sleep(5)
        return round(address.health().last_progress_age, 6)

    address.tell(Remember("this"))
    assert await seconds_since_progress() == 5
    address.tell(Remember("that"))
    assert await seconds_since_progress() == 10
    envelope = await mailbox.receive()
    assert await seconds_since_progress() == 5
    mailbox.progress()
    assert await seconds_since_progress() == 5
    envelope.refuse(NotFound("no"))
    assert await seconds_since_progress() == 5


async def test_an_actor_shows_numbers_of_its_own_until_its_run_ends() -> None:
    box = Box("evaluator/7", 4)
    address, mailbox = Address(box), Mailbox(box)
    assert address.health().gauges == {}
    mailbox.report(lag=12, leads=1)
    before = address.health()
    mailbox.report(lag=3)
    assert (before.gauges, address.health().gauges) == ({"lag": 12, "leads": 1}, {"lag": 3, "leads": 1})
    assert address.health().to_json()["gauges"] == {"lag": 3, "leads": 1}
    box.drop_in_flight()
    assert address.health().gauges == {}
    mailbox.report(lag=3)
    box.end()
    assert address.health().gauges == {}


async def test_health_is_plain_json_and_no_repr_shows_what_a_message_holds() -> None:
    address, mailbox = open_mailbox("words", 4)
    address.tell(Remember("4111 1111 1111 1111"))
    envelope = await mailbox.receive()
    shown = json.dumps(address.health().to_json()) + repr(envelope) + repr(address) + repr(mailbox)
    assert '"path": "words", "state": "starting"' in shown
    assert "Remember" in shown
    assert "4111" not in shown


# -- every order of events -----------------------------------------------------------------------------------------

STEPS = ["tell", "ask", "receive", "take", "reply", "refuse", "leave"]


@given(st.lists(st.sampled_from(STEPS), max_size=60), st.integers(min_value=1, max_value=4))
def test_the_numbers_always_add_up_and_no_asker_is_forgotten(steps: list[str], capacity: int) -> None:
    async def main() -> None:
        address, mailbox = open_mailbox("numbers", capacity)
        waiting: list[trio.CancelScope] = []
        received = []
        counts = {"posted": 0, "left": 0, "answered": 0, "refused": 0, "full": 0}

        async def ask() -> None:
            with trio.CancelScope() as scope:
                waiting.append(scope)
                try:
                    assert await address.ask(Double(1), timeout=60) == 2
                    counts["answered"] += 1
                except NotFound:
                    counts["refused"] += 1
                finally:
                    waiting.remove(scope)

        async with trio.open_nursery() as nursery:
            for step in steps:
                full = address.health().depth == capacity
                if step in ("tell", "ask") and full:
                    with pytest.raises(MailboxFull):
                        address.tell(Remember("this"))
                    counts["full"] += 1
                elif step == "tell":
                    address.tell(Remember("this"))
                    counts["posted"] += 1
                elif step == "ask":
                    nursery.start_soon(ask)
                    counts["posted"] += 1
                elif step == "receive" and mailbox.depth:
                    received.append(await mailbox.receive())
                elif step == "take" and mailbox.depth:
                    received.extend(await mailbox.take(3))
                elif step == "reply" and received:
                    received.pop(0).reply(2)
                elif step == "refuse" and received:
                    received.pop().refuse(NotFound("no"))
                elif step == "leave" and waiting:
                    waiting[0].cancel()
                    counts["left"] += 1
                await wait_all_tasks_blocked()
                health = address.health()
                assert 0 <= health.depth <= health.peak <= capacity
                assert health.rejected == counts["full"]
                assert counts["posted"] == health.depth + health.in_flight + health.handled
                assert address.idle == (health.depth + health.in_flight == 0)
            mailbox.close()
            async for envelope in mailbox:
                received.append(envelope)
            for envelope in received:
                envelope.reply(2)
        assert waiting == []
        assert address.health().handled == counts["posted"]

    trio.run(main)


def test_an_address_outside_of_trio_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        open_mailbox("numbers", 1)
