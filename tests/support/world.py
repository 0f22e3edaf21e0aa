"""A small deployment in memory, behind the very messages that the real actors take: what HTTP tests are run against.

Its actors are honest and simple: keys, projects and events live in lists, filters are loops. A test can make one slow,
failing or curious with ``World.interrupt``.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import orjson
import trio

from logstitch import credentials, ids, times
from logstitch.actors.health import ActorHealth, ActorState
from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.events import Accepted, EventFilter, EventPage, GetEvent, ListEvents, SubmitEvents
from logstitch.actors.messages.keys import (
    Authenticate,
    CreatedKey,
    CreateKey,
    Key,
    KeyPage,
    KeyType,
    ListKeys,
    Principal,
    RevokeKey,
)
from logstitch.actors.messages.pages import Order, Page, Position
from logstitch.actors.messages.projects import CreateProject, ListProjects, Project, ProjectPage, ResolveProject
from logstitch.actors.messages.redaction import (
    CreateRule,
    DeleteRule,
    ListRules,
    MeasureRule,
    RuleEffect,
    TryRules,
    UpdateRule,
)
from logstitch.actors.redaction import Trial, page_of_rules, shown
from logstitch.errors import (
    AskTimeout,
    Conflict,
    DailyEventLimitReached,
    Detail,
    InvalidApiKey,
    InvalidRequest,
    KeyRevoked,
    NotFound,
)
from logstitch.evidence.canonical import canonical
from logstitch.http.services import Limits, Services
from logstitch.model import Plan
from logstitch.recording.audit import Amendment
from logstitch.recording.rules import Rule, RuleBook, creation, deletion, update
from logstitch.redaction.definitions import CustomRule
from logstitch.redaction.engine import redact
from logstitch.redaction.laboratory import Experiment
from logstitch.redaction.rules import DEFAULT_BUILTINS, BuiltinState, check_rule
from logstitch.search.terms import matches
from logstitch.store.redaction import RuleRow
from tests.support.alerts_world import AlertsWorld
from tests.support.streams_world import StreamsWorld
from tests.support.viewers_world import ViewersWorld, shows
from tests.support.webhooks_world import WebhooksWorld

R = TypeVar("R")
Row = TypeVar("Row", Key, Project)

NOW = datetime(2026, 11, 23, 8, 0, 0, 123000, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
CURSOR_KEY = b"a cursor key that only tests know"


@dataclass
class Organization:
    """One company."""

    plan: Plan = Plan.ENTERPRISE
    id: UUID = field(default_factory=uuid4)
    projects: list[Project] = field(default_factory=list)


@dataclass
class StoredKey:
    """A key and what is found by it."""

    key: Key
    digest: bytes
    organization: Organization


@dataclass(eq=False)
class StoredEvent:
    """An event as it is answered, and where it stands."""

    project_no: int
    id: UUID
    occurred_at_ms: int
    event: dict[str, Any]
    canonical: bytes

    def place(self) -> tuple[int, UUID]:
        """Where it stands in the order of events."""
        return self.occurred_at_ms, self.id

    @property
    def body(self) -> str:
        return orjson.dumps(self.event).decode()


class World:
    """Everything that the API knows. ``asked`` are the messages that were sent, in order."""

    def __init__(self) -> None:
        self.organizations: list[Organization] = []
        self.keys: list[StoredKey] = []
        self.events: list[StoredEvent] = []
        self.rules: dict[int, RuleBook] = {}
        self.asked: list[Ask[Any]] = []
        self.now = NOW
        self.alerts = AlertsWorld(self._later, lambda no: [e.event for e in self.events if e.project_no == no])
        self.webhooks = WebhooksWorld(self._later)
        self.viewers = ViewersWorld(self._later, lambda: self.now, self._minter)
        self.streams = StreamsWorld(self._later)
        self.most_tried = 100
        """Events that one trial of a rule looks at."""
        self._interrupt: Callable[[Ask[Any]], Awaitable[None]] | None = None
        self._mint = ids.UlidMint()

    def services(self, limits: Limits | None = None) -> Services:
        """What an app is made of."""
        return Stage(self).services(limits)

    def interrupt(self, hook: Callable[[Ask[Any]], Awaitable[None]]) -> None:
        """Call ``hook`` before every answer: to raise, or to wait."""
        self._interrupt = hook

    # -- what a test puts there ------------------------------------------------------------------------------------

    def organization(self, plan: Plan = Plan.ENTERPRISE) -> Organization:
        organization = Organization(plan)
        self.organizations.append(organization)
        return organization

    def project(self, organization: Organization, name: str = "Billing") -> Project:
        no = 1 + sum(len(other.projects) for other in self.organizations)
        project = Project(no, uuid4(), organization.id, name, self._later())
        organization.projects.append(project)
        return project

    def key(self, organization: Organization, project: Project | None = None, name: str = "a key") -> str:
        """A new key's secret: a project's, or a master key."""
        return self.make_key(organization, project, name).secret

    def make_key(self, organization: Organization, project: Project | None, name: str) -> CreatedKey:
        kind = KeyType.MASTER if project is None else KeyType.PROJECT
        minted = credentials.mint(kind)
        project_id = None if project is None else project.id
        key = Key(uuid4(), kind, name, minted.prefix, project_id, self._later(), None, None)
        self.keys.append(StoredKey(key, minted.digest, organization))
        return CreatedKey(key, minted.secret)

    def _later(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    # -- answers ---------------------------------------------------------------------------------------------------

    async def ask(self, message: Ask[R], timeout: float, answer: Callable[[], Any]) -> R:
        """What ``answer`` returns or raises, within ``timeout`` seconds, as an actor's address does."""
        self.asked.append(message)
        with trio.move_on_after(timeout):
            if self._interrupt is not None:
                await self._interrupt(message)
            found: R = answer()
            return found
        raise AskTimeout("The actor did not answer in time.")

    def answer(self, message: object) -> Any:
        """Answer anything but ``SubmitEvents``."""
        match message:
            case Authenticate(digest):
                return self._authenticate(digest)
            case ResolveProject(organization_id, None):
                projects = self._of(organization_id).projects
                if len(projects) != 1:
                    raise InvalidRequest.on("project_id", "Required, since the organization has several projects")
                return projects[0]
            case ResolveProject(organization_id, UUID() as project_id):
                return self._project(organization_id, project_id)
            case CreateProject(organization_id, name):
                return self.project(self._of(organization_id), name)
            case ListProjects(organization_id, limit, after):
                return ProjectPage(*_page(self._of(organization_id).projects, limit, after))
            case CreateKey(organization_id, project_id, name):
                return self.make_key(self._of(organization_id), self._project(organization_id, project_id), name)
            case ListKeys(organization_id, project_id, limit, after):
                keys = [stored.key for stored in self.keys if stored.organization.id == organization_id]
                wanted = [key for key in keys if project_id in (None, key.project_id)]
                return KeyPage(*_page(wanted, limit, after))
            case RevokeKey():
                return self._revoke(message)
            case ListEvents():
                return self._list(message)
            case MeasureRule():
                return self._measure(message)
            case GetEvent(project_no, id, view):
                for stored in self.events:
                    if (stored.project_no, stored.id) == (project_no, id) and (
                        view is None or shows(view, stored.event)
                    ):
                        return stored.body if view is None else view.strip_text(stored.body)
                raise NotFound("There is no such event.")
        if (answer := self.alerts.answer(message)) is not NotImplemented:
            return answer
        if (answer := self.webhooks.answer(message)) is not NotImplemented:
            return answer
        if (answer := self.viewers.answer(message)) is not NotImplemented:
            return answer
        if (answer := self.streams.answer(message)) is not NotImplemented:
            return answer
        raise TypeError(f"nobody answers {type(message).__name__}")

    def _authenticate(self, digest: bytes) -> Principal:
        for stored in self.keys:
            if stored.digest == digest:
                if stored.key.revoked_at is not None:
                    raise KeyRevoked("This key was revoked.")
                organization = stored.organization
                project = next((p for p in organization.projects if p.id == stored.key.project_id), None)
                return Principal(stored.key.id, stored.key.type, organization.id, organization.plan, project)
        raise InvalidApiKey("This key is not known.")

    def _minter(self, key_id: UUID) -> tuple[Project, bool] | None:
        for stored in self.keys:
            if stored.key.id == key_id:
                project = next((p for p in stored.organization.projects if p.id == stored.key.project_id), None)
                return None if project is None else (project, stored.key.revoked_at is not None)
        return None

    def _revoke(self, message: RevokeKey) -> Key:
        for stored in self.keys:
            key = stored.key
            if (
                key.id == message.key_id
                and key.type is KeyType.PROJECT
                and stored.organization.id == message.organization_id
                and message.project_id in (None, key.project_id)
            ):
                if key.revoked_at is None:
                    stored.key = replace(key, revoked_at=self._later())
                return stored.key
        raise NotFound("There is no such key.")

    def _list(self, message: ListEvents) -> EventPage:
        view = message.view
        events = [e for e in self.events if e.project_no == message.project_no]
        if view is not None:
            events = [replace(e, event=view.strip(e.event)) for e in events if shows(view, e.event)]
        events = [e for e in events if _fits(e, message.filter)]
        newest_first = message.order is Order.DESC
        events.sort(key=StoredEvent.place, reverse=newest_first)
        if message.after is not None:
            seen = (message.after.occurred_at_ms, message.after.id)
            events = [e for e in events if (e.place() < seen if newest_first else e.place() > seen)]
        shown = events[: message.limit]
        more = Position(*shown[-1].place()) if len(events) > message.limit else None
        return EventPage(tuple(e.body for e in shown), more)

    def _measure(self, message: MeasureRule) -> RuleEffect:
        draft = message.rule
        rule = CustomRule("rule", draft.name, draft.type, draft.pattern, draft.fields, draft.behavior, enabled=True)
        try:
            check_rule(rule)
        except InvalidRequest as error:
            raise InvalidRequest(details=[Detail(f"rule.{one.field}", one.message) for one in error.details]) from None
        wanted = EventFilter(start_ms=message.start_ms, end_ms=message.end_ms)
        page = self._list(ListEvents(message.project_no, wanted, Order.DESC, self.most_tried, message.after))
        tally = Experiment(rule, secret=bytes(32)).run(list(map(orjson.loads, page.bodies)), seconds=60)
        changed = (tally.scanned, tally.events_changed, tally.fields_changed)
        return RuleEffect(*changed, tuple(tally.fields.most_common()), tuple(tally.samples), page.next)

    def submit(self, project_no: int, message: SubmitEvents) -> Accepted:
        """Store a batch as a whole, or raise."""
        present = [e for e in self.events if e.project_no == project_no]
        by_key = {e.event["idempotency_key"]: e for e in present if "idempotency_key" in e.event}
        accepted: list[StoredEvent] = []
        conflicts = []
        replays = 0
        for index, incoming in enumerate(message.events):
            key = incoming.raw.get("idempotency_key")
            if (first := by_key.get(key)) is not None:
                if first.canonical != canonical(incoming.raw):
                    name = f"{index}.idempotency_key" if message.batch else "idempotency_key"
                    conflicts.append(Detail(name, "Was used with another event"))
                replays += 1
                accepted.append(first)
                continue
            id16 = self._mint.one(message.received_at_ms)
            ms = message.received_at_ms if incoming.occurred_at_ms is None else incoming.occurred_at_ms
            event = {
                **incoming.raw,
                "id": ids.event_id_text(id16),
                "occurred_at": times.format_time(ms),
                "received_at": times.format_time(message.received_at_ms),
                "content_hash": "0" * 64,
            }
            stored = StoredEvent(project_no, ids.as_uuid(id16), ms, event, canonical(incoming.raw))
            accepted.append(stored)
            if key is not None:
                by_key[key] = stored
        if conflicts:
            raise Conflict("An idempotency key was used with another event.", conflicts)
        new = [stored for stored in dict.fromkeys(accepted) if stored not in present]
        if message.daily_limit is not None and len(present) + len(new) > message.daily_limit:
            raise DailyEventLimitReached("The plan's events of this day are used up.", 3600)
        self.events += new
        return Accepted(tuple(e.event["id"] for e in accepted), 0, replays)

    def answer_on_rules(self, project_no: int, message: object) -> Any:
        """Answer what is asked about a project's redaction rules."""
        book = self.rules.get(project_no, RuleBook(0, DEFAULT_BUILTINS, (), bytes(32)))
        match message:
            case ListRules():
                return page_of_rules(book, message)
            case CreateRule(_, draft):
                how = (draft.type.value, draft.pattern, draft.fields, draft.behavior.value, draft.enabled)
                amendment = creation(RuleRow(uuid4(), draft.name, *how, self._later()))(book)
            case UpdateRule():
                amendment = update(message.id, message.changed())(book)
            case DeleteRule(_, rule_id):
                amendment = deletion(rule_id)(book)
            case TryRules(event, drafts):
                trial = Trial(book, drafts)
                return trial.outcome(redact(event, trial.rules))
            case _:
                raise TypeError(f"nobody answers {type(message).__name__}")
        self.rules[project_no] = _amended(book, amendment)
        return None if amendment.after is None else shown(amendment.after)

    def _of(self, organization_id: UUID) -> Organization:
        return next(o for o in self.organizations if o.id == organization_id)

    def _project(self, organization_id: UUID, project_id: UUID) -> Project:
        for project in self._of(organization_id).projects:
            if project.id == project_id:
                return project
        raise NotFound("There is no such project.")


