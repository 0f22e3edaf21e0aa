"""Dispatcher: one actor a process that delivers what is in the outbox, at least once.

Several processes share the outbox. A delivery that is due is claimed in one statement, which begins an attempt: it
counts it, writes it down, and makes the delivery due again at the end of a lease, all before anything is sent. Nothing
is sent within a transaction. The outcome is written only if no other attempt was begun meanwhile. So whoever dies after
the receiver has answered leaves a lease that runs out, and the message goes out again, with the same id.

Of one endpoint only so many are in flight, and of one project, and a claim takes no more of it than that: one that is
slow delays its own messages, and no project those of others. One to which nothing gets through has a single one in
flight, so that even many such leave room for others.

An attempt whose request could not be sent stays under way until a fixed time after its beginning, however soon that was
known: else the times of deliveries would tell closed ports from those that swallow packets.

Notifications wake, and polling is the truth. Nobody sends it anything; its mailbox tells when to end.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from random import SystemRandom
from typing import Final, Protocol
from uuid import UUID

import structlog
import trio

from logstitch import metrics
from logstitch.actors.mailbox import Mailbox
from logstitch.egress.addresses import Allow
from logstitch.egress.client import ATTEMPT_SECONDS, REFUSED, Category, Outcome, open_egress
from logstitch.egress.targets import Target, check_url
from logstitch.errors import DatabaseUnavailable, InvalidRequest
from logstitch.ids import IdKind, id_text
from logstitch.recording.webhooks import Ending, settle
from logstitch.store import webhooks as store
from logstitch.store.database import Connection, Database
from logstitch.store.webhooks import Claim
from logstitch.webhooks.schedule import Verdict
from logstitch.webhooks.signing import signed_headers

IN_FLIGHT: Final = 256
"""Attempts of this process at the same time: each is a socket, and with TLS a few hundred kilobytes."""
IN_FLIGHT_OF_PROJECT: Final = 32
"""Of them, of one project."""
IN_FLIGHT_EACH: Final = 4
"""Of them, of one endpoint; of one to which nothing gets through, a single one."""
LEASE: Final = timedelta(seconds=60)
"""How long a claimed delivery is left alone by others: an attempt may take 16 s, and writing it down an outage's
length."""
CONNECTION_FAILED_SECONDS: Final = ATTEMPT_SECONDS + 1.0
"""How long every attempt takes whose request could not be sent: longer than the longest, which is given up at its
deadline and then has to be cleared away."""
POLL_SECONDS: Final = 1.0
"""Between two looks for what is due, whatever was notified."""
SETTLED_AT_ONCE: Final = 2
"""Outcomes that are written at the same time, so that most of the connections stay with requests."""
SETTLE_SECONDS: Final = 30.0
"""How long an outcome is held through an outage of the database. After it, the lease runs out."""
FAREWELL_SECONDS: Final = 3.0
"""For an outcome to be written when this actor is cancelled."""
LOOK_AFTER_SECONDS: Final = 15.0
"""Between two counts of what is pending, and two looks for what is left of endpoints that are gone."""
INTERNAL_ERROR: Final = "internal_error"
"""The category of an attempt that failed by a defect of ours. One whose outcome could not be written down for a defect
is counted under it, too."""

DEFAULT_CHANCE: Final = SystemRandom().random

_START: Final = 0

log = structlog.get_logger(__name__)


class Posts(Protocol):
    """What makes attempts; ``egress.client.Sender`` is one."""

    async def post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """See ``Sender.post``."""
        ...


class Dispatcher:
    """Owns the attempts that are under way in this process."""

    def __init__(
        self,
        database: Database,
        allow: Allow,
        *,
        egress: Callable[[Allow], AbstractAsyncContextManager[Posts]] = open_egress,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = DEFAULT_CHANCE,
        lease: timedelta = LEASE,
        connection_failed_seconds: float = CONNECTION_FAILED_SECONDS,
        poll_seconds: float = POLL_SECONDS,
        look_after_seconds: float = LOOK_AFTER_SECONDS,
    ) -> None:
        """``allow``: the networks that are not public and may be sent to all the same; ``clock``: Unix time, for
        signatures."""
        self._database = database
        self._allow = allow
        self._egress = egress
        self._clock = clock
        self._chance = chance
        self._lease = lease
        self._connection_failed_seconds = connection_failed_seconds
        self._poll_seconds = poll_seconds
        self._look_after_seconds = look_after_seconds
        self._busy: Counter[tuple[int, UUID]] = Counter()
        self._after = _START
        self._settling = trio.CapacityLimiter(SETTLED_AT_ONCE)
        self._wake = trio.Event()
        self._sender: Posts
        self._attempts: trio.Nursery

    async def run(self, mailbox: Mailbox) -> None:
        """Deliver until the mailbox is closed; then finish what is in flight."""
        async with (
            self._egress(self._allow) as self._sender,
            trio.open_nursery() as self._attempts,
            trio.open_nursery() as rounds,
        ):
            rounds.start_soon(self._listen)
            rounds.start_soon(self._dispatch)
            rounds.start_soon(self._look_after)
            async for _ in mailbox:
                pass
            rounds.cancel_scope.cancel()

    # -- claims ----------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        with self._database.listen(store.CHANNEL, poll_every=self._poll_seconds) as wakeups:
            async for _ in wakeups:
                self._wake.set()

    async def _dispatch(self) -> None:
        while True:
            self._wake = trio.Event()
            with suppress(DatabaseUnavailable):  # not this actor's to mend, and the next look is soon
                await self._claim()
            await self._wake.wait()

    async def _claim(self) -> None:
        """Begin what is due, as far as there is room: from where the last claim had to stop, then from the start."""
        for after in dict.fromkeys((self._after, _START)):
            if (room := IN_FLIGHT - self._busy.total()) < 1:
                return
            claims = await self._claim_from(after, room)
            # No checkpoint from the commit to here, so what was claimed is sent, also in a drain.
            for claim in claims:
                self._busy[claim.project_no, claim.webhook_id] += 1
                self._attempts.start_soon(self._attempt, claim)
            if len(claims) == room:
                self._after = claims[-1].project_no
                return
            self._after = _START

    async def _claim_from(self, after: int, room: int) -> list[Claim]:
        busy = dict(self._busy)
        return await self._database.transact(
            lambda conn: store.claim_deliveries(
                conn,
                limit=room,
                each=IN_FLIGHT_EACH,
                each_project=IN_FLIGHT_OF_PROJECT,
                busy=busy,
                lease=self._lease,
                after=after,
            )
        )

    async def _look_after(self) -> None:
        while True:
            with suppress(DatabaseUnavailable):
                while await self._database.transact(store.cancel_leftovers) >= store.CANCELLED_AT_ONCE:
                    pass
                metrics.DELIVERIES_PENDING.set(await self._database.transact(store.count_pending, read_only=True))
            await trio.sleep(self._look_after_seconds)

    # -- one attempt -----------------------------------------------------------------------------------------------

    async def _attempt(self, claim: Claim) -> None:
        try:
            ending = await self._send(claim)
            try:
                verdict = await self._settle(claim, ending, trio.current_time() + SETTLE_SECONDS)
            except trio.Cancelled:
                # The receiver has it: that is worth a moment.
                with trio.CancelScope(deadline=trio.current_time() + FAREWELL_SECONDS, shield=True):
                    await self._settle(claim, ending, trio.current_time())
                raise
            if verdict is not None and verdict.disable is not None:
                name = id_text(IdKind.WEBHOOK, claim.webhook_id.bytes)
                log.info("webhooks.disabled", project=claim.project_no, webhook=name, reason=verdict.disable.value)
        finally:
            endpoint = claim.project_no, claim.webhook_id
            self._busy[endpoint] -= 1
            if not self._busy[endpoint]:
                del self._busy[endpoint]
            self._wake.set()

    async def _send(self, claim: Claim) -> Ending:
        began = trio.current_time()
        body = claim.body.encode()
        message_id = id_text(IdKind.DELIVERY, claim.delivery_id.bytes)
        try:
            target = check_url(claim.url, self._allow)
            headers = signed_headers(message_id, int(self._clock()), body, claim.keys)
            outcome = await self._sender.post(target, body, headers)
        except InvalidRequest:
            outcome = REFUSED  # what may be reached was changed after the URL was saved
        except Exception as error:
            # A defect with one message must not end the attempts at others.
            log.error("webhooks.attempt_failed", delivery=message_id, exc_info=error)
            metrics.attempted(INTERNAL_ERROR)
            return Ending(None, INTERNAL_ERROR, None)
        metrics.attempted(outcome.category.value)
        if outcome.category is Category.CONNECTION_FAILED:
            # Its place in flight is kept, too: when the next one begins can be seen. Whoever is cancelled here writes
            # nothing down, as one that still waits for a connection.
            await trio.sleep_until(began + self._connection_failed_seconds)
        error_name = None if outcome.category is Category.DELIVERED else outcome.category.value
        return Ending(outcome.status, error_name, outcome.duration_ms)

    async def _settle(self, claim: Claim, ending: Ending, hold_until: float) -> Verdict | None:
        chance = self._chance()

        def work(conn: Connection) -> Verdict | None:
            return settle(conn, claim, ending, chance)

        # Whatever goes wrong, the lease runs out, and it goes out again.
        async with self._settling:
            try:
                return await self._database.transact(work, hold=max(0.0, hold_until - trio.current_time()))
            except DatabaseUnavailable:
                pass
            except Exception as error:
                # A defect with one outcome must not lose those of the other attempts.
                log.error(
                    "webhooks.not_settled", delivery=id_text(IdKind.DELIVERY, claim.delivery_id.bytes), exc_info=error
                )
                metrics.attempted(INTERNAL_ERROR)
        return None
