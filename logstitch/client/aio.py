"""The asynchronous client, for asyncio and for Trio: one class, since anyio, on which httpx stands, serves both.

It lives inside ``async with``, which owns the task that empties the queue. At the end of the block that task gets its
time to send what is left, also when the block is cancelled: an event that was queued before a cancellation has happened
all the same.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Protocol, TypeVar, Unpack

import anyio
import anyio.abc
import httpx

from logstitch.client import wire
from logstitch.client.buffer import Dropped, Offer, Queue, QueueOptions, QueueStatistics
from logstitch.client.core import OUTAGE, Core, Idle, Paging, Reply, Send, Step, Steps, log
from logstitch.client.errors import ClientClosed
from logstitch.client.retries import Retries
from logstitch.client.schema import (
    Claimed,
    Event,
    EventPage,
    Filters,
    Logged,
    NewEvent,
    StreamInfo,
    ViewerToken,
)
from logstitch.client.settings import DEFAULT_TIMEOUT, Settings
from logstitch.client.transport import Body, TooMuch, build, lost
from logstitch.client.wire import Answer, Lost

T = TypeVar("T")

_CLOSING_SECONDS = 2.0
"""What closing the connections may take: they are only told good-bye."""


class _Run(Protocol):
    async def __call__(self, steps: Steps[T]) -> T: ...


class AsyncClient:
    """The API with calls to await. To be used within ``async with``, by the tasks of one event loop.

    ``key`` is a project key, a master key (then ``project_id`` names the project, unless there is only one) or a viewer
    token; streams need none. ``timeout``, in seconds, is for connecting and for each read and write of one attempt; how
    long a call takes altogether, ``retries`` say. Proxies of the environment are used as httpx does. ``verify`` and
    ``transport`` are httpx's. ``on_drop`` is called in the event loop, and must not block it.

    Calls raise ``ClientError``, and ``TypeError`` or ``ValueError`` for what cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        project_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        queue: QueueOptions = QueueOptions(),  # noqa: B008 - frozen
        on_drop: Callable[[Dropped], None] | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = Settings(base_url, key, project_id, timeout)
        self._core = Core(retries, timeout, project_id, on_drop, clock=anyio.current_time)
        self._options = queue
        self._queue = Queue(queue)
        self._verify = verify
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self.events = AsyncEvents(self._run, self._core)
        """Listing, and looking at one."""
        self.viewer_tokens = AsyncViewerTokens(self._run, self._core)
        """For the browsers of your customers."""
        self.streams = AsyncStreams(self._run, self._core, self._settings)
        """For who has no key yet."""

    # -- sending

    async def log(self, event: NewEvent) -> Logged:
        """Store one event; it is on disk when this returns."""
        return await self._run(self._core.log(event))

    async def log_batch(self, events: Iterable[NewEvent]) -> Logged:
        """Store events, in order. Each request takes up to 100 of them and stores all of its events or none; where one
        fails, the error's ``stored`` has the ids of those before. Give the events keys (``with_key``) to be able to
        repeat the whole call."""
        return await self._run(self._core.log_batch(events))

    def enqueue(self, event: NewEvent) -> bool:
        """Send an event soon, from another task. Never blocks, and needs no ``await``. False when the queue was full
        and the event dropped. Not to be called from another thread than the event loop's.

        An event with neither ``occurred_at`` nor an idempotency key gets the present time.
        """
        self._open()
        offer = self._core.enqueue(self._queue, event)
        if offer is Offer.RIPE:
            self._woken.set()
        return offer is not Offer.FULL

    async def flush(self, timeout: float | None = None) -> bool:
        """Send what is queued now. True when all of it is stored, or was refused and reported; False when the time, in
        seconds, was over first (it goes on being sent)."""
        self._open()
        number = self._queue.hurry()
        self._woken.set()
        with anyio.move_on_after(timeout):
            while self._queue.settled < number and not self._queue.finished:
                await self._changed.wait()
        return self._queue.settled >= number

    def queue_statistics(self) -> QueueStatistics:
        """What waits, and what became of the rest."""
        return self._queue.statistics()

    # -- beginning and end

    async def __aenter__(self) -> AsyncClient:
        if self._tasks is not None or self._queue.deadline is not None:
            raise ClientClosed("the client can be entered once")
        self._woken, self._changed, self._worked = anyio.Event(), anyio.Event(), anyio.Event()
        self._worker = anyio.CancelScope(shield=True)
        self._http = httpx.AsyncClient(verify=self._verify, transport=self._transport, follow_redirects=False)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._work)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Sends what is queued, for up to ``close_timeout`` seconds, and closes the connections.

        Raises ``UnsentEvents`` with what was left, unless the block has raised something else; ``on_drop`` was told
        before.
        """
        http, tasks = self._http, self._tasks
        if http is None or tasks is None:
            raise ClientClosed("the client was not entered")
        self._queue.close(anyio.current_time() + self._options.close_timeout)
        self._woken.set()
        try:
            with anyio.move_on_after(self._options.close_timeout, shield=True):
                await self._worked.wait()
        finally:
            unsent = self._core.give_up(self._queue)
            self._worker.cancel()
            try:
                # The block's exception is not the group's: told of it, the group would wrap it.
                await tasks.__aexit__(None, None, None)
            finally:
                self._http = None
                with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
                    await http.aclose()
        if unsent is None:
            return
        if error is None:
            raise unsent
        error.add_note(f"logstitch: {unsent}")  # the first error is the one to be seen

    def _open(self) -> httpx.AsyncClient:
        if self._http is None:
            raise ClientClosed("the client is used within its async with block")
        return self._http

    # -- doing what the core says

    async def _run(self, steps: Steps[T]) -> T:
        self._open()
        return await self._drive(steps)

    async def _drive(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: T = done.value
                return result
            reply = await self._do(step)

    async def _do(self, step: Step) -> Reply:
        if isinstance(step, Send):
            return await self._attempt(step)
        if isinstance(step, Idle):
            with anyio.move_on_after(None if step.seconds == math.inf else step.seconds):
                await self._woken.wait()
            self._woken = anyio.Event()
        else:
            await anyio.sleep(step.seconds)
        return None

    async def _attempt(self, send: Send) -> Answer | Lost:
        body = Body(anyio.current_time, send.seconds)
        try:
            with anyio.fail_after(send.seconds):
                response = await self._open().send(build(self._settings, send), stream=True)
                try:
                    async for part in response.aiter_bytes():
                        body.add(part)
                finally:
                    await response.aclose()
        except (httpx.HTTPError, TooMuch, TimeoutError) as error:
            return lost(error)
        return body.answer(response)

    # -- the task

    async def _work(self) -> None:
        with self._worker:
            while True:
                try:
                    await self._drive(self._told(self._core.deliver(self._queue)))
                    break
                except Exception:  # a defect of ours: what is queued is kept, and tried again
                    log.exception("the delivery of queued events failed and begins again")
                    await self._do(Idle(OUTAGE.longest_pause))
        self._worked.set()
        self._changed.set()

    def _told(self, steps: Steps[None]) -> Steps[None]:
        """The same steps; before each one, who waits for a flush looks again."""
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration:
                return
            self._changed.set()
            self._changed = anyio.Event()
            reply = yield step


class AsyncEvents:
    """Reading events."""

    def __init__(self, run: _Run, core: Core) -> None:
        self._run = run
        self._core = core

    def list(
        self, *, page_size: int = 100, cursor: str | None = None, **filters: Unpack[Filters]
    ) -> AsyncIterator[Event]:
        """All events that match, newest first, page by page as they are asked for."""
        return self._flat(self.pages(page_size=page_size, cursor=cursor, **filters))

    def pages(
        self, *, page_size: int = 100, cursor: str | None = None, **filters: Unpack[Filters]
    ) -> AsyncIterator[EventPage]:
        """The same by pages, each with the cursor to go on from later."""
        return self._turn(Paging(filters, page_size, cursor))

    async def _flat(self, pages: AsyncIterator[EventPage]) -> AsyncIterator[Event]:
        async for page in pages:
            for event in page.events:
                yield event

    async def _turn(self, paging: Paging) -> AsyncIterator[EventPage]:
        while (request := paging.next()) is not None:
            page = await self._run(self._core.exchange(request, wire.event_page))
            paging.turn(page)
            yield page

    async def get(self, id: str) -> Event:
        """One event. Raises ``NotFound``."""
        return await self._run(self._core.get_event(id))


class AsyncViewerTokens:
    """Making viewer tokens; needs a project key."""

    def __init__(self, run: _Run, core: Core) -> None:
        self._run = run
        self._core = core

    async def create(self, tenant_id: str, *, tier: str | None = None, expires_in: int | None = None) -> ViewerToken:
        """A token that reads this tenant's events, as the tier shows them, for ``expires_in`` seconds (60 to 86400; an
        hour, where nothing is said)."""
        return await self._run(self._core.create_viewer_token(tenant_id, tier, expires_in))


class AsyncStreams:
    """Anonymous streams: their token (``new_stream_token``) is all that is needed, until somebody claims them."""

    def __init__(self, run: _Run, core: Core, settings: Settings) -> None:
        self._run = run
        self._core = core
        self._settings = settings

    async def log(self, token: str, event: NewEvent) -> Logged:
        """Store one event; the first one begins the stream."""
        return await self._run(self._core.log(event, token))

    async def log_batch(self, token: str, events: Iterable[NewEvent]) -> Logged:
        """Store events, as ``AsyncClient.log_batch`` does. A stream takes 100 a day."""
        return await self._run(self._core.log_batch(events, token))

    async def info(self, token: str) -> StreamInfo:
        """How it stands. Raises ``NotFound``."""
        return await self._run(self._core.stream_info(token))

    async def claim(self, token: str, *, project_id: str | None = None) -> Claimed:
        """Make its events a project's: this one, or the client's. Needs a master key. Raises ``Gone`` when somebody
        else was first; when the error is ``uncertain``, it may have been this call."""
        return await self._run(self._core.claim_stream(token, project_id))

    def claim_url(self, token: str) -> str:
        """The page on which a person claims it."""
        return self._settings.claim_url(token)
