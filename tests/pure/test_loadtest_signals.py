"""A first signal ends the load test's sending, a second one the load test."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from logstitch.loadtest.run import _heed_signals

STOPPING = "stopping; what was acknowledged is verified (again to give up)\n"


async def test_a_second_signal_gives_up_without_another_word(capfd: pytest.CaptureFixture[str]) -> None:
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(_heed_signals, stop, nursery.cancel_scope)

            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
            assert capfd.readouterr().err == STOPPING
            assert not nursery.cancel_scope.cancel_called

            os.kill(os.getpid(), signal.SIGINT)
            await trio.sleep(60)

    assert nursery.cancel_scope.cancelled_caught
    assert capfd.readouterr().err == ""
