"""What became of every event of a run, in 17 bytes each: the word of the service against what it can show.

Events are known by their number. While sending, the ledger notes what the service answered; while reading back, it
notes what the service has. Only then does it say which acknowledgements were kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from logstitch.ids import event_id_text, parse_event_id

ID_BYTES = 16
EXAMPLES = 10
"""Ids of each kind of failure that are kept for the report."""


def pack_id(text: object) -> bytes | None:
    """An event id as its 16 bytes; ``None`` if it is not one in its canonical spelling."""
    try:
        return parse_event_id(text) if isinstance(text, str) else None
    except ValueError:
        return None


# One byte an event: what was answered in the low two bits, what was found in the next three.
_UNSENT, _UNACKED, _ACKED, _REFUSED = range(4)
_ANSWER = 0b00011
_STORED = 0b00100  # a row bears its key
_KEPT = 0b01000  # a row bears its key and the id that was acknowledged
_TWICE = 0b10000  # more than one row bears its key


@dataclass(frozen=True, slots=True)
class Tally:
    """The ledger summed up. Every number counts events.

    ``sent`` is ``acked + refused + unacked``. ``stored`` counts those of them that were found. ``lost``: acknowledged
    and not found under the acknowledged id. ``duplicated``: found more than once under one idempotency key.
    ``unacked_stored``: never acknowledged and found all the same, which is allowed. ``refused_stored``: refused for
    good and found all the same. ``foreign``: rows among this run's tenants that this run did not send there.
    ``compared`` were compared with what was sent, ``altered`` of them differed.
    """

    sent: int
    acked: int
    refused: int
    unacked: int
    stored: int
    lost: int
    duplicated: int
    unacked_stored: int
    refused_stored: int
    foreign: int
    compared: int
    altered: int
    examples: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def honest(self) -> bool:
        """Whether everything that was acknowledged is there, once, as it was sent, and nothing else is."""
        return not (self.lost or self.duplicated or self.refused_stored or self.foreign or self.altered)


class Ledger:
    """The account of a run's events. Numbers are expected to grow without big gaps."""

    def __init__(self) -> None:
        self._flags = bytearray()
        self._ids = bytearray()
        self._foreign = 0
        self._compared = 0
        self._altered = 0
        self._examples: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._flags)

    @property
    def acked(self) -> int:
        """Events acknowledged; exact before the reading back begins."""
        return self._flags.count(_ACKED)

    # -- while sending

    def send(self, first: int, count: int) -> None:
        """``count`` events from number ``first`` on are about to leave."""
        missing = first + count - len(self._flags)
        if missing > 0:
            self._flags.extend(bytes(missing))
            self._ids.extend(bytes(missing * ID_BYTES))
        self._flags[first : first + count] = bytes([_UNACKED]) * count

    def acknowledge(self, first: int, ids: Sequence[bytes]) -> None:
        """They were answered with these ids (packed), in order."""
        self._flags[first : first + len(ids)] = bytes([_ACKED]) * len(ids)
        self._ids[first * ID_BYTES : (first + len(ids)) * ID_BYTES] = b"".join(ids)

    def refuse(self, first: int, count: int) -> None:
        """They were refused for good: the service said that it stored none of them."""
        self._flags[first : first + count] = bytes([_REFUSED]) * count

    # -- while reading back

    def find(self, n: int, packed: bytes | None) -> None:
        """A row bears the key of event ``n`` and this id."""
        if n >= len(self._flags) or self._flags[n] & _ANSWER == _UNSENT:
            self.foreign(f"event {n}, which was never sent")
            return
        flags = self._flags[n]
        if flags & _STORED:
            if not flags & _TWICE:
                self.note("duplicated", f"event {n}")
            flags |= _TWICE
        flags |= _STORED
        if packed == self._id(n):
            flags |= _KEPT
        self._flags[n] = flags

    def foreign(self, what: str) -> None:
        """A row that this run did not send to where it was found."""
        self._foreign += 1
        self.note("foreign", what)

    def compare(self, n: int, difference: str | None) -> None:
        """Event ``n`` was compared; ``difference`` names the field that is not as it was sent."""
        self._compared += 1
        if difference is not None:
            self._altered += 1
            self.note("altered", f"event {n}: {difference}")

    def note(self, kind: str, what: str) -> None:
        """Keeps the first few examples of a kind of failure."""
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(what)

    # -- at the end

    def tally(self) -> Tally:
        """The account as it stands."""
        found = Counter(self._flags)  # at most 32 different values

        def count(answer: int, with_: int = 0, without: int = 0) -> int:
            return sum(
                number
                for flags, number in found.items()
                if flags & _ANSWER == answer and flags & with_ == with_ and not flags & without
            )

        acked, refused, unacked = count(_ACKED), count(_REFUSED), count(_UNACKED)
        lost = count(_ACKED, without=_KEPT)
        examples = {kind: tuple(listed) for kind, listed in self._examples.items()}
        if lost:
            examples["lost"] = tuple(islice(self._lost(), EXAMPLES))
        return Tally(
            sent=acked + refused + unacked,
            acked=acked,
            refused=refused,
            unacked=unacked,
            stored=sum(number for flags, number in found.items() if flags & _STORED),
            lost=lost,
            duplicated=sum(number for flags, number in found.items() if flags & _TWICE),
            unacked_stored=count(_UNACKED, with_=_STORED),
            refused_stored=count(_REFUSED, with_=_STORED),
            foreign=self._foreign,
            compared=self._compared,
            altered=self._altered,
            examples=examples,
        )

    def _id(self, n: int) -> bytes:
        return bytes(self._ids[n * ID_BYTES : (n + 1) * ID_BYTES])

    def _lost(self) -> Iterator[str]:
        for n, flags in enumerate(self._flags):
            if flags & _ANSWER == _ACKED and not flags & _KEPT:
                yield f"{event_id_text(self._id(n))} (event {n})"


