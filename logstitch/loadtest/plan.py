"""What a run sends and when, decided before the first byte leaves: everything about event ``n`` follows from ``n``.

That is why the ledger needs to keep nothing of an event but its id: its body, its tenant, its project and its
idempotency key can be made again whenever the read-back wants to compare them.
"""

from __future__ import annotations

import gzip
import random
import secrets
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson

from logstitch.errors import ConfigurationError

BATCH_LIMIT = 100
"""Events in one request, at most; the service refuses more."""

DEFAULT_DURATION = 10.0
"""Seconds of a run that names neither a duration nor a file."""

TENANTS = 16
"""Tenants a run spreads over in each project: enough for per-tenant work to show, few enough to read back each."""

SYNTHETIC_POOL = 1_024
"""Different synthetic events in a run; the rest of the difference is made by keys and tenants. Making each event anew
would cost the client more than sending it."""

REPLAY_BYTES = 256 * 1024 * 1024
"""A file to replay is held in memory; a bigger one is refused before it fills it."""

RETRY_SECONDS = (0.2, 0.4, 0.9)
"""Waits before the three retries, each stretched up to twofold by jitter, so that the last try comes 1.5 to 3 s after
the first: what the public SDK does."""

MASTER, PROJECT = "mk_", "pk_"

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """What the command line asks for.

    ``rate`` is in events a second (``None``: as fast as answers come); ``duration`` and ``timeout`` in seconds, the
    timeout for one attempt; ``real`` is an NDJSON file, gzipped or not, replayed once unless ``duration`` is given.
    """

    url: str
    key: str = field(repr=False)
    rate: float | None = None
    clients: int = 16
    batch: int = BATCH_LIMIT
    duration: float | None = None
    projects: int = 1
    real: Path | None = None
    json: bool = False
    timeout: float = 15.0
    seed: int | None = None

    def check(self) -> None:
        """Raises ``ConfigurationError`` that names every setting which cannot work."""
        wrong = [
            message
            for bad, message in (
                (not self.url.startswith(("http://", "https://")), "--url must start with http:// or https://"),
                (not self.key.startswith((MASTER, PROJECT)), "--key must be a master key (mk_) or project key (pk_)"),
                (self.rate is not None and not 0 < self.rate < float("inf"), "--rate must be more than 0"),
                (not 1 <= self.clients <= 1000, "--clients must be 1 to 1000"),
                (not 1 <= self.batch <= BATCH_LIMIT, f"--batch must be 1 to {BATCH_LIMIT}"),
                (self.duration is not None and not 0 < self.duration < float("inf"), "--duration must be more than 0"),
                (not 1 <= self.projects <= 1000, "--projects must be 1 to 1000"),
                (self.projects > 1 and not self.master, "--projects needs a master key: a project key has one project"),
                (not 0 < self.timeout < float("inf"), "--timeout must be more than 0"),
            )
            if bad
        ]
        if wrong:
            raise ConfigurationError("; ".join(wrong))

    @property
    def master(self) -> bool:
        """Whether the key is a master key, so that requests must name their project."""
        return self.key.startswith(MASTER)

    @property
    def seconds(self) -> float | None:
        """How long to send; ``None`` for as long as the file to replay lasts."""
        return DEFAULT_DURATION if self.duration is None and self.real is None else self.duration


def retry_delays(rng: random.Random) -> list[float]:
    """Seconds to wait before each retry of one request."""
    return [seconds * rng.uniform(1, 2) for seconds in RETRY_SECONDS]


# -- events --------------------------------------------------------------------------------------------------------

