"""How one page of events is found: walk a little along the order first, then look into segments until none can add.

The walk serves what is frequent, whatever it is, and costs a fixed number of rows. What it did not find often enough
is rare, and then the inverted index (facets) or the word blocks (words) name the few events of each segment. Which
segments are worth a look, their volumes tell before (``search.volumes``). Together they bound the work of a page by
what it holds and by the number of volumes, of which ten million events have 19.

The search knows at any moment up to which place in the order it has seen everything. When its time is up, it returns
what lies before that place and goes on there with the next page, so it neither skips nor repeats. The time is looked
at after every body that was searched, for one may have megabytes. Of those large bodies one at a time is held, and a
page ends when it has ``PAGE_BYTES``, before what is beyond is read.

For who is not shown everything (a ``View``) there is the walk alone, along the one tenant's events: indexes know of all
tenants and of all fields, and what they have of what is hidden would show in the time that they take, and in pages that
end early. Every event that passes the columns is searched as it is shown, whether its hidden fields hold the words or
not. So what a search takes, and how far it comes, depends on how many events there are and how long they are; a page
that is cut for its bytes or its time is cut by what is shown, and beyond ``MOST_READ`` only by what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Final, NamedTuple, Protocol
from unicodedata import is_normalized

import orjson

from logstitch.search import blocks, terms
from logstitch.search.segments import Layout, Place, Span, Steps, Unit, Window, best_first, tsquery
from logstitch.search.volumes import Blocks, Volumes
from logstitch.viewing.tiers import View

WALK_EVENTS: Final = 1000
"""Events to walk along before anything else, about a millisecond. It is also what every answer advances by at least,
however hard the search is."""
LONGEST_WALK: Final = 16_000
"""Events that a page may be walked for, about 10 ms, where looking into segments would cost more."""
WALK_EVENTS_FOR_WORDS: Final = 400
LONGEST_WALK_FOR_WORDS: Final = 3000
"""The same for words, which are looked for in the bodies."""
LOOK_UP_COST: Final = 3
"""What an event costs that the inverted index names, in events walked along."""
MOST_SEGMENTS: Final = 256
MOST_SEGMENTS_FOR_WORDS: Final = 128
"""Segments asked about in one query: bounds what it can take, and what the word blocks of one answer weigh."""
MOST_LEXEMES: Final = 2048
"""Lexemes in one query of the inverted index."""
FEW_CANDIDATES: Final = 256
"""Events of one segment that words leave and that are checked one by one; with more, facets thin them out before."""
SCAN_EVENTS: Final = 4096
"""Events taken at once from a segment without word blocks: taking more means to scan it again."""
VERIFY_EVENTS: Final = 64
"""Bodies read at once to look for words: about a page, because most of them pass. Where they do not, eight times as
many from then on. Long ones are read one by one."""
PAGE_BYTES: Final = 4 * 1024 * 1024
"""Bodies of one page; a page of one event may have more."""
MOST_READ: Final = 32 * 1024 * 1024
"""Bodies that are read for one page of which a view may leave little: about half a second."""
BUDGET_SECONDS: Final = 1.5
"""For one page. Far beyond what any single filter takes; a search that needs more is answered in parts."""


class Hit(NamedTuple):
    """An event that passed the filter's columns."""

    place: Place
    seq: int


