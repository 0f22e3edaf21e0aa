"""An overdue call is cut, whatever else is short."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from logstitch.store.watchdog import Call, Watchdog


def attached(link: socket.socket) -> Call:
    """A call, overdue at 10, of a connection of which only its descriptor matters."""
    call = Call()
    call.attach(cast(Any, link), deadline=10.0)
    return call


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_an_overdue_call_is_cut_when_no_descriptor_is_left() -> None:
    here, there = socket.socketpair()
    with here, there:
        watchdog, call = Watchdog(), attached(here)
        with watchdog.over(call):
            watchdog.cut_overdue(9.0)
            assert not call.cut

            with no_descriptor_left():
                watchdog.cut_overdue(10.0)

            assert (call.cut, watchdog.cut) == (True, 1)
            assert there.recv(1) == b""  # shut down for whoever reads from it, at both ends
            assert here.recv(1) == b""
        call.detach()
        assert here.fileno() >= 0


def test_a_call_whose_link_is_gone_is_cut_without_a_complaint() -> None:
    here, there = socket.socketpair()
    with here, there:
        call = attached(here)
        here.shutdown(socket.SHUT_RDWR)
        there.close()

        assert call.cut_if_overdue(10.0)
        assert not call.cut_if_overdue(11.0), "once"
        call.detach()