# -- comparing -----------------------------------------------------------------------------------------------------

_ADDED = frozenset({"id", "content_hash", "received_at", "occurred_at", "redactions"})
"""Fields that the service adds."""


def difference(sent: Mapping[str, Any], stored: Mapping[str, Any]) -> str | None:
    """The path of the first field that is not as it was sent; ``None`` if all are.

    Where the service says that it redacted (``redactions``), a difference is what was asked for. ``occurred_at`` may
    be spelled in another zone and loses what is finer than a millisecond.
    """
    redacted = [str(entry.get("field")) for entry in stored.get("redactions") or ()]
    for name in sorted(sent.keys() | (stored.keys() - _ADDED)):
        if name not in stored:
            return name
        if name not in sent:
            return f"{name} (never sent)"
        if name == "occurred_at":
            if not _same_moment(sent[name], stored[name]):
                return name
            continue
        for path in _differences(name, sent[name], stored[name]):
            if not any(_touches(path, field) for field in redacted):
                return path
    return None


def _differences(path: str, sent: object, stored: object) -> Iterator[str]:
    if isinstance(sent, dict) and isinstance(stored, dict):
        if sent.keys() != stored.keys():
            yield path
            return
        for name, value in sent.items():
            yield from _differences(f"{path}.{name}", value, stored[name])
    elif isinstance(sent, list) and isinstance(stored, list):
        if len(sent) != len(stored):
            yield path
            return
        for index, (left, right) in enumerate(zip(sent, stored, strict=True)):
            yield from _differences(f"{path}.{index}", left, right)
    elif isinstance(sent, bool) or isinstance(stored, bool):  # True == 1 in Python, not in JSON
        if sent is not stored:
            yield path
    elif sent != stored:
        yield path


def _touches(path: str, field: str) -> bool:
    """Whether one of the two dot paths holds the other."""
    return f"{path}.".startswith(f"{field}.") or f"{field}.".startswith(f"{path}.")


def _same_moment(sent: object, stored: object) -> bool:
    try:
        left, right = datetime.fromisoformat(str(sent).upper()), datetime.fromisoformat(str(stored).upper())
        return abs((left - right).total_seconds()) < 0.001
    except (ValueError, TypeError):
        return False
