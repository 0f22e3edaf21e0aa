"""Segments and places: the arithmetic that keeps a reader from skipping, repeating, and reading too much."""

from __future__ import annotations

import re
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.search.segments import (
    GREATEST_ID,
    LEAST_ID,
    SEGMENT_EVENTS,
    Layout,
    Place,
    Span,
    Steps,
    Unit,
    Window,
    best_first,
    is_glob,
    lexeme_prefix,
    like_pattern,
    segment_of,
    tsquery,
)

IDS = st.sampled_from([LEAST_ID, UUID(int=1), UUID(int=2**127), UUID(int=2**128 - 2), GREATEST_ID])
PLACES = st.builds(Place, st.integers(-3, 3), IDS)
WINDOWS = st.builds(Window, PLACES, PLACES, st.booleans())


@st.composite
def spans(draw: st.DrawFn) -> Span:
    oldest, newest = sorted((draw(st.integers(-4, 4)), draw(st.integers(-4, 4))))
    return Span(draw(st.integers(0, 99)), oldest, newest, draw(st.booleans()))


def test_segments_hold_16384_events() -> None:
    assert [segment_of(seq) for seq in (1, 16_384, 16_385, 32_768, 32_769)] == [0, 0, 1, 1, 2]
    assert SEGMENT_EVENTS == 16_384


def test_lexemes_begin_with_project_and_segment_in_hex() -> None:
    assert lexeme_prefix(255, 16) == b"ff.10:"


@given(place=PLACES)
def test_the_following_place_is_the_next_one(place: Place) -> None:
    assert place < place.following()
    assert place.following().preceding() == place
    assert place.preceding().following() == place


@given(window=WINDOWS, seen=PLACES, other=PLACES)
def test_what_is_after_a_place_was_not_read_before_it(window: Window, seen: Place, other: Place) -> None:
    rest = window.after(seen)
    later = other < seen if window.newest_first else other > seen
    assert (other in rest) == (other in window and later)
    assert (other in window.before(seen)) == (other in window and not later and other != seen)


@given(window=WINDOWS, seen=PLACES)
def test_a_window_can_be_come_back_to(window: Window, seen: Place) -> None:
    rest = window.after(seen)
    assert window.after(rest.last_read()) == rest


@given(window=WINDOWS, span=spans(), place=PLACES)
def test_a_span_is_left_out_only_when_no_event_of_it_fits(window: Window, span: Span, place: Place) -> None:
    if span.oldest_ms <= place.ms <= span.newest_ms and place in window:
        assert span.may_hold(window)
        assert place in span.begins(window)


@given(window=WINDOWS, given_spans=st.lists(spans(), max_size=6))
def test_spans_come_in_the_order_of_their_first_events(window: Window, given_spans: list[Span]) -> None:
    ordered = best_first(given_spans, window)
    assert sorted(ordered, key=str) == sorted((span for span in given_spans if span.may_hold(window)), key=str)
    edges = [span.newest_ms if window.newest_first else span.oldest_ms for span in ordered]
    assert edges == sorted(edges, reverse=window.newest_first)


def test_dates_are_inclusive() -> None:
    window = Window.of(10, 20, newest_first=True)
    assert Place(10, LEAST_ID) in window
    assert Place(20, GREATEST_ID) in window
    assert Place(9, GREATEST_ID) not in window
    assert Place(21, LEAST_ID) not in window


def test_a_segment_is_cut_into_parts() -> None:
    layout = Layout(bits=3, part_bits=1)
    assert layout.unit(1) == Unit(1, 1, range(9, 17))
    assert layout.parts(0) == [
        Unit(-1, 0, range(1, 3)),
        Unit(-2, 0, range(3, 5)),
        Unit(-3, 0, range(5, 7)),
        Unit(-4, 0, range(7, 9)),
    ]
    assert layout.parts(1)[0] == Unit(-5, 1, range(9, 11))


@given(bits=st.integers(0, 6), segment=st.integers(0, 9), data=st.data())
def test_parts_cover_their_segment(bits: int, segment: int, data: st.DataObject) -> None:
    layout = Layout(bits, data.draw(st.integers(0, bits)))
    assert [seq for part in layout.parts(segment) for seq in part.seqs] == list(layout.seqs(segment))
    assert {segment_of(seq, bits) for seq in layout.seqs(segment)} == {segment}


def test_segments_are_taken_together_in_volumes() -> None:
    layout = Layout()
    assert [layout.volume(segment) for segment in (0, 31, 32, 609)] == [0, 0, 1, 19]
    assert layout.segments(1) == range(32, 64)


@given(volume_bits=st.integers(0, 6), segment=st.integers(0, 2**30 - 1))
def test_volumes_cover_their_segments_and_have_keys_of_their_own(volume_bits: int, segment: int) -> None:
    layout = Layout(3, 1, volume_bits)
    assert segment in layout.segments(volume := layout.volume(segment))
    assert len(layout.segments(volume)) == 2**volume_bits
    assert layout.volume_key(volume) >= 2**30 > segment


def test_steps_grow_while_they_are_quick() -> None:
    steps = Steps(most=20)
    sizes = []
    for seconds in (0.001, 0.001, 0.001, 0.001, 0.5, 0.5, 0.5, 0.001):
        sizes.append(steps.size)
        steps.took(seconds)
    assert sizes == [1, 4, 16, 20, 20, 10, 5, 2]


def test_a_tsquery_asks_each_segment_for_one_of_each_group() -> None:
    assert tsquery(2, [11, 10], [[b"Ax.y", b"Ax.z"], [b"Uada"]]) == (
        "('2.b:Ax.y' | '2.b:Ax.z') & ('2.b:Uada') | ('2.a:Ax.y' | '2.a:Ax.z') & ('2.a:Uada')"
    )


def test_a_tsquery_quotes_what_means_something() -> None:
    assert tsquery(1, [0], [[rb"Uo'neil\x"]]) == r"('1.0:Uo''neil\\x')"


@pytest.mark.parametrize(("segments", "facets"), [([], [[b"Ax"]]), ([1], []), ([1], [[b"Ax"], []])])
def test_a_tsquery_of_nothing_is_refused(segments: list[int], facets: list[list[bytes]]) -> None:
    with pytest.raises(ValueError, match="nothing"):
        tsquery(1, segments, facets)


@given(glob=st.text("ab.%_\\*", max_size=8), text=st.text("ab.%_\\*", max_size=8))
def test_a_glob_as_like_pattern_means_the_same(glob: str, text: str) -> None:
    """LIKE as PostgreSQL documents it, told with a regular expression."""
    tokens = re.findall(r"\\.|[^\\]", like_pattern(glob), re.DOTALL)
    like = "".join(".*" if t == "%" else "." if t == "_" else re.escape(t[-1]) for t in tokens)
    wanted = ".*".join(map(re.escape, glob.split("*")))
    assert bool(re.fullmatch(like, text, re.DOTALL)) == bool(re.fullmatch(wanted, text, re.DOTALL))


def test_only_a_star_makes_a_glob() -> None:
    assert is_glob("auth.*")
    assert not is_glob("auth.%_?[a]")
