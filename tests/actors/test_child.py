"""A conversation with a child process: what passes, what its end looks like, and that it is never left behind."""

from __future__ import annotations

import os

import pytest
import trio

from logstitch.actors.child import Child, ChildFailed, open_child
from logstitch.frames import END, frame
from tests.support.children import child_at_work, running

ECHO = """
from logstitch.frames import read_frame, write_frame
while True:
    message = read_frame(sys.stdin.buffer)
    write_frame(sys.stdout.buffer, b"the mark" if message is None else message)
    sys.stdout.buffer.flush()
"""
DEAF = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(60)  # deaf
"""


async def test_it_answers_in_the_order_in_which_it_was_asked() -> None:
    messages = [b"one", b"", b"x" * 3_000_000]  # the last is more than a pipe holds
    async with open_child(ECHO) as child:
        answers = []
        with trio.fail_after(20):
            for message in messages:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(child.send, frame(message))
                    answers.append(await child.receive())
            await child.send(END)
            answers.append(await child.receive())

    assert answers == [*messages, b"the mark"]


async def test_it_is_out_of_reach_of_ctrl_c_and_its_low_priority_counts_beside_the_service() -> None:
    async with open_child(DEAF):
        child = await child_at_work("deaf")

        assert os.getpgid(child.pid) != os.getpgid(0)
        # Linux minds niceness only among the processes of one session, where it groups them by session at all.
        assert os.getsid(child.pid) == os.getsid(0)


@pytest.mark.parametrize(
    "said",
    ["b''", "b'\\0\\0'", "b'\\0\\0\\0\\5four'"],
    ids=["nothing", "half a head", "less than was announced"],
)
async def test_one_that_ends_before_its_message_does_has_failed(said: str) -> None:
    async with open_child(f"sys.stdout.buffer.write({said})") as child:
        with trio.fail_after(20), pytest.raises(ChildFailed):
            await child.receive()


async def test_one_that_has_ended_takes_no_more_messages() -> None:
    async with open_child("raise SystemExit(1)") as child:
        with trio.fail_after(20), pytest.raises(ChildFailed):
            await _send_for_ever(child)


async def _send_for_ever(child: Child) -> None:
    while True:  # until the pipe is full, or broken
        await child.send(frame(bytes(100_000)))


async def test_a_length_that_cannot_be_is_no_message() -> None:
    async with open_child("sys.stdout.buffer.write(b'\\xff\\xff\\xff\\xfe')") as child:
        with trio.fail_after(20), pytest.raises(ValueError, match="length"):
            await child.receive()


async def test_it_is_killed_at_the_end_of_the_block_whatever_it_is_at() -> None:
    with trio.fail_after(20):
        async with open_child(DEAF):
            await child_at_work("deaf")
    assert not running("deaf")


async def test_it_is_killed_where_the_block_is_cancelled() -> None:
    with trio.fail_after(20), trio.CancelScope() as scope:
        async with open_child(DEAF) as child:
            await child_at_work("deaf")
            scope.cancel()
            await child.receive()
    assert scope.cancelled_caught
    assert not running("deaf")
