"""One run: find the projects, send until the plan ends or somebody says stop, then read everything back.

The phases are nested waits, not threads and flags: senders live in one nursery, readers in the next, and the signal
that ends the first is an event that every wait of a sender also looks at.
"""

from __future__ import annotations

import json
import random
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from typing import Any

import trio
from rich.console import Console
from rich.live import Live

from logstitch.errors import LogStitchError
from logstitch.loadtest.client import Acknowledged, Client, Project, Refused, open_client
from logstitch.loadtest.ledger import Ledger, difference, pack_id
from logstitch.loadtest.plan import LoadSettings, Schedule, Slot, Workload
from logstitch.loadtest.report import Meters, Report, progress_line, progress_table, show

READERS = 8
"""Tenants read back at the same time; more only queue up behind each other in the database."""

COMPARED_SHARE = 10
"""One synthetic event in so many is compared with what was sent; of a replayed file every one is."""

PROGRESS_SECONDS = 1.0

Watch = Callable[[Meters], None]


async def drive(settings: LoadSettings, *, stop: trio.Event | None = None, watch: Watch | None = None) -> Report:
    """Runs the load test against a live service and closes the account.

    ``stop`` ends the sending early; what was acknowledged by then is verified all the same. ``watch`` is called about
    once a second. Raises ``ConfigurationError`` for settings that cannot work or a service that does not take the
    key, ``Unavailable`` for one that cannot be reached or read back from.
    """
    settings.check()
    stop = trio.Event() if stop is None else stop
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    workload = Workload.of(settings, seed)
    opened = open_client(
        settings.url,
        settings.key,
        connections=settings.clients,
        attempt_seconds=settings.timeout,
        rng=random.Random(seed),  # noqa: S311 - jitter
    )
    async with opened as client:
        meters = Meters(errors=client.errors)
        if settings.master:
            projects = await client.projects([f"loadtest-{number + 1}" for number in range(settings.projects)])
        else:
            await client.check()
            projects = [Project(None, "the key's project")]
        run = _Run(settings, workload, projects, client, meters, stop)
        async with trio.open_nursery() as nursery:
            if watch is not None:
                nursery.start_soon(_watch, watch, meters)
            trouble = await run.to_the_end()
            nursery.cancel_scope.cancel()
        if trouble is not None:
            raise trouble
    return run.report(seed)