class Body(NamedTuple):
    """How long an event's body is, in bytes; ``text`` is ``None`` for one that is too long to be read unasked."""

    size: int
    text: str | None


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk along the order met. ``last`` is the last place it looked at, ``None`` when it reached the end."""

    hits: list[Hit]
    last: Place | None


class Source(Blocks, Protocol):
    """Where events are read from: one snapshot of one project, with the filter's columns applied to every ``Hit``.

    Lists of hits come in the window's order and hold at most ``limit``; one that holds fewer is complete.
    """

    def walk(self, window: Window, events: int, limit: int) -> Walk:
        """The hits among the next ``events`` events of the window, or the first ``limit`` of them."""
        ...

    def spans(self) -> list[Span]:
        """Every segment."""
        ...

    def volumes(self) -> set[int]:
        """The volumes that have word blocks."""
        ...

    def having(self, query: str, window: Window, limit: int) -> list[Hit]:
        """Hits among the events that the inverted index has for ``query`` (see ``tsquery``)."""
        ...

    def seqs_having(self, query: str) -> list[int]:
        """All events that the inverted index has for ``query``; the columns are not checked."""
        ...

    def among(self, seqs: Sequence[int], window: Window, limit: int) -> list[Hit]:
        """Hits among these events."""
        ...

    def scan(self, seqs: range, words: Sequence[bytes], window: Window, limit: int) -> list[Hit]:
        """Hits among these events that may hold the words: none that does is left out."""
        ...

    def indexed(self, keys: Sequence[int]) -> set[int]:
        """Those of the units, by key, that have word blocks."""
        ...

    def bodies(self, seqs: Sequence[int]) -> Mapping[int, Body]:
        """The bodies of these events, without the text of those that are long."""
        ...

    def text(self, seq: int) -> str:
        """The body of one event, however long."""
        ...


@dataclass(frozen=True, slots=True)
class Query:
    """What is wanted of a project's events.

    ``facets``: the lexemes of the filter without the segment's prefix, one group a filter, one member of each group
    must be present. ``words``: each must begin a word. ``checked``: the source's columns hold back events (else each is
    a hit). ``view``: what is shown of them, to somebody who is not shown everything; the source's columns are the
    view's as well.
    """

    project_no: int
    window: Window
    limit: int
    facets: tuple[tuple[bytes, ...], ...] = ()
    words: tuple[bytes, ...] = ()
    checked: bool = False
    view: View | None = None

    @property
    def along_only(self) -> bool:
        """Whether no index is to be asked: there is nothing to look up, or nobody may know what it took."""
        return self.view is not None or not (self.facets or self.words)


@dataclass(frozen=True, slots=True)
class FoundPage:
    """``next``: the last place that this page covers, ``None`` at the end."""

    bodies: tuple[str, ...]
    next: Place | None


def find_page(
    source: Source,
    query: Query,
    clock: Callable[[], float],
    *,
    budget: float = BUDGET_SECONDS,
    layout: Layout = Layout(),  # noqa: B008  # frozen
) -> FoundPage:
    """The first page of what ``query`` wants. ``clock``: seconds, monotonic."""
    search = _Search(source, query, clock, clock() + budget, layout)
    return search.page()


@dataclass(slots=True)
class _Search:
    source: Source
    query: Query
    clock: Callable[[], float]
    deadline: float
    layout: Layout
    wanted: int = field(init=False)
    known: dict[int, Body] = field(init=False, default_factory=dict)
    """Bodies that were read to look for words and hold them; of long ones only as many as fit a page."""
    room: int = field(init=False, default=PAGE_BYTES)
    """Bytes of long bodies that ``known`` may still take."""
    seen: Place | None = field(init=False, default=None)
    """Where the last step ran out of time: everything up to there was looked at."""

    def __post_init__(self) -> None:
        self.wanted = self.query.limit + 1  # one more tells whether there is a next page

    def page(self) -> FoundPage:
        hits, rest = self._find()
        bodies = self._bodies(hits[: self.query.limit])
        if len(hits) > len(bodies):
            last: Place | None = hits[len(bodies) - 1].place
        else:
            last = None if rest is None or rest.empty else rest.last_read()
        return FoundPage(bodies, last)

    def _find(self) -> tuple[list[Hit], Window | None]:
        """The first hits, and the window that is left when time was up; ``None`` when all of it was seen."""
        query, window = self.query, self.query.window
        if window.empty:
            return [], None
        events, longest = WALK_EVENTS, LONGEST_WALK
        if query.words:
            events, longest = WALK_EVENTS_FOR_WORDS, LONGEST_WALK_FOR_WORDS
        elif not query.checked:
            events = self.wanted
        hits, rest = self._walk(window, events)
        if query.along_only:
            # A view, or a pattern that too many actions match.
            while rest is not None and len(hits) < self.wanted and self.clock() < self.deadline:
                more, rest = self._walk(rest, longest)
                hits += more
        if rest is None or len(hits) >= self.wanted or query.along_only:
            return hits[: self.wanted], rest
        spans = best_first(self.source.spans(), rest)
        if 0 < (events := self._promising(events, len(hits), spans, rest)) <= longest:
            more, rest = self._walk(rest, events)
            hits += more
            if rest is None or len(hits) >= self.wanted:
                return hits[: self.wanted], rest
        more, rest = self._look_into_segments(spans, rest, self.wanted - len(hits))
        return hits + more, rest

    # -- along the order -------------------------------------------------------------------------------------------

    def _walk(self, window: Window, events: int) -> tuple[list[Hit], Window | None]:
        """The hits among the next ``events`` events, and the window that is left; ``None`` when nothing is."""
        walk = self.source.walk(window, events, events if self.query.words else self.wanted)
        passed, stopped = self._verified(walk.hits, self.wanted)
        last = walk.last if stopped is None else stopped
        return passed, None if last is None else window.after(last)

    def _promising(self, walked: int, hits: int, spans: Sequence[Span], window: Window) -> int:
        """How many events to walk on for, if that is cheaper than looking into segments; else 0.

        Segments that begin where the window does must all be looked into before the first of their events is known to
        be the next. One or two do, in a project whose events arrive in order. After a backfill it may be all of them,
        and then every page would read what passes the filter in the whole project.
        """
        if hits == 0:
            return 0
        crowd = sum(1 for _ in takewhile(lambda span: span.begins(window) == window, spans))
        needed = walked * (self.wanted - hits) * 5 // (4 * hits)
        return needed if needed < LOOK_UP_COST * crowd * (hits << self.layout.bits) // walked else 0

    # -- segment by segment ----------------------------------------------------------------------------------------

    def _look_into_segments(
        self, spans: Sequence[Span], window: Window, wanted: int
    ) -> tuple[list[Hit], Window | None]:
        """The first ``wanted`` hits of the window, and the window that is left when time was up before."""
        spans = [span for span in spans if span.may_hold(window)]
        query = self.query
        volumes = Volumes(self.source, self.layout, query.facets, query.words, self.source.volumes())
        lexemes = sum(map(len, self.query.facets)) or 1
        most = MOST_SEGMENTS_FOR_WORDS if self.query.words else MOST_SEGMENTS
        steps = Steps(max(1, min(most, MOST_LEXEMES // lexemes)))
        hits: list[Hit] = []
        useful, at = window, 0
        while at < len(spans):
            if len(hits) >= wanted:
                useful = window.before(hits[wanted - 1].place)
            if not spans[at].may_hold(useful):
                break  # and the spans that follow begin even later
            began = self.clock()
            if began >= self.deadline:
                rest = spans[at].begins(window)
                return [hit for hit in hits if hit.place not in rest], rest
            step, at = self._step(spans, at, steps.size, useful, volumes)
            if not step:
                continue
            hits = self._in_order(hits + self._look(step, useful, wanted))[:wanted]
            if self._stopped:
                for span in spans[at : at + 1]:
                    self._stop(span.begins(window).last_read())
                rest = self._rest(window)
                return [hit for hit in hits if hit.place not in rest], rest
            steps.took(self.clock() - began)
        return hits, None

    def _step(
        self, spans: Sequence[Span], at: int, size: int, window: Window, volumes: Volumes
    ) -> tuple[list[Span], int]:
        """From ``spans[at]`` on, the next segments to look into together, at most ``size``; and where to go on then.

        The first segment of all is looked into unasked: it may have enough. From then on, volumes are asked once a
        step, and the step ends where the next ones are to be asked.
        """
        step: list[Span] = []
        looked = at == 0
        for span in islice(spans, at, None):
            if len(step) == size or not span.may_hold(window):
                break
            if at > 0 and volumes.can_tell(span.segment):
                if looked:
                    break
                volumes.look(spans[at:])
                looked = True
            at += 1
            if volumes.may_hold(span.segment):
                step.append(span)
        return step, at

    def _look(self, spans: Sequence[Span], window: Window, wanted: int) -> list[Hit]:
        if not self.query.words:
            return self.source.having(self._tsquery([span.segment for span in spans]), window, wanted)
        units = [self.layout.unit(span.segment) for span in spans if span.words_ready]
        hits: list[Hit] = []
        for span in spans:
            if not span.words_ready:
                parts = self._parts(span.segment)
                units += parts
                seqs = self.layout.seqs(span.segment)
                if self._stopped:
                    self._stop(span.begins(window).last_read())
                    continue
                hits += self._scan(range(parts[-1].seqs.stop if parts else seqs.start, seqs.stop), window, wanted)
        if self._stopped:
            # The spans come in order, so nothing of them lies before the first.
            self._stop(spans[0].begins(window).last_read())
            return hits
        return hits + self._look_up_words(units, window, wanted)

    def _parts(self, segment: int) -> list[Unit]:
        """The parts of an open segment that are indexed, from its first on; what lies behind a gap is scanned."""
        parts = self.layout.parts(segment)
        indexed = self.source.indexed([part.key for part in parts])
        return list(takewhile(lambda part: part.key in indexed, parts))

    def _scan(self, seqs: range, window: Window, wanted: int) -> list[Hit]:
        return self._collect(
            lambda rest: self.source.scan(seqs, self.query.words, rest, SCAN_EVENTS), SCAN_EVENTS, window, wanted
        )

    def _look_up_words(self, units: list[Unit], window: Window, wanted: int) -> list[Hit]:
        found: dict[int, set[int]] = {}
        # The longest word is most likely the rarest: what it leaves out, the others need not be looked up for.
        for number, word in enumerate(sorted(self.query.words, key=len, reverse=True)):
            postings: dict[int, set[int]] = {}
            for key, payload in self.source.word_blocks([unit.key for unit in units], word):
                if positions := blocks.lookup(payload, word, found[key] if number else None):
                    postings[key] = postings[key] | positions if key in postings else positions
                if self._late():
                    self._stop(window.last_read())
                    return []
            found = postings
            units = [unit for unit in units if unit.key in found]
            if not units:
                return []
        seqs = [unit.seqs.start + position for unit in units for position in found[unit.key]]
        if self.query.facets and len(seqs) > FEW_CANDIDATES * len(units):
            segments = sorted({unit.segment for unit in units})
            seqs = list(set(self.source.seqs_having(self._tsquery(segments))).intersection(seqs))
        if not seqs:
            return []
        return self._collect(lambda rest: self.source.among(seqs, rest, wanted), wanted, window, wanted)

    def _collect(self, read: Callable[[Window], list[Hit]], limit: int, window: Window, wanted: int) -> list[Hit]:
        """Read ``limit`` hits at a time until ``wanted`` of them hold the words, or time is up."""
        hits: list[Hit] = []
        while True:
            some = read(window)
            passed, stopped = self._verified(some, wanted - len(hits))
            hits += passed
            if stopped is not None:
                self._stop(stopped)
                return hits
            if len(some) < limit or len(hits) >= wanted:
                return hits
            window = window.after(some[-1].place)

    # -- details ---------------------------------------------------------------------------------------------------

    def _tsquery(self, segments: Sequence[int]) -> str:
        return tsquery(self.query.project_no, segments, self.query.facets)

    def _in_order(self, hits: list[Hit]) -> list[Hit]:
        return sorted(hits, key=lambda hit: hit.place, reverse=self.query.window.newest_first)

    def _late(self) -> bool:
        return self.clock() >= self.deadline

    @property
    def _stopped(self) -> bool:
        """Whether time was up in the middle of a step, which then is the last."""
        return self.seen is not None

    def _rest(self, window: Window) -> Window:
        return window if self.seen is None else window.after(self.seen)

    def _stop(self, place: Place) -> None:
        """This step looked at nothing beyond ``place``, or not at all of it."""
        if self.seen is None:
            self.seen = place
        else:
            self.seen = max(self.seen, place) if self.query.window.newest_first else min(self.seen, place)

    def _verified(self, hits: Sequence[Hit], wanted: int) -> tuple[list[Hit], Place | None]:
        """The first ``wanted`` of the hits whose bodies hold the words, and the last looked at if time was up there.

        At least one is looked at: so every answer gets on.
        """
        if not self.query.words:
            return list(hits[:wanted]), None
        passed: list[Hit] = []
        start, size = 0, VERIFY_EVENTS
        while start < len(hits) and len(passed) < wanted:
            some = hits[start : start + size]
            start, size = start + size, VERIFY_EVENTS * 8
            bodies = self.source.bodies([hit.seq for hit in some])
            for hit in some:
                body = bodies[hit.seq]
                text = self.source.text(hit.seq) if body.text is None else body.text
                if (found := self._found(body, text)) is not None:
                    if body.text is not None:
                        self.known[hit.seq] = found
                    elif self.room > 0:
                        self.room -= found.size
                        self.known[hit.seq] = found
                    passed.append(hit)
                    if len(passed) >= wanted:
                        break
                if self._late():
                    return passed, hit.place
        return passed, None

    def _found(self, body: Body, text: str) -> Body | None:
        """The body as it is shown, if it holds the words so."""
        view = self.query.view
        if view is None:
            return Body(body.size, text) if self._matches(text) else None
        event = view.strip(orjson.loads(text))
        return _written(event) if terms.matches_event(event, self.query.words) else None

    def _matches(self, body: str) -> bool:
        # Most bodies are told apart without being parsed. Where normalizing changes nothing, folding goes character by
        # character, so the words of the values are to be found in the folded text of the whole.
        # Normalizing, and so telling whether it would, is quick for such texts only.
        ascii_only = body.isascii()
        folded = body.casefold() if ascii_only or terms.is_plain(body) else None
        if folded is not None and (ascii_only or (is_normalized("NFKC", body) and is_normalized("NFKC", folded))):
            text = folded.encode()
            if not all(word in text for word in self.query.words):
                return False
        return terms.matches(body.encode(), self.query.words)

    def _bodies(self, hits: Sequence[Hit]) -> tuple[str, ...]:
        """The bodies of the first hits: of one at least, and of as many as fit a page."""
        if self.query.view is not None:
            return self._shown(hits, self.query.view)
        missing = [hit.seq for hit in hits if hit.seq not in self.known]
        known = {**self.known, **self.source.bodies(missing)} if missing else self.known
        texts: list[str] = []
        room = PAGE_BYTES
        for hit in hits:
            body = known[hit.seq]
            room -= body.size
            if texts and room < 0:
                break
            texts.append(self.source.text(hit.seq) if body.text is None else body.text)
        return tuple(texts)

    def _shown(self, hits: Sequence[Hit], view: View) -> tuple[str, ...]:
        """The same as a viewer sees them."""
        unknown = [hit.seq for hit in hits if hit.seq not in self.known]
        missing = self.source.bodies(unknown) if unknown else {}
        texts: list[str] = []
        room, reading = PAGE_BYTES, MOST_READ
        for hit in hits:
            shown = self.known.get(hit.seq)
            if shown is None:
                body = missing[hit.seq]
                reading -= body.size
                if texts and reading < 0:
                    break
                text = self.source.text(hit.seq) if body.text is None else body.text
                shown = _written(view.strip(orjson.loads(text)))
            room -= shown.size
            if texts and room < 0:
                break
            texts.append(shown.text or "")
        return tuple(texts)


def _written(event: Mapping[str, object]) -> Body:
    text = orjson.dumps(event)
    return Body(len(text), text.decode())