# (action, category, type of the target, weight): roughly the mix of a business application.
_ACTIONS = (
    ("auth.login", "auth", "session", 16),
    ("auth.logout", "auth", "session", 8),
    ("auth.failed", "auth", "session", 3),
    ("auth.mfa.verified", "auth", "session", 5),
    ("document.viewed", "access", "document", 20),
    ("report.exported", "access", "report", 2),
    ("document.updated", "mutation", "document", 14),
    ("invoice.created", "mutation", "invoice", 9),
    ("invoice.sent", "mutation", "invoice", 6),
    ("comment.deleted", "mutation", "comment", 2),
    ("user.invited", "admin", "user", 3),
    ("user.role.updated", "admin", "user", 2),
    ("billing.plan.changed", "admin", "subscription", 1),
    ("api_key.created", "security", "api_key", 1),
    ("policy.mfa.enforced", "security", "policy", 1),
    ("webhook.delivered", "system", "webhook", 5),
    ("backup.completed", "system", "backup", 2),
)
_ACTION_WEIGHTS = tuple(accumulate(weight for *_, weight in _ACTIONS))
_FIRST = (
    "Ada",
    "Amélie",
    "Bjørn",
    "Chidi",
    "Dilnoza",
    "Emre",
    "Fatima",
    "Grace",
    "Hiroko",
    "Ivana",
    "João",
    "Kwame",
    "Lena",
    "Mateo",
    "Nadia",
    "Олег",
    "Priya",
    "Quinn",
)
_LAST = (
    "Abebe",
    "Brandt",
    "Castro",
    "Dvořák",
    "Eriksen",
    "Fischer",
    "García",
    "Haddad",
    "Ito",
    "Jansen",
    "Kowalski",
    "Lefèvre",
    "Müller",
    "Novak",
    "Okafor",
    "Øst",
)
_WORDS = (
    "annual",
    "budget",
    "customer",
    "draft",
    "europe",
    "final",
    "forecast",
    "growth",
    "hiring",
    "invoice",
    "kickoff",
    "launch",
    "margin",
    "notes",
)
_DOMAINS = ("example.com", "acme.example", "northwind.example", "globex.example")
_CITIES = ("Berlin, DE", "Lagos, NG", "São Paulo, BR", "Austin, US", "Osaka, JP", "Lyon, FR")
_AGENTS = (
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1.15",
    "Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0",
    "acme-backend/3.14 (python-requests/2.31.0)",
)
_FIELDS = (
    ("status", "draft", "published"),
    ("owner", "unassigned", "finance"),
    ("priority", 3, 1),
    ("archived", False, True),
)
_LETTERS = "abcdefghjkmnpqrstvwxyz"  # no digits: an id must not look like a card number to the redaction rules


def _token(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(_LETTERS, k=length))


def synthetic_event(rng: random.Random, n: int) -> JsonObject:
    """A valid event of about 700 bytes, as a business application would send it: people, e-mails, changes.

    The same state of ``rng`` and the same ``n`` give the same event. Nothing in it matches a redaction rule that is on
    by default, so that what is stored can be compared with what was sent. It has no ``idempotency_key``.
    """
    action, category, target_type, _ = rng.choices(_ACTIONS, cum_weights=_ACTION_WEIGHTS)[0]
    first, last = rng.choice(_FIRST), rng.choice(_LAST)
    title = " ".join(rng.choices(_WORDS, k=3))
    event: JsonObject = {
        "action": action,
        "category": category,
        "tenant_id": f"tenant_{rng.randrange(200):04d}",
        "actor": {
            "id": f"usr_{rng.randrange(5_000):05d}",
            "type": "user",
            "name": f"{first} {last}",
            "email": f"{first}.{last}@{rng.choice(_DOMAINS)}".lower(),
        },
        "target": {"id": f"{target_type[:3]}_{_token(rng, 12)}", "type": target_type, "name": title.capitalize()},
        "context": {
            "ip_address": f"203.0.113.{rng.randrange(256)}",
            "user_agent": rng.choice(_AGENTS),
            "location": rng.choice(_CITIES),
            "session_id": f"ses_{_token(rng, 20)}",
        },
        "metadata": {
            "request": {"method": rng.choice(("GET", "POST", "PUT")), "path": f"/v2/{target_type}s", "number": n},
            "duration_ms": round(rng.lognormvariate(3, 1), 3),
            "tags": rng.sample(_WORDS, 3),
            "release": f"2024.{rng.randrange(1, 13)}.{rng.randrange(30)}",
            "note": " ".join(rng.choices(_WORDS, k=6)),
            "beta": rng.random() < 0.2,
        },
    }
    if category in ("mutation", "admin"):
        event["changes"] = [
            {"field": name, "before": before, "after": after} for name, before, after in rng.sample(_FIELDS, 2)
        ]
    return event


