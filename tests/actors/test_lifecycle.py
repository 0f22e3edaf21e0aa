"""The shared lifecycle check: well-behaved actors of every build pass it, and each way to misbehave fails it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from logstitch.actors.mailbox import Ask, Envelope, Mailbox
from logstitch.actors.supervisor import Actor
from logstitch.errors import NotFound
from tests.actors.lifecycle import (
    LIFECYCLE,
    Check,
    Subject,
    check_cancel,
    check_clean_stop,
    check_crash,
    check_crash_loop,
    check_drain,
    check_full_mailbox,
)


@dataclass(frozen=True, slots=True)
class Double(Ask[int]):
    number: int


class OneByOne:
    """Reads and answers, with a little work in between."""

    async def run(self, mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            await trio.sleep(0.01)
            envelope.reply(2 * envelope.message.number)


class Batching:
    """Takes what is queued and lets the end of the mailbox end it."""

    async def run(self, mailbox: Mailbox) -> None:
        while True:
            batch = await mailbox.take(100)
            await trio.sleep(0.01)
            for envelope in batch:
                envelope.reply(2 * envelope.message.number)


class Pipelined:
    """One task reads, another answers: a run with a nursery of its own."""

    async def run(self, mailbox: Mailbox) -> None:
        send, receive = trio.open_memory_channel[Envelope[Double]](2)

        async def answer() -> None:
            async for envelope in receive:
                await trio.sleep(0.01)
                envelope.reply(2 * envelope.message.number)

        async with trio.open_nursery() as nursery, send:
            nursery.start_soon(answer)
            async for envelope in mailbox:
                await send.send(envelope)


class Refusing:
    """A refusal is an answer, too."""

    async def run(self, mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            envelope.refuse(NotFound("There is no such number."))


@pytest.mark.parametrize("check", LIFECYCLE)
@pytest.mark.parametrize("actor", [OneByOne, Batching, Pipelined, Refusing])
async def test_a_well_behaved_actor_passes(actor: Callable[[], Actor], check: Check, autojump_clock: MockClock) -> None:
    await check(Subject(factory=actor, question=lambda: Double(21)))


class StaysOn(OneByOne):
    """Does not end with its mailbox."""

    async def run(self, mailbox: Mailbox) -> None:
        await super().run(mailbox)
        await trio.sleep_forever()


class LeavesEarly(OneByOne):
    """Takes the closing for the end and leaves the queue behind."""

    async def run(self, mailbox: Mailbox) -> None:
        while not mailbox.closed:
            (await mailbox.receive()).reply(0)


class HidesCancellation(OneByOne):
    """Turns its cancellation into a failure."""

    async def run(self, mailbox: Mailbox) -> None:
        try:
            await super().run(mailbox)
        except BaseException:
            raise RuntimeError("something went wrong") from None


class AnswersOnce:
    """Goes silent after the first message."""

    async def run(self, mailbox: Mailbox) -> None:
        (await mailbox.receive()).reply(0)
        async for _ in mailbox:
            pass


class ForgetsTheBacklog(OneByOne):
    """Throws away what came before it began."""

    async def run(self, mailbox: Mailbox) -> None:
        while mailbox.depth:
            mailbox.receive_nowait()
        await super().run(mailbox)


def unclean() -> Callable[[], Actor]:
    """Actors that keep something taken when they crash, so that the next run finds it gone."""
    lock = trio.Lock()

    class Unclean(OneByOne):
        async def run(self, mailbox: Mailbox) -> None:
            with trio.move_on_after(1):
                await lock.acquire()
                await super().run(mailbox)
                lock.release()
            await trio.sleep_forever()

    return Unclean


@pytest.mark.parametrize(
    ("check", "actor"),
    [
        pytest.param(check_clean_stop, lambda: StaysOn, id="does not end with its mailbox"),
        pytest.param(check_crash, unclean, id="cannot come back"),
        pytest.param(check_crash_loop, lambda: ForgetsTheBacklog, id="forgets what queued before it began"),
        pytest.param(check_cancel, lambda: HidesCancellation, id="turns cancellation into a failure"),
        pytest.param(check_full_mailbox, lambda: AnswersOnce, id="leaves asks unanswered"),
        pytest.param(check_drain, lambda: LeavesEarly, id="leaves its queue behind"),
    ],
)
async def test_a_misbehaving_one_does_not(
    check: Check, actor: Callable[[], Callable[[], Actor]], autojump_clock: MockClock
) -> None:
    with pytest.raises((AssertionError, trio.TooSlowError)):
        await check(Subject(factory=actor(), question=lambda: Double(21)))
