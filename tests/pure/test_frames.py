"""Messages over pipes: what goes in comes out, and what breaks off is never taken for a message."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.frames import END, HEAD_BYTES, MAX_FRAME_BYTES, frame, length_of, read_frame, write_frame

PAYLOADS = st.lists(st.binary(max_size=300), max_size=5)


@given(PAYLOADS)
def test_messages_come_out_as_they_went_in_up_to_the_mark(payloads: list[bytes]) -> None:
    stream = io.BytesIO()
    for payload in payloads:
        write_frame(stream, payload)
    stream.write(END)
    stream.seek(0)

    assert [read_frame(stream) for _ in payloads] == payloads
    assert read_frame(stream) is None
    with pytest.raises(EOFError):
        read_frame(stream)


@given(st.binary(max_size=300))
def test_a_message_is_written_as_it_is_framed(payload: bytes) -> None:
    stream = io.BytesIO()
    write_frame(stream, payload)

    assert stream.getvalue() == frame(payload)
    assert length_of(frame(payload)[:HEAD_BYTES]) == len(payload)


@given(st.binary(max_size=300), st.data())
def test_a_message_that_breaks_off_is_none(payload: bytes, data: st.DataObject) -> None:
    whole = frame(payload)
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]

    with pytest.raises(EOFError):
        read_frame(io.BytesIO(part))


@given(st.integers(MAX_FRAME_BYTES + 1, 2**32 - 1))
def test_a_length_that_cannot_be_is_refused_before_anything_is_read(length: int) -> None:
    head = struct.pack(">I", length)

    with pytest.raises(ValueError, match="cannot be"):
        length_of(head)
    if head != END:
        with pytest.raises(ValueError, match="cannot be"):
            read_frame(io.BytesIO(head))


def test_a_message_is_as_long_as_it_may_be_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logstitch.frames.MAX_FRAME_BYTES", 8)

    assert read_frame(io.BytesIO(frame(bytes(8)))) == bytes(8)
    with pytest.raises(ValueError, match="too long"):
        frame(bytes(9))
    with pytest.raises(ValueError, match="too long"):
        write_frame(io.BytesIO(), bytes(9))