@dataclass
class Stage:
    """Where a world is shown: an app is made for it once, and each test puts its own world there."""

    world: World

    def services(self, limits: Limits | None = None) -> Services:
        """What an app is made of."""
        actor = WorldActor(self)
        return Services(
            keyring=actor,
            organizations=actor,
            events_in=WorldIngest(self),
            redaction=WorldRedaction(self),
            reader=actor,
            laboratory=actor,
            alerts=actor,
            timemachine=actor,
            webhooks=actor,
            viewers=actor,
            streams=actor,
            claimer=actor,
            cursor_key=CURSOR_KEY,
            limits=limits or Limits(),
            now_ms=lambda: NOW_MS,
        )


class WorldActor:
    """The address of the world on stage, as ``Asks``."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def tell(self, message: object) -> None:
        raise TypeError("HTTP tells nothing")

    async def ask(self, message: Ask[R], *, timeout: float) -> R:
        world = self._stage.world
        return await world.ask(message, timeout, partial(world.answer, message))


class WorldIngest:
    """The address of its ingest actors, as ``KeyedAsks``."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def ask(self, key: int, message: Ask[R], *, timeout: float) -> R:
        world = self._stage.world
        return await world.ask(message, timeout, partial(_submit, world, key, message))


class WorldRedaction:
    """The address of its redaction actors, as ``KeyedAsks``."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def ask(self, key: int, message: Ask[R], *, timeout: float) -> R:
        world = self._stage.world
        return await world.ask(message, timeout, partial(world.answer_on_rules, key, message))


def _amended(book: RuleBook, amendment: Amendment[Rule]) -> RuleBook:
    """The rules after a change of one."""
    before, now = amendment.before, amendment.after
    rules = [now if rule is before else rule for rule in book.rules] + ([now] if before is None else [])
    return replace(
        book,
        version=book.version + 1,
        builtins=tuple(rule for rule in rules if isinstance(rule, BuiltinState)),
        custom=tuple(rule for rule in rules if isinstance(rule, RuleRow)),
    )


def _submit(world: World, key: int, message: object) -> Accepted:
    if not isinstance(message, SubmitEvents):
        raise TypeError("ingest takes events only")
    return world.submit(key, message)


def _page(rows: Sequence[Row], limit: int, after: Page | None) -> tuple[tuple[Row, ...], Page | None]:
    newest_first = sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)
    if after is not None:
        newest_first = [row for row in newest_first if (row.created_at, row.id) < (after.created_at, after.id)]
    shown = tuple(newest_first[:limit])
    return shown, Page(shown[-1].created_at, shown[-1].id) if len(newest_first) > limit else None


def _fits(stored: StoredEvent, wanted: EventFilter) -> bool:
    event = stored.event
    actor, target = {"id": None, "type": None} | event["actor"], event.get("target", {})
    exact = (
        (wanted.tenant_id, event["tenant_id"]),
        (wanted.actor_id, actor["id"]),
        (wanted.actor_type, actor["type"]),
        (wanted.category, event["category"]),
        (wanted.target_id, target.get("id")),
        (wanted.target_type, target.get("type")),
    )
    if any(value is not None and value != found for value, found in exact):
        return False
    if wanted.action is not None:
        glob = ".*".join(map(re.escape, wanted.action.split("*")))
        if re.fullmatch(glob, event["action"]) is None:
            return False
    if wanted.start_ms is not None and stored.occurred_at_ms < wanted.start_ms:
        return False
    if wanted.end_ms is not None and stored.occurred_at_ms > wanted.end_ms:
        return False
    return not wanted.words or matches(stored.body.encode(), wanted.words)


class WellBeing:
    """Health, as the operations app asks for it; a test says how things are."""

    def __init__(self) -> None:
        self.reasons: list[Detail] = []
        self.all: list[ActorHealth] = []
        self.numbers: dict[str, float] = {}

    def not_ready(self) -> Sequence[Detail]:
        return self.reasons

    def actors(self) -> Sequence[ActorHealth]:
        return self.all

    def database(self) -> Mapping[str, float]:
        return self.numbers


def actor_health(path: str, state: ActorState = ActorState.RUNNING, *, restarts: int = 0) -> ActorHealth:
    """An actor's state with nothing special about it."""
    return ActorHealth(path, state, restarts, None, 0, 100, 3, 0.0, 42, 0, 0.5, 0)