def read_events(path: Path) -> list[JsonObject]:
    """The events of an NDJSON file, gzipped or not (told by its content). Raises ``ConfigurationError``."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as stream:
            text = stream.read(REPLAY_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    if len(text) > REPLAY_BYTES:
        raise ConfigurationError(f"{path}: more than {REPLAY_BYTES >> 20} MiB; replay a part of it")
    events: list[JsonObject] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ConfigurationError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(event, dict) or not event:
            raise ConfigurationError(f"{path}: line {number} is not an event")
        events.append(event)
    if not events:
        raise ConfigurationError(f"{path}: has no events")
    return events


@dataclass(frozen=True, slots=True)
class Batch:
    """The events ``first`` up to (not with) ``first + count``, which go to one project in one request."""

    first: int
    count: int
    project: int


class Workload:
    """The events of a run, numbered from 0, prepared as JSON text that only wants its key and its tenant.

    Every event gets a tenant of this run alone (so that the read-back finds these events and no others) and an
    idempotency key that spells its number.
    """

    def __init__(
        self,
        events: Iterable[JsonObject],
        *,
        batch: int = BATCH_LIMIT,
        projects: int = 1,
        once: bool = False,
        run: str | None = None,
    ) -> None:
        """``once``: the run ends with the last of ``events``; else they are cycled. ``run``: a name nobody else has."""
        self.run = run or f"lt{secrets.token_hex(6)}"
        self.projects = projects
        self.tenants: Sequence[str] = tuple(f"{self.run}.{index:x}" for index in range(TENANTS))
        self._batch = batch
        self._keyed = f"{self.run}-"
        self._prepared: list[bytes] = []
        self._buckets = bytearray()
        for event in events:
            rest = {name: value for name, value in event.items() if name not in ("tenant_id", "idempotency_key")}
            text = orjson.dumps(rest)[:-1] + (b"," if rest else b"")
            self._prepared.append(text)
            self._buckets.append(zlib.crc32(str(event.get("tenant_id")).encode(errors="replace")) % TENANTS)
        self._tails = [f'"tenant_id":"{tenant}","idempotency_key":"{self._keyed}'.encode() for tenant in self.tenants]
        self.events: int | None = len(self._prepared) if once else None

    @classmethod
    def of(cls, settings: LoadSettings, seed: int) -> Workload:
        """The workload that ``settings`` ask for. Raises ``ConfigurationError`` for a file that cannot be replayed."""
        if settings.real is not None:
            events, once = read_events(settings.real), settings.duration is None
        else:
            rng = random.Random(seed)  # noqa: S311 - example data, not secrets
            events, once = [synthetic_event(rng, n) for n in range(SYNTHETIC_POOL)], False
        return cls(events, batch=settings.batch, projects=settings.projects, once=once)

    @property
    def batches(self) -> int | None:
        """How many batches there are; ``None``: as many as are asked for."""
        return None if self.events is None else -(-self.events // self._batch)

    def at(self, index: int) -> Batch:
        """The batch with this number, below ``batches``. Projects take turns."""
        first = index * self._batch
        last = first + self._batch if self.events is None else min(first + self._batch, self.events)
        return Batch(first, last - first, index % self.projects)

    def project(self, n: int) -> int:
        """The index of the project that event ``n`` goes to."""
        return n // self._batch % self.projects

    def tenant(self, n: int) -> str:
        """The tenant of event ``n``."""
        return self.tenants[self._buckets[n % len(self._buckets)]]

    def key(self, n: int) -> str:
        """The idempotency key of event ``n``."""
        return f"{self._keyed}{n:x}"

    def number(self, key: object) -> int | None:
        """The number of the event with this idempotency key; ``None`` if this run never made such a key."""
        if not isinstance(key, str) or not key.startswith(self._keyed):
            return None
        try:
            n = int(key[len(self._keyed) :], 16)
        except ValueError:
            return None
        return n if n >= 0 and self.key(n) == key else None

    def text(self, n: int) -> bytes:
        """Event ``n`` as the JSON text that is sent."""
        index = n % len(self._prepared)
        return b'%b%b%x"}' % (self._prepared[index], self._tails[self._buckets[index]], n)

    def event(self, n: int) -> JsonObject:
        """Event ``n`` as it was sent."""
        event: JsonObject = orjson.loads(self.text(n))
        return event

    def body(self, batch: Batch) -> bytes:
        """The request body: several events as an array, one as an object, as the public SDK does it."""
        if batch.count == 1:
            return self.text(batch.first)
        return b"[%b]" % b",".join(map(self.text, range(batch.first, batch.first + batch.count)))


# -- times ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slot:
    """Batch ``index`` is to leave ``due`` seconds after the start."""

    index: int
    due: float


@dataclass(frozen=True, slots=True)
class Missed:
    """Batches whose time came and that no client was free to send, and how long they had waited in vain (seconds)."""

    count: int = 0
    shortest: float = 0.0
    longest: float = 0.0


class Schedule:
    """Hands out batches in order. Open loop (``rate`` given): each has its time, whatever the service does, and its
    latency counts from that time; a client that stalls with the service would hide the very delays it should measure
    (coordinated omission). Closed loop: a batch is due when a client asks for it.

    Knows no clock: ``elapsed`` is in seconds since the start.
    """

    def __init__(self, *, rate: float | None, batch: int, seconds: float | None, batches: int | None) -> None:
        self._interval = None if rate is None else batch / rate
        self._seconds = float("inf") if seconds is None else seconds
        self._batches = float("inf") if batches is None else batches
        self._next = 0

    def claim(self, elapsed: float) -> Slot | None:
        """The next batch to send, maybe not due yet; ``None`` when the run is over."""
        due = elapsed if self._interval is None else self._next * self._interval
        if self._next >= self._batches or elapsed >= self._seconds or due >= self._seconds:
            return None
        self._next += 1
        return Slot(self._next - 1, due)

    def missed(self, elapsed: float) -> Missed:
        """What was due by ``elapsed`` and never claimed; nothing, in a closed loop."""
        if self._interval is None:
            return Missed()
        end = min(elapsed, self._seconds)
        due = min(self._batches, -(-end // self._interval))
        count = int(due - self._next)
        if count <= 0:
            return Missed()
        return Missed(count, end - (due - 1) * self._interval, end - self._next * self._interval)
