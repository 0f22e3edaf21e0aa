"""How actors are kept alive and how they are stopped. Time is Trio's autojump clock: hours pass in milliseconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from logstitch.actors.health import ActorState
from logstitch.actors.mailbox import Address, Ask, Mailbox
from logstitch.actors.supervisor import Actor, Crash, Supervisor, open_supervisor
from logstitch.errors import ActorDown, Draining, Unavailable
from tests.support.errors import ErrorLogs


@dataclass(frozen=True, slots=True)
class Work(Ask[str]):
    """Answered with ``done`` after so many seconds, or crashed on."""

    seconds: float = 0.0
    crash: Exception | None = None


class Worker:
    """Does one piece of work after the other."""

    async def run(self, mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            work: Work = envelope.message
            await trio.sleep(work.seconds)
            if work.crash is not None:
                raise work.crash
            envelope.reply("done")


@dataclass
class Scripted:
    """An actor that is one function."""

    script: Callable[[Mailbox], Awaitable[None]]

    async def run(self, mailbox: Mailbox) -> None:
        await self.script(mailbox)


@dataclass
class Asked:
    """What came of some asks: answers and error names with the time of each."""

    address: Address
    outcomes: list[tuple[float, str]] = field(default_factory=list)

    async def ask(self, work: Work) -> None:
        try:
            outcome = await self.address.ask(work, timeout=1e6)
        except Unavailable as error:
            outcome = type(error).__name__
        self.outcomes.append((round(trio.current_time(), 6), outcome))


@dataclass
class House:
    """A supervisor whose jitter is off, and the crashes it has seen."""

    supervisor: Supervisor
    crashes: list[Crash]


@asynccontextmanager
async def open_house(**options: Any) -> AsyncIterator[House]:
    crashes: list[Crash] = []
    async with open_supervisor(chance=lambda: 0.0, on_crash=crashes.append, **options) as supervisor:
        yield House(supervisor, crashes)


def state(address: Address) -> ActorState:
    return address.health().state


# -- crashing ------------------------------------------------------------------------------------------------------


async def test_an_ask_in_flight_hears_of_the_crash_at_once_and_a_queued_one_is_answered_by_the_next_run(
    autojump_clock: MockClock,
) -> None:
    async with open_house() as house:
        address = house.supervisor.start("worker", Worker, capacity=4)
        asked = Asked(address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work(3, crash=ValueError()))
            await wait_all_tasks_blocked()
            nursery.start_soon(asked.ask, Work(1))
            await trio.sleep(3.2)
            assert state(address) is ActorState.BACKING_OFF
    assert asked.outcomes == [(3.0, "ActorDown"), (4.5, "done")]
    assert [(crash.path, crash.error, crash.dropped, crash.delay) for crash in house.crashes] == [
        ("worker", "ValueError", 1, 0.5)
    ]
    assert address.health().restarts == 1
    assert address.health().last_error == "ValueError"


async def test_each_run_has_a_new_actor(autojump_clock: MockClock) -> None:
    made = []

    def factory() -> Actor:
        made.append(Worker())
        return made[-1]

    async with open_house() as house:
        address = house.supervisor.start("worker", factory, capacity=4)
        address.tell(Work(crash=ValueError()))
        assert await address.ask(Work(), timeout=10) == "done"
    assert len(made) == 2


async def test_a_crash_loop_slows_down_to_one_try_in_thirty_seconds(autojump_clock: MockClock) -> None:
    tries: list[float] = []

    def factory() -> Actor:
        tries.append(trio.current_time())
        raise OSError

    async with open_house() as house:
        house.supervisor.start("worker", factory, capacity=4)
        await trio.sleep(130)
    assert tries == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5, 91.5, 121.5])
    assert [crash.failures for crash in house.crashes] == list(range(1, 11))


async def test_a_minute_of_health_forgives(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        address = house.supervisor.start("worker", Worker, capacity=4)
        for seconds in (0, 0, 0, 59, 61):
            await trio.sleep(seconds)
            address.tell(Work(crash=ValueError()))
            await wait_all_tasks_blocked()
            await trio.sleep(house.crashes[-1].delay)
    assert [crash.delay for crash in house.crashes] == [0.5, 1.0, 2.0, 4.0, 0.5]


async def test_one_actors_crash_is_no_other_ones(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        bad = house.supervisor.start("bad", Worker, capacity=4)
        good = house.supervisor.start("good", Worker, capacity=4)
        bad.tell(Work(crash=ValueError()))
        assert await good.ask(Work(), timeout=0.1) == "done"
        assert good.health().restarts == 0


async def returns(_: Mailbox) -> None:
    return


async def leaves_an_ask_unanswered(mailbox: Mailbox) -> None:
    async for _ in mailbox:
        pass


async def test_returning_while_the_mailbox_is_open_is_a_crash(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        address = house.supervisor.start("worker", lambda: Scripted(returns), capacity=4)
        await trio.sleep(0.1)
        assert state(address) is ActorState.BACKING_OFF
    assert [crash.error for crash in house.crashes] == ["ReturnedEarly"]


async def test_so_is_the_end_of_some_other_channel(autojump_clock: MockClock) -> None:
    async def reads_another(_: Mailbox) -> None:
        raise trio.EndOfChannel

    async with open_house() as house:
        house.supervisor.start("worker", lambda: Scripted(reads_another), capacity=4)
        await trio.sleep(0.1)
    assert [crash.error for crash in house.crashes] == ["EndOfChannel"]


async def test_returning_with_an_ask_unanswered_is_one_too_and_the_asker_hears_of_it(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        address = house.supervisor.start("worker", lambda: Scripted(leaves_an_ask_unanswered), capacity=4)
        asked = Asked(address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work())
            await wait_all_tasks_blocked()
            await house.supervisor.stop("worker", deadline_seconds=10)
    assert asked.outcomes == [(0.0, "ActorDown")]
    assert [crash.error for crash in house.crashes] == ["ReturnedEarly"]


async def test_returning_before_a_closed_mailbox_is_drained_leaves_the_rest_to_the_next_run(
    autojump_clock: MockClock,
) -> None:
    async def ends_after_a_second(_: Mailbox) -> None:
        await trio.sleep(1)

    scripts = [Worker().run, ends_after_a_second]
    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", lambda: Scripted(scripts.pop()), capacity=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work())
            await wait_all_tasks_blocked()
            house.supervisor.retire("worker")
    assert asked.outcomes == [(1.5, "done")]
    assert [crash.error for crash in house.crashes] == ["ReturnedEarly"]


async def test_an_error_is_named_by_the_types_in_its_groups(autojump_clock: MockClock) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def in_nurseries(_: Mailbox) -> None:
        async with trio.open_nursery() as outer:
            outer.start_soon(fail, KeyError("a"))
            async with trio.open_nursery() as inner:
                inner.start_soon(fail, OSError("b"))
                inner.start_soon(fail, OSError("c"))

    async with open_house() as house:
        house.supervisor.start("worker", lambda: Scripted(in_nurseries), capacity=4)
        await trio.sleep(0.1)
    assert set(house.crashes[0].error.split(", ")) == {"KeyError", "OSError"}
    assert house.crashes[0].frames[-1].endswith(".fail")


async def test_a_crash_is_logged_by_type_and_path_and_without_contents(
    autojump_clock: MockClock, error_logs: ErrorLogs
) -> None:
    error_logs.expect("actor crashed")
    with capture_logs() as logs:
        async with open_supervisor() as supervisor:
            address = supervisor.start("worker", Worker, capacity=4)
            address.tell(Work(crash=ValueError("card 4111 1111 1111 1111")))
            await trio.sleep(0.1)
    (line,) = logs
    assert (line["log_level"], line["event"], line["path"], line["error"]) == (
        "error",
        "actor crashed",
        "worker",
        "ValueError",
    )
    assert line["frames"][-1].endswith(" Worker.run")
    assert "4111" not in str(logs)
    error_logs.seen.append("actor crashed")  # capture_logs took it from the fixture's eyes


# -- being cancelled -----------------------------------------------------------------------------------------------


async def test_cancelling_the_supervisor_is_no_crash_and_nobody_waits_on(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as askers:
        with trio.CancelScope() as scope:
            async with open_house() as house:
                asked = Asked(house.supervisor.start("worker", Worker, capacity=4))
                askers.start_soon(asked.ask, Work(100))
                await wait_all_tasks_blocked()
                askers.start_soon(asked.ask, Work())
                await wait_all_tasks_blocked()
                scope.cancel()
                await trio.sleep_forever()
    assert asked.outcomes == [(0.0, "ActorDown")] * 2
    assert house.crashes == []
    assert state(asked.address) is ActorState.STOPPED


async def test_a_cleanup_that_fails_is_reported_and_the_cancellation_goes_its_way(autojump_clock: MockClock) -> None:
    async def fails_when_cancelled(_: Mailbox) -> None:
        async def fail_at_the_end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise OSError

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            nursery.start_soon(trio.sleep_forever)

    with trio.move_on_after(1) as scope:
        async with open_house() as house:
            house.supervisor.start("worker", lambda: Scripted(fails_when_cancelled), capacity=4)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert [crash.error for crash in house.crashes] == ["OSError"]


async def test_what_is_meant_for_the_whole_process_is_not_kept_from_it(autojump_clock: MockClock) -> None:
    async def exits(_: Mailbox) -> None:
        raise BaseExceptionGroup("both", [SystemExit(3), OSError()])

    try:
        async with open_house() as house:
            house.supervisor.start("worker", lambda: Scripted(exits), capacity=4)
            await trio.sleep_forever()
    except BaseExceptionGroup as group:
        caught = group
    exit, rest = caught.split(SystemExit)
    assert exit is not None
    assert rest is None
    assert [crash.error for crash in house.crashes] == ["OSError"]


# -- being stuck ---------------------------------------------------------------------------------------------------


async def test_an_actor_without_progress_for_thirty_seconds_is_stuck_and_restarted(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", Worker, capacity=4))
        await trio.sleep(100)  # at rest it is not stuck
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work(1000))
            await trio.sleep(7)
            nursery.start_soon(asked.ask, Work())
            await trio.sleep(22.9)
            assert state(asked.address) is ActorState.RUNNING
        assert asked.outcomes == [(130.0, "ActorDown"), (130.5, "done")]
    assert [(crash.error, crash.dropped) for crash in house.crashes] == [("Stuck", 1)]


async def test_a_queue_that_grew_old_in_a_backoff_makes_no_run_stuck(autojump_clock: MockClock) -> None:
    failures = [OSError()] * 7

    async def begins_slowly(mailbox: Mailbox) -> None:
        await trio.sleep(10)
        await Worker().run(mailbox)

    def factory() -> Actor:
        if failures:
            raise failures.pop()
        return Scripted(begins_slowly)

    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", factory, capacity=4))
        await asked.ask(Work())
    assert asked.outcomes == [(71.5, "done")]


async def test_a_stuck_actor_that_is_slow_to_end_is_shown_as_stuck_and_not_run_twice(autojump_clock: MockClock) -> None:
    runs: list[float] = []

    async def ends_slowly(mailbox: Mailbox) -> None:
        runs.append(trio.current_time())
        async for envelope in mailbox:
            if len(runs) > 1:
                envelope.reply("done")
                continue
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 40):
                await trio.sleep_forever()

    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", lambda: Scripted(ends_slowly), capacity=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work())
            await trio.sleep(31)
            assert asked.outcomes == [(30.0, "ActorDown")]
            assert state(asked.address) is ActorState.STUCK
            nursery.start_soon(asked.ask, Work())
    assert asked.outcomes[1:] == [(40.5, "done")]
    assert runs == [0.0, 40.5]


async def test_who_says_that_it_gets_on_is_not_stuck(autojump_clock: MockClock) -> None:
    async def works_long(mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            for _ in range(10):
                await trio.sleep(20)
                mailbox.progress()
            envelope.reply("done")

    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", lambda: Scripted(works_long), capacity=4))
        await asked.ask(Work())
    assert asked.outcomes == [(200.0, "done")]
    assert house.crashes == []


async def test_a_tell_that_hangs_is_stuck_as_well(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        house.supervisor.start("worker", Worker, capacity=4).tell(Work(1000))
        await trio.sleep(31)
    assert [crash.error for crash in house.crashes] == ["Stuck"]


async def test_when_the_whole_process_stood_still_no_actor_is_to_blame(mock_clock: MockClock) -> None:
    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", Worker, capacity=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work(200))
            await wait_all_tasks_blocked()
            mock_clock.jump(100)
            await wait_all_tasks_blocked()
            mock_clock.autojump_threshold = 0
            await trio.sleep(29.9)
            assert house.crashes == []
            await trio.sleep(0.2)
            assert [crash.error for crash in house.crashes] == ["Stuck"]


async def test_a_stuck_actor_whose_cleanup_fails_is_one_crash(autojump_clock: MockClock) -> None:
    async def hangs(mailbox: Mailbox) -> None:
        await mailbox.receive()
        try:
            await trio.sleep_forever()
        finally:
            raise OSError

    with capture_logs() as logs:
        async with open_house() as house:
            house.supervisor.start("worker", lambda: Scripted(hangs), capacity=4).tell(Work())
            await trio.sleep(31)
    assert [crash.error for crash in house.crashes] == ["Stuck"]
    assert [(line["event"], line["error"]) for line in logs] == [("stuck actor raised", "OSError")]


# -- being stopped -------------------------------------------------------------------------------------------------


async def test_a_stop_takes_nothing_new_and_drains_what_is_queued(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", Worker, capacity=4))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(asked.ask, Work(1))
            await wait_all_tasks_blocked()
            nursery.start_soon(lambda: house.supervisor.stop("worker", deadline_seconds=10))
            await wait_all_tasks_blocked()
            assert state(asked.address) is ActorState.STOPPING
            await asked.ask(Work())
    assert asked.outcomes == [(0.0, "ActorDown"), (1.0, "done"), (2.0, "done"), (3.0, "done")]
    assert house.supervisor.addresses() == {}
    assert house.crashes == []


async def test_a_tell_that_was_worked_off_last_is_not_missed(autojump_clock: MockClock) -> None:
    async def takes_one(mailbox: Mailbox) -> None:
        await mailbox.receive()
        await trio.sleep(1)

    with capture_logs() as logs:
        async with open_house() as house:
            address = house.supervisor.start("worker", lambda: Scripted(takes_one), capacity=4)
            address.tell(Work())
            await wait_all_tasks_blocked()
            await house.supervisor.stop("worker", deadline_seconds=10)
    assert address.health().handled == 1
    assert house.crashes == []
    assert logs == []


async def test_a_drain_ends_at_its_deadline(autojump_clock: MockClock) -> None:
    with capture_logs() as logs:
        async with open_house() as house:
            asked = Asked(house.supervisor.start("worker", Worker, capacity=4))
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(asked.ask, Work(1))
                await wait_all_tasks_blocked()
                await house.supervisor.stop("worker", deadline_seconds=1.5)
    assert asked.outcomes == [(1.0, "done"), (1.5, "ActorDown"), (1.5, "ActorDown")]
    assert house.crashes == []
    assert [(line["event"], line["lost"]) for line in logs] == [("actor ended with messages left", 2)]


async def test_the_deadline_holds_although_whoever_stops_is_cancelled(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", Worker, capacity=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work(100))
            await wait_all_tasks_blocked()
            with trio.move_on_after(1):
                await house.supervisor.stop("worker", deadline_seconds=5)
    assert asked.outcomes == [(5.0, "ActorDown")]


async def test_an_actor_that_crashes_while_it_drains_comes_back_for_the_rest(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", Worker, capacity=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work(1, crash=ValueError()))
            await wait_all_tasks_blocked()
            nursery.start_soon(asked.ask, Work())
            await wait_all_tasks_blocked()
            await house.supervisor.stop("worker", deadline_seconds=10)
    assert asked.outcomes == [(1.0, "ActorDown"), (1.5, "done")]


async def test_one_that_crashes_on_its_last_message_does_not(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        address = house.supervisor.start("worker", Worker, capacity=4)
        address.tell(Work(1, crash=ValueError()))
        await house.supervisor.stop("worker", deadline_seconds=10)
        assert trio.current_time() == pytest.approx(1)
    assert address.health().restarts == 0


async def test_a_stop_cuts_a_backoff_short(autojump_clock: MockClock) -> None:
    failures = [OSError()] * 8

    def factory() -> Actor:
        if failures:
            raise failures.pop()
        return Worker()

    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", factory, capacity=4))
        await trio.sleep(70)
        assert state(asked.address) is ActorState.BACKING_OFF
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work())
            await wait_all_tasks_blocked()
            await house.supervisor.stop("worker", deadline_seconds=10)
    assert asked.outcomes == [(70.0, "done")]


async def test_one_that_ignores_its_cancellation_is_reported_and_not_waited_for(
    autojump_clock: MockClock, error_logs: ErrorLogs
) -> None:
    async def stays(_: Mailbox) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 60):
            await trio.sleep_forever()

    error_logs.expect("actors ignore their cancellation {'paths': ['worker']")
    async with open_house() as house:
        house.supervisor.start("worker", lambda: Scripted(stays), capacity=4)
        await wait_all_tasks_blocked()
        await house.supervisor.stop("worker", deadline_seconds=1)
        assert trio.current_time() == pytest.approx(6)
        assert list(house.supervisor.addresses()) == ["worker"]
    assert trio.current_time() == pytest.approx(60)


async def test_stopping_what_is_not_there_does_nothing() -> None:
    async with open_supervisor() as supervisor:
        await supervisor.stop("nobody", deadline_seconds=1)
        supervisor.retire("nobody")


async def test_the_next_of_a_path_runs_when_the_last_has_ended(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        first = Asked(house.supervisor.start("worker", Worker, capacity=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.ask, Work(5))
            await wait_all_tasks_blocked()
            house.supervisor.retire("worker")
            second = Asked(house.supervisor.start("worker", Worker, capacity=4))
            nursery.start_soon(second.ask, Work(1))
            await trio.sleep(1)
            assert state(second.address) is ActorState.STARTING
    assert (first.outcomes, second.outcomes) == ([(5.0, "done")], [(6.0, "done")])


async def test_that_holds_for_the_one_after_next_although_the_next_never_ran(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        first = Asked(house.supervisor.start("worker", Worker, capacity=4))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.ask, Work(5))
            await wait_all_tasks_blocked()
            house.supervisor.retire("worker")
            house.supervisor.start("worker", Worker, capacity=4)
            with trio.move_on_after(1):
                await house.supervisor.stop("worker", deadline_seconds=0.5)
            third = Asked(house.supervisor.start("worker", Worker, capacity=4))
            nursery.start_soon(third.ask, Work())
    assert (first.outcomes, third.outcomes) == ([(5.0, "done")], [(5.0, "done")])


async def test_two_of_a_path_are_a_mistake() -> None:
    async with open_supervisor() as supervisor:
        supervisor.start("worker", Worker, capacity=4)
        with pytest.raises(ValueError, match="worker is started already"):
            supervisor.start("worker", Worker, capacity=4)


async def test_an_idle_actor_is_stopped(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", Worker, capacity=4, idle_after=60))
        await asked.ask(Work(25))
        await trio.sleep(59.5)
        assert state(asked.address) is ActorState.RUNNING
        await trio.sleep(1)
        assert state(asked.address) is ActorState.STOPPED
        assert house.supervisor.health() == []


async def test_one_at_work_is_not_idle_however_long_it_takes(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        asked = Asked(house.supervisor.start("worker", Worker, capacity=4, idle_after=5))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.ask, Work(20))
            await trio.sleep(15)
            await asked.ask(Work())
    assert asked.outcomes == [(20.0, "done")] * 2


# -- leaving -------------------------------------------------------------------------------------------------------


@dataclass
class Forwards:
    """Passes its work on, as ingest does to the evaluator."""

    to: Address

    async def run(self, mailbox: Mailbox) -> None:
        async for envelope in mailbox:
            await trio.sleep(1)
            envelope.reply(await self.to.ask(envelope.message, timeout=10))


async def test_leaving_stops_in_reverse_order_so_that_what_is_sent_on_still_arrives(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        async with open_house() as house:
            last = house.supervisor.start("last", Worker, capacity=4)
            asked = Asked(house.supervisor.start("first", lambda: Forwards(last), capacity=4))
            nursery.start_soon(asked.ask, Work(1))
            nursery.start_soon(asked.ask, Work(1))
            await wait_all_tasks_blocked()
        assert trio.current_time() == pytest.approx(4)
    assert asked.outcomes == [(2.0, "done"), (4.0, "done")]


async def test_a_group_is_stopped_together_in_its_place_and_takes_new_actors_until_then(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        async with open_house() as house:
            house.supervisor.reserve("last")

            async def starts_another(mailbox: Mailbox) -> None:
                async for envelope in mailbox:
                    other = house.supervisor.start(f"last/{envelope.message.seconds}", Worker, capacity=4)
                    envelope.reply(await other.ask(envelope.message, timeout=10))

            for name in "abc":
                address = house.supervisor.start(f"first/{name}", lambda: Scripted(starts_another), capacity=4)
                nursery.start_soon(Asked(address).ask, Work(ord(name) - 94))
            await wait_all_tasks_blocked()
            asked = Asked(address)
            nursery.start_soon(asked.ask, Work(1))
            await wait_all_tasks_blocked()
        assert trio.current_time() == pytest.approx(5 + 1)
    assert asked.outcomes == [(6.0, "done")]


async def test_who_comes_too_late_is_told_that_the_service_is_draining(autojump_clock: MockClock) -> None:
    errors: list[Draining] = []

    async def starts_at_its_end(mailbox: Mailbox) -> None:
        async for _ in mailbox:
            pass
        try:
            house.supervisor.start("first/b", Worker, capacity=4)
        except Draining as error:
            errors.append(error)

    async with open_house() as house:
        house.supervisor.start("first/a", lambda: Scripted(starts_at_its_end), capacity=4)
    assert len(errors) == 1


async def test_each_group_has_its_share_of_the_time_and_what_others_left_of_theirs(autojump_clock: MockClock) -> None:
    ended: dict[str, float] = {}

    async def lasting(seconds: float, mailbox: Mailbox) -> None:
        try:
            async for _ in mailbox:
                pass
            await trio.sleep(seconds)
        finally:
            ended[mailbox.name] = round(trio.current_time(), 3)

    async with open_house(drain_seconds=12) as house:
        for name, seconds in {"third": 100.0, "second": 0.0, "first": 100.0}.items():
            house.supervisor.start(name, partial(Scripted, partial(lasting, seconds)), capacity=1)
    assert ended == {"first": 4.0, "second": 4.0, "third": 12.0}


async def test_an_error_out_of_the_block_is_raised_as_it_is_and_after_the_drain(autojump_clock: MockClock) -> None:
    error = ValueError("out of the block")
    async with trio.open_nursery() as nursery:
        try:
            async with open_house() as house:
                asked = Asked(house.supervisor.start("worker", Worker, capacity=4))
                nursery.start_soon(asked.ask, Work(3))
                await wait_all_tasks_blocked()
                raise error
        except ValueError as raised:
            caught = raised
    assert caught is error
    assert asked.outcomes == [(3.0, "done")]


# -- seeing --------------------------------------------------------------------------------------------------------


async def test_health_and_addresses_show_what_is_there_in_order_of_start(autojump_clock: MockClock) -> None:
    async with open_house() as house:
        started = [house.supervisor.start(path, Worker, capacity=4) for path in ("keyring", "ingest/2", "ingest/1")]
        await wait_all_tasks_blocked()
        assert [(one.path, one.state) for one in house.supervisor.health()] == [
            ("keyring", ActorState.RUNNING),
            ("ingest/2", ActorState.RUNNING),
            ("ingest/1", ActorState.RUNNING),
        ]
        assert list(house.supervisor.addresses().values()) == started


async def test_an_address_of_a_stopped_actor_says_so() -> None:
    async with open_house() as house:
        address = house.supervisor.start("worker", Worker, capacity=4)
    with pytest.raises(ActorDown):
        address.tell(Work())
