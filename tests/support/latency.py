"""Whether those who send events feel what else goes on: the event loop's lateness, and the slowest batch."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import trio

from tests.support.ingest import Bench, event


class Felt(NamedTuple):
    """What was felt at worst, in seconds: how late the event loop was, and how long a batch took."""

    lag: float
    submit: float


async def assert_nobody_feels(work: Callable[[], Awaitable[None]], bench: Bench) -> None:
    """While ``work`` runs, which must take more than a second, batches are acknowledged in less than one, and the event
    loop is never late by a quarter. Prints the figures, and what they were before."""
    felt: list[Felt] = []
    done = False

    async def run() -> None:
        nonlocal done
        await work()
        done = True

    with _as_in_service():
        quiet = await _felt_for(bench, 1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            while not done:
                felt.append(await _felt_for(bench, 0.5))
    lag, submit = max(one.lag for one in felt), max(one.submit for one in felt)
    print(
        f"loop late by {quiet.lag:.3f} s before and {lag:.3f} s during it, "
        f"worst 201 {quiet.submit:.3f} s before and {submit:.3f} s during it"
    )
    assert len(felt) >= 3
    assert lag < 0.25
    assert submit < 1.0


@contextmanager
def _as_in_service() -> Iterator[None]:
    """What is there from the start is left alone by the garbage collector, as in the service. Here that is all that the
    test run holds: to walk along it takes longer than what is to be measured."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _felt_for(bench: Bench, seconds: float) -> Felt:
    """What those feel who send events all the time, for some seconds."""
    lag = slowest = 0.0

    async def watch() -> None:
        nonlocal lag
        while True:
            due = trio.current_time() + 0.005
            await trio.sleep_until(due)
            lag = max(lag, trio.current_time() - due)

    until = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        while trio.current_time() < until:
            began = trio.current_time()
            await bench.submit(*(event(metadata={"n": n}) for n in range(5)))
            slowest = max(slowest, trio.current_time() - began)
        nursery.cancel_scope.cancel()
    return Felt(lag, slowest)