class _Run:
    """What senders and readers share."""

    def __init__(
        self,
        settings: LoadSettings,
        workload: Workload,
        projects: list[Project],
        client: Client,
        meters: Meters,
        stop: trio.Event,
    ) -> None:
        self.settings = settings
        self.workload = workload
        self.projects = projects
        self.client = client
        self.meters = meters
        self.stop = stop
        self.ledger = Ledger()
        self.interrupted = False
        self.over: float | None = None  # when the first client found that there is nothing more to send
        self.schedule = Schedule(
            rate=settings.rate, batch=settings.batch, seconds=settings.seconds, batches=workload.batches
        )
        self.started = trio.current_time()

    async def to_the_end(self) -> LogStitchError | None:
        """Sends, then reads back; the error that kept the account from being closed, if there was one."""
        self.started = trio.current_time()
        async with trio.open_nursery() as senders:
            for _ in range(self.settings.clients):
                senders.start_soon(self._send_in_turn)
        self.meters.elapsed = trio.current_time() - self.started
        # What was due while every client waited counts with the time that it had waited in vain: at least so long.
        self.meters.missed = self.schedule.missed(self.meters.elapsed if self.over is None else self.over)
        self.meters.latency.record_missed(self.meters.missed)
        self.interrupted = self.stop.is_set()
        self.meters.phase = "reading back"
        return await self._read_back()

    # -- sending

    async def _send_in_turn(self) -> None:
        """One client: takes the next batch, waits for its time, sends it, and so on."""
        while not self.stop.is_set():
            now = trio.current_time()
            self.meters.elapsed = now - self.started
            slot = self.schedule.claim(self.meters.elapsed)
            if slot is None:
                break
            due = self.started + slot.due
            if due > now:
                with trio.move_on_at(due):
                    await self.stop.wait()
                if self.stop.is_set():
                    break
            await self._send(slot, due)
        if self.over is None:
            self.over = trio.current_time() - self.started

    async def _send(self, slot: Slot, due: float) -> None:
        batch = self.workload.at(slot.index)
        body = self.workload.body(batch)
        self.ledger.send(batch.first, batch.count)
        began = trio.current_time()
        outcome = await self.client.send(body, batch.count, project=self.projects[batch.project].id, stop=self.stop)
        ended = trio.current_time()
        if isinstance(outcome, Acknowledged):
            self.ledger.acknowledge(batch.first, outcome.ids)
            self.meters.acked += batch.count
            self.meters.replays += outcome.replays
            self.meters.latency.record(ended - due)
            self.meters.service.record(ended - began)
        elif isinstance(outcome, Refused):
            self.ledger.refuse(batch.first, batch.count)
            self.meters.refused += batch.count
        else:
            self.meters.unacked += batch.count

    # -- reading back

    async def _read_back(self) -> LogStitchError | None:
        places = [(index, tenant) for index in range(len(self.projects)) for tenant in self.workload.tenants]
        send, receive = trio.open_memory_channel[tuple[int, str]](len(places))
        for place in places:
            send.send_nowait(place)
        send.close()
        trouble: LogStitchError | None = None

        async def read_in_turn() -> None:
            nonlocal trouble
            async for index, tenant in receive:
                try:
                    await self._read_tenant(index, tenant)
                except LogStitchError as error:
                    trouble = error
                    readers.cancel_scope.cancel()
                    return

        async with trio.open_nursery() as readers:
            for _ in range(min(READERS, self.settings.clients)):
                readers.start_soon(read_in_turn)
        return trouble

    async def _read_tenant(self, index: int, tenant: str) -> None:
        project = self.projects[index]
        pages = self.client.pages(
            "/api/v1/events", "events", project=project.id, query={"tenant_id": tenant, "order": "asc"}
        )
        async with aclosing(pages):
            async for page in pages:
                for row in page:
                    self._check(row, index, tenant)
                self.meters.read += len(page)

    def _check(self, row: dict[str, Any], index: int, tenant: str) -> None:
        n = self.workload.number(row.get("idempotency_key"))
        if n is None or self.workload.project(n) != index or self.workload.tenant(n) != tenant:
            self.ledger.foreign(f"{row.get('id')} in {self.projects[index].name}, tenant {tenant}")
            return
        self.ledger.find(n, pack_id(row.get("id")))
        if self.settings.real is not None or n % COMPARED_SHARE == 0:
            self.ledger.compare(n, difference(self.workload.event(n), row))

    # -- telling

    def report(self, seed: int) -> Report:
        """The finished run."""
        meters = self.meters
        return Report(
            run=self.workload.run,
            seed=seed,
            url=self.settings.url,
            projects=[project.name for project in self.projects],
            rate=self.settings.rate,
            batch=self.settings.batch,
            seconds=meters.elapsed,
            interrupted=self.interrupted,
            latency=meters.latency.milliseconds(),
            service=meters.service.milliseconds(),
            errors=dict(self.client.errors),
            complaint=self.client.complaint,
            replays=meters.replays,
            bad_answers=self.client.bad_answers,
            missed_events=meters.missed.count * self.settings.batch,
            tally=self.ledger.tally(),
        )


async def _watch(watch: Watch, meters: Meters) -> None:
    while True:
        await trio.sleep(PROGRESS_SECONDS)
        watch(meters)


# -- the command ---------------------------------------------------------------------------------------------------


def main(settings: LoadSettings) -> int:
    """``logstitch loadtest``: progress on stderr, the result on stdout.

    Returns the exit code: 0, or 1 where an acknowledged event is missing, doubled or altered, or 2 for settings or a
    service that the test cannot work with. Interrupt and terminate stop the sending; a second one gives up.
    """
    try:
        report = trio.run(_main, settings)
    except LogStitchError as error:
        print(f"logstitch loadtest: {error.message}", file=sys.stderr)
        return 2
    if report is None:
        print("logstitch loadtest: given up; what was acknowledged has not been verified", file=sys.stderr)
        return 2
    if settings.json:
        print(json.dumps(report.to_json(), ensure_ascii=False))
    else:
        show(report, Console())
    return report.exit_code


async def _main(settings: LoadSettings) -> Report | None:
    stop = trio.Event()
    report: Report | None = None
    trouble: LogStitchError | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, stop, nursery.cancel_scope)
        with ExitStack() as screen:
            try:
                report = await drive(settings, stop=stop, watch=_progress(screen))
            except LogStitchError as error:
                trouble = error
        nursery.cancel_scope.cancel()
    if trouble is not None:
        raise trouble
    return report


async def _heed_signals(
    stop: trio.Event, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                scope.cancel()
                return
            print("stopping; what was acknowledged is verified (again to give up)", file=sys.stderr, flush=True)
            stop.set()


def _progress(screen: ExitStack) -> Watch:
    """A table that is redrawn on a terminal, lines elsewhere. ``screen`` puts the terminal back in order."""
    console = Console(stderr=True)
    live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
    if live is not None:
        screen.enter_context(live)
    before = 0

    def watch(meters: Meters) -> None:
        nonlocal before
        recent = (meters.acked - before) / PROGRESS_SECONDS
        before = meters.acked
        if live is None:
            print(progress_line(meters, recent), file=sys.stderr, flush=True)
        else:
            live.update(progress_table(meters, recent), refresh=True)

    return watch


__all__ = ["LoadSettings", "Report", "drive", "main"]
