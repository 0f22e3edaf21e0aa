"""The command line: serve, init, migrate, org, project, key, loadtest, verify.

Commands that administer work on the database directly, so that whoever may reach the database needs no key to make one.
"""

from __future__ import annotations

import json
import logging
import shlex
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar
from uuid import UUID

import trio
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from logstitch import __version__, credentials, logs
from logstitch.config import (
    DEFAULT_BIND,
    DEFAULT_CONNECTIONS_PER_ADDRESS,
    DEFAULT_DRAIN_NOTICE,
    DEFAULT_DRAIN_SECONDS,
    DEFAULT_LOG_LEVEL,
    DEFAULT_OPS_BIND,
    DEFAULT_POOL_SIZE,
    DEFAULT_STREAMS_PER_ADDRESS,
    DEFAULT_WORKERS,
    MISCONFIGURED,
    Settings,
)
from logstitch.errors import CannotStartNow, ConfigurationError, LogStitchError
from logstitch.model import Plan
from logstitch.times import format_moment

if TYPE_CHECKING:  # what takes long to import is imported by the commands that need it
    from logstitch.store.database import Connection, Database

T = TypeVar("T")

ALREADY_INITIALIZED = 3
"""Exit status of ``init`` on a database that has an organization."""

app = typer.Typer(
    name="logstitch",
    help="LogStitch: a self-hosted audit log. `logstitch serve` runs it; the other commands administer it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
org = typer.Typer(help="Organizations: the companies that log.", no_args_is_help=True)
project = typer.Typer(help="Projects of an organization.", no_args_is_help=True)
key = typer.Typer(help="Master and project keys.", no_args_is_help=True)
app.add_typer(org, name="org")
app.add_typer(project, name="project")
app.add_typer(key, name="key")

Data = Annotated[
    Path | None,
    typer.Option("--data", envvar="LOGSTITCH_DATA", help="Data directory of the embedded PostgreSQL.", metavar="DIR"),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="LOGSTITCH_DATABASE_URL",
        help="A PostgreSQL of your own, 15 or later, instead of the embedded one.",
        metavar="URL",
        show_envvar=True,
    ),
]
OrganizationId = Annotated[
    UUID | None,
    typer.Option("--organization", help="Its id; may be left out where there is only one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
PoolSize = Annotated[
    int,
    typer.Option(
        envvar="LOGSTITCH_POOL_SIZE",
        min=1,
        max=500,
        help="Database transactions at the same time, for each worker; it has two connections more.",
    ),
]
ConnectionsPerAddress = Annotated[
    int,
    typer.Option(
        envvar="LOGSTITCH_CONNECTIONS_PER_ADDRESS",
        min=1,
        max=2000,
        help="Connections that one client address may have to a worker, of 2000 in all. Raise it behind a proxy.",
    ),
]
StreamsPerAddress = Annotated[
    int,
    typer.Option(
        envvar="LOGSTITCH_STREAMS_PER_ADDRESS",
        min=0,
        max=1_000_000,
        help="Anonymous streams that one client address may begin in an hour, for each worker; 0 takes no new ones. "
        "Raise it behind a proxy.",
    ),
]
WebhookAllow = Annotated[
    str | None,
    typer.Option(
        envvar="LOGSTITCH_WEBHOOK_ALLOW",
        help="Networks that webhooks may be sent to although they are not public, such as 10.1.0.0/16 or 127.0.0.1/32.",
        metavar="CIDR,…",
    ),
]
OpsHostNames = Annotated[
    str | None,
    typer.Option(
        envvar="LOGSTITCH_OPS_HOST_NAMES",
        help="Names by which browsers may open the operations address, besides localhost, IP addresses and the one in "
        "--ops-bind. Scrapers and probes need none.",
        metavar="NAME,…",
    ),
]
LogLevel = Annotated[
    str, typer.Option("--log-level", envvar="LOGSTITCH_LOG_LEVEL", help="debug, info, warning or error.")
]


# -- serving -------------------------------------------------------------------------------------------------------


@app.command()
def serve(
    bind: Annotated[
        str, typer.Option(envvar="LOGSTITCH_BIND", help="Address of the public API.", metavar="HOST:PORT")
    ] = DEFAULT_BIND,
    ops_bind: Annotated[
        str,
        typer.Option(
            envvar="LOGSTITCH_OPS_BIND",
            help="Address of health and metrics; keep it private. Worker n listens on this port + n.",
            metavar="HOST:PORT",
        ),
    ] = DEFAULT_OPS_BIND,
    ops_host_names: OpsHostNames = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    workers: Annotated[
        int, typer.Option(envvar="LOGSTITCH_WORKERS", min=1, max=64, help="Processes.")
    ] = DEFAULT_WORKERS,
    pool_size: PoolSize = DEFAULT_POOL_SIZE,
    connections_per_address: ConnectionsPerAddress = DEFAULT_CONNECTIONS_PER_ADDRESS,
    streams_per_address: StreamsPerAddress = DEFAULT_STREAMS_PER_ADDRESS,
    webhook_allow: WebhookAllow = None,
    drain_notice: Annotated[
        float,
        typer.Option(
            envvar="LOGSTITCH_DRAIN_NOTICE",
            min=0,
            max=60,
            help="Seconds between SIGTERM (ready turns 503) and the last accepted connection.",
        ),
    ] = DEFAULT_DRAIN_NOTICE,
    drain_seconds: Annotated[
        float, typer.Option(envvar="LOGSTITCH_DRAIN_SECONDS", min=0, max=60, help="Seconds for requests after that.")
    ] = DEFAULT_DRAIN_SECONDS,
    log_level: LogLevel = DEFAULT_LOG_LEVEL,
) -> None:
    """Run the service. An empty database gets its first organization, project and keys, which are printed once."""
    settings = Settings(
        bind=bind,
        ops_bind=ops_bind,
        ops_host_names=ops_host_names or "",
        data=data,
        database_url=database_url,
        workers=workers,
        pool_size=pool_size,
        connections_per_address=connections_per_address,
        streams_per_address=streams_per_address,
        webhook_allow=webhook_allow or "",
        drain_notice=drain_notice,
        drain_seconds=drain_seconds,
        log_level=log_level,
    )
    _configure_logs(log_level)
    raise typer.Exit(_run(partial(_serve, settings), misconfigured=MISCONFIGURED))


async def _serve(settings: Settings) -> int:
    from logstitch.app import embedded_data, open_postgres_for_service, run, stop_signals
    from logstitch.egress.addresses import Allow
    from logstitch.http.hosts import parse_names
    from logstitch.http.server import bind
    from logstitch.workers import run_workers

    Allow.parse(settings.webhook_allow)  # before anything is started
    parse_names(settings.ops_host_names)
    public = bind(settings.bind)
    ops = [bind(address) for address in _ops_addresses(settings)]
    _note(f"LogStitch {__version__} is starting")
    with stop_signals() as signals:
        async with open_postgres_for_service(settings, public, ops, signals) as url:
            if url is None:
                return 0  # it was told to end before it had taken any request, and has stopped what it had started
            if settings.workers > 1:
                return await run_workers(settings, url, public, ops, signals)
            announce, embedded = partial(_announce, public, ops[0]), embedded_data(settings)
            return await run(settings, url, public, ops[0], signals, on_ready=announce, embedded=embedded)


@app.command(hidden=True)
def worker(
    public: str,
    ops: str,
    lifeline: str,
    database_url: Annotated[str, typer.Option(envvar="LOGSTITCH_DATABASE_URL")],
    drain_notice: Annotated[float, typer.Option(envvar="LOGSTITCH_DRAIN_NOTICE")],
    drain_seconds: Annotated[float, typer.Option(envvar="LOGSTITCH_DRAIN_SECONDS")],
    pool_size: PoolSize,
    connections_per_address: ConnectionsPerAddress,
    streams_per_address: StreamsPerAddress,
    log_level: LogLevel,
    webhook_allow: WebhookAllow = None,
    ops_host_names: OpsHostNames = None,
    data: Data = None,
) -> None:
    """One process of `serve --workers`, on sockets that it inherits. Its parent gives it every setting that it has."""
    from logstitch.workers import Inheritance

    _configure_logs(log_level)
    settings = Settings(
        database_url=database_url,
        data=data,
        pool_size=pool_size,
        connections_per_address=connections_per_address,
        streams_per_address=streams_per_address,
        webhook_allow=webhook_allow or "",
        ops_host_names=ops_host_names or "",
        drain_notice=drain_notice,
        drain_seconds=drain_seconds,
    )
    work = partial(_work, settings, Inheritance.parse(public, ops, lifeline))
    raise typer.Exit(_run(work, misconfigured=MISCONFIGURED))


async def _work(settings: Settings, inherited: Any) -> int:
    from logstitch.app import run, stop_signals
    from logstitch.workers import end_with_parent

    public = [socket.socket(fileno=descriptor) for descriptor in inherited.public]
    ops = [socket.socket(fileno=descriptor) for descriptor in inherited.ops]
    with stop_signals() as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_with_parent, inherited.lifeline)
            announce, url = partial(_announce, public, ops), settings.database_url or ""
            # Only the parent of workers on the embedded server names a data directory besides the URL.
            status = await run(settings, url, public, ops, signals, on_ready=announce, embedded=settings.data)
            nursery.cancel_scope.cancel()
        return status


def _ops_addresses(settings: Settings) -> list[str]:
    host, _, port = settings.ops_bind.rpartition(":")
    if settings.workers == 1:
        return [settings.ops_bind]
    if not port.isdecimal():
        raise ConfigurationError("--ops-bind must be HOST:PORT where there are several workers.")
    return [f"{host}:{int(port) + number if int(port) else 0}" for number in range(settings.workers)]


def _announce(public: Sequence[socket.socket], ops: Sequence[socket.socket], first: Any) -> None:
    """What a person who started the service wants to see."""
    curl, url, where = _reachable(public)
    if first is not None:
        _print_first(first)
        print(_CURL.format(curl=curl, url=url, key=first.project_key), flush=True)
    _note(f"LogStitch {__version__} serves on {where or url} (documentation: {url}/docs)")
    _, url, where = _reachable(ops)
    _note(f"Health and metrics are on {where or url}{':' if where else ''}/health/ready and /metrics")


def _reachable(sockets: Sequence[socket.socket]) -> tuple[str, str, str | None]:
    """How curl is called for what listens there, the URL that it is given, and the address if the URL has none."""
    name = sockets[0].getsockname()
    if sockets[0].family == socket.AF_UNIX:
        return f"curl --unix-socket {shlex.quote(name)}", "http://localhost", f"unix:{name}"
    host, port = name[:2]
    return "curl", f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", None


_CURL = """
Send a first event:

  {curl} -sS {url}/api/v1/events \\
    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\
    -d '{{"action":"user.login","category":"auth","actor":{{"id":"u1","type":"user"}},"tenant_id":"acme"}}'

and read it back:

  {curl} -sS {url}/api/v1/events -H 'Authorization: Bearer {key}'
"""


# -- the database --------------------------------------------------------------------------------------------------


@app.command()
def init(data: Data = None, database_url: DatabaseUrl = None, as_json: Json = False) -> None:
    """Migrate an empty database and make its first organization, project, master key and project key.

    The keys are printed this once. A database that has an organization is left as it is: exit status 3.
    """
    from logstitch.store.bootstrap import bootstrap

    first = _administer(data, database_url, partial(bootstrap, now=datetime.now(UTC)))
    if first is None:
        _note("This database has an organization already; nothing was changed.")
        raise typer.Exit(ALREADY_INITIALIZED)
    if as_json:
        print(
            json.dumps(
                {
                    "organization_id": str(first.organization_id),
                    "project_id": str(first.project_id),
                    "master_key": first.master_key,
                    "project_key": first.project_key,
                }
            )
        )
    else:
        _print_first(first)


@app.command()
def migrate(data: Data = None, database_url: DatabaseUrl = None) -> None:
    """Bring the schema to this version. `serve` does it too; this is for deployments that migrate first."""
    from logstitch.store import migrations

    async def work(url: str) -> list[int]:
        return await trio.to_thread.run_sync(migrations.migrate, url)

    applied = _with_server(data, database_url, work)
    _note(f"Applied: {', '.join(map(str, applied))}" if applied else "The schema is up to date.")


@org.command("create")
def org_create(
    name: str,
    plan: Annotated[Plan, typer.Option(help="What the organization may use.")] = Plan.ENTERPRISE,
    data: Data = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Make an organization and its master key, which is printed this once."""
    from logstitch.store import keys, projects

    minted, now = credentials.mint("master"), datetime.now(UTC)

    def work(conn: Connection) -> UUID:
        row = projects.create_organization(conn, name=name, plan=plan, now=now)
        keys.create_key(
            conn,
            organization_id=row.id,
            project_id=None,
            name="master key",
            prefix=minted.prefix,
            digest=minted.digest,
            now=now,
        )
        return row.id

    organization_id = _administer(data, database_url, work)
    _show({"organization_id": organization_id, "plan": plan.value, "master_key": minted.secret}, as_json)


@org.command("list")
def org_list(data: Data = None, database_url: DatabaseUrl = None, as_json: Json = False) -> None:
    """List organizations."""
    from logstitch.store import projects

    rows = _administer(data, database_url, projects.list_organizations)
    _show_rows(
        [{"organization_id": r.id, "name": r.name, "plan": r.plan, "created_at": r.created_at} for r in rows], as_json
    )


@org.command("plan")
def org_plan(
    organization_id: UUID, plan: Plan, data: Data = None, database_url: DatabaseUrl = None, as_json: Json = False
) -> None:
    """Put an organization on another plan."""
    from logstitch.store import projects

    if not _administer(data, database_url, lambda conn: projects.set_plan(conn, organization_id, plan)):
        _fail("There is no such organization.")
    _show({"organization_id": organization_id, "plan": plan.value}, as_json)


@project.command("create")
def project_create(
    name: str,
    organization: OrganizationId = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Make a project."""
    from logstitch.store import projects

    def work(conn: Connection) -> UUID:
        organization_id = _organization(conn, organization)
        return projects.create_project(conn, organization_id=organization_id, name=name, now=datetime.now(UTC)).id

    _show({"project_id": _administer(data, database_url, work), "name": name}, as_json)


@project.command("list")
def project_list(
    organization: OrganizationId = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """List an organization's projects."""
    from logstitch.store import projects

    rows = _administer(
        data,
        database_url,
        lambda conn: projects.list_projects(conn, _organization(conn, organization), limit=10_000, after=None),
    )
    _show_rows([{"project_id": r.id, "name": r.name, "created_at": r.created_at} for r in rows], as_json)


@key.command("create")
def key_create(
    name: str,
    project_id: Annotated[
        UUID | None, typer.Option("--project", help="Make a key of this project; without it, a master key.")
    ] = None,
    organization: OrganizationId = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is printed this once."""
    from logstitch.store import keys, projects

    minted = credentials.mint("project" if project_id else "master")

    def work(conn: Connection) -> UUID:
        organization_id = _organization(conn, organization)
        if project_id and projects.find_project(conn, organization_id, project_id) is None:
            raise ConfigurationError("There is no such project in the organization.")
        return keys.create_key(
            conn,
            organization_id=organization_id,
            project_id=project_id,
            name=name,
            prefix=minted.prefix,
            digest=minted.digest,
            now=datetime.now(UTC),
        ).id

    _show({"id": _administer(data, database_url, work), "key": minted.secret}, as_json)


@key.command("list")
def key_list(
    organization: OrganizationId = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """List an organization's keys, revoked ones included."""
    from logstitch.store import keys

    rows = _administer(
        data,
        database_url,
        lambda conn: keys.list_keys(conn, _organization(conn, organization), project_id=None, limit=10_000, after=None),
    )
    _show_rows(
        [
            {
                "id": r.id,
                "type": r.type,
                "name": r.name,
                "prefix": r.prefix,
                "project_id": r.project_id,
                "created_at": r.created_at,
                "last_used_at": r.last_used_at,
                "revoked_at": r.revoked_at,
            }
            for r in rows
        ],
        as_json,
    )


@key.command("revoke")
def key_revoke(
    key_id: UUID,
    organization: OrganizationId = None,
    data: Data = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Revoke a key for ever, master keys included. Running services refuse it within a second."""
    from logstitch.store import keys

    revoked = _administer(
        data,
        database_url,
        lambda conn: keys.revoke_key(
            conn,
            _organization(conn, organization),
            key_id,
            project_id=None,
            types=["master", "project"],
            now=datetime.now(UTC),
        ),
    )
    if revoked is None:
        _fail("There is no such key.")
    _show({"id": revoked.id, "name": revoked.name, "prefix": revoked.prefix, "revoked_at": revoked.revoked_at}, as_json)


@key.command("rotate-viewer-secret")
def key_rotate_viewer_secret(
    revoke_former: Annotated[
        bool, typer.Option("--revoke-former", help="End every viewer token that was made so far, at once.")
    ] = False,
    data: Data = None,
    database_url: DatabaseUrl = None,
    as_json: Json = False,
) -> None:
    """Sign viewer tokens with a new secret. Those that were made before hold until they expire, within 24 hours."""
    from logstitch.actors.leases import leases_over
    from logstitch.store.viewer_secrets import rotate_secret
    from logstitch.viewing.tokens import MAX_LIFE_SECONDS

    now, overlap = datetime.now(UTC), timedelta(seconds=MAX_LIFE_SECONDS)
    until = _administer(
        data,
        database_url,
        lambda conn: rotate_secret(conn, now, overlap=overlap, revoke_former=revoke_former),
    )
    if until is not None:
        _fail(
            f"The secret before this one still holds, until {until:%Y-%m-%d %H:%M} UTC. Rotate again after that, or "
            "end all viewer tokens at once with --revoke-former."
        )
    trio.run(leases_over)
    _note("Viewer tokens are signed with a new secret, and every running service knows of it.")
    _show({"rotated_at": now, "former_tokens_hold_until": None if revoke_former else now + overlap}, as_json)


# -- testing and proving -------------------------------------------------------------------------------------------


@app.command()
def loadtest(
    url: Annotated[str, typer.Option(envvar="LOGSTITCH_URL", help="The service.", metavar="URL")],
    api_key: Annotated[
        str,
        typer.Option(
            "--key", envvar="LOGSTITCH_KEY", help="A project key, or a master key for --projects.", metavar="KEY"
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option(help="Events a second, on schedule whatever the answers take. Default: as fast as answers come."),
    ] = None,
    clients: Annotated[int, typer.Option(help="Requests under way at the same time.")] = 16,
    batch: Annotated[int, typer.Option(help="Events a request.")] = 100,
    duration: Annotated[
        float | None, typer.Option(help="Seconds. Default: 10, or the file once.", metavar="SECONDS")
    ] = None,
    projects: Annotated[int, typer.Option(help="Spread over so many projects (made if missing).")] = 1,
    real: Annotated[
        Path | None,
        typer.Option(help="Replay this NDJSON file, gzipped or not.", exists=True, dir_okay=False, metavar="FILE"),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one attempt of a request.")] = 15.0,
    seed: Annotated[int | None, typer.Option(help="Make the same synthetic events again.")] = None,
    as_json: Json = False,
) -> None:
    """Drive ingest, then read back what was acknowledged.

    Exit status: 0 when every acknowledged event is stored exactly once, 1 when one is missing, doubled or altered,
    2 when the test could not be run.
    """
    from logstitch.loadtest.plan import LoadSettings
    from logstitch.loadtest.run import main as run_loadtest

    _configure_logs("warning")
    settings = LoadSettings(
        url=url,
        key=api_key,
        rate=rate,
        clients=clients,
        batch=batch,
        duration=duration,
        projects=projects,
        real=real,
        json=as_json,
        timeout=timeout,
        seed=seed,
    )
    raise typer.Exit(run_loadtest(settings))


@app.command()
def verify(data: Data = None, database_url: DatabaseUrl = None, as_json: Json = False) -> None:
    """Recompute every hash and log of the stored events and compare. Exit status 1 when anything differs."""
    from logstitch.verify import verify as verify_all

    with Progress(
        TextColumn("verified"), MofNCompleteColumn(), TextColumn("events"), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("events", total=None)
        findings = _with_database(
            data, database_url, lambda database: verify_all(database, lambda n: bar.advance(task, n))
        )
    rows = [
        {"project_id": f.project.id, "events": f.events, "tenants": f.tenants, "problems": f.problem_count}
        for f in findings
    ]
    _show_rows(rows, as_json)
    for finding in findings:
        for problem in finding.problems:
            _note(f"project {finding.project.id or f'number {finding.project.no}'}: {problem}")
    if any(finding.problems for finding in findings):
        raise typer.Exit(1)


# -- shared --------------------------------------------------------------------------------------------------------


def _administer(data: Path | None, database_url: str | None, work: Callable[[Connection], T]) -> T:
    """Run one transaction on the migrated database."""
    return _with_database(data, database_url, lambda database: database.transact(work))


def _with_database(data: Path | None, database_url: str | None, work: Callable[[Database], Awaitable[T]]) -> T:
    """Work with the migrated database."""
    from logstitch.store import migrations
    from logstitch.store.database import open_database

    async def administer(url: str) -> T:
        await trio.to_thread.run_sync(migrations.migrate, url)
        async with open_database(url) as database:
            return await work(database)

    return _with_server(data, database_url, administer)


def _with_server(data: Path | None, database_url: str | None, work: Callable[[str], Awaitable[T]]) -> T:
    """Work with the server's URL; it may be the embedded one of a service that is running."""
    from logstitch.app import open_postgres
    from logstitch.store.cluster.home import default_data_dir
    from logstitch.store.cluster.process import running_url

    _configure_logs("warning")

    async def administer() -> T:
        async with AsyncExitStack() as stack:
            url = database_url or running_url(data or default_data_dir())
            if url is None:
                url = await stack.enter_async_context(open_postgres(Settings(data=data)))
            return await work(url)

    return _run(administer)


def _organization(conn: Connection, given: UUID | None) -> UUID:
    from logstitch.store import projects

    ids = [row.id for row in projects.list_organizations(conn)]
    if given is not None:
        if given not in ids:
            raise ConfigurationError("There is no such organization.")
        return given
    if len(ids) != 1:
        several, none = "Name the organization with --organization.", "Run `logstitch init` first."
        raise ConfigurationError(several if ids else none)
    return ids[0]


def _run(work: Callable[[], Awaitable[T]], *, misconfigured: int = 1) -> T:
    """``trio.run``, with our own errors as one line and exit status 1, or ``misconfigured`` where no new try helps."""
    try:
        return trio.run(work)
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[0] is not None:
            raise KeyboardInterrupt from None
        ours, rest = group.split(LogStitchError)
        if rest is not None or ours is None:
            raise
        found: BaseException = ours
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        error = found
    except LogStitchError as alone:
        error = alone
    for_ever = isinstance(error, ConfigurationError) and not isinstance(error, CannotStartNow)
    _fail(str(error), misconfigured if for_ever else 1)


def _fail(message: str, status: int = 1) -> NoReturn:
    _note(f"logstitch: {message}")
    raise typer.Exit(status)


def _note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _configure_logs(level: str) -> None:
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise typer.BadParameter("must be debug, info, warning or error", param_hint="--log-level")
    logs.configure(number)


def _print_first(first: Any) -> None:
    print("This is shown once; keep it:\n")
    for name in ("organization_id", "project_id", "master_key", "project_key"):
        print(f"  {name:<16} {getattr(first, name)}")
    sys.stdout.flush()


def _show(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: _plain(value) for name, value in fields.items()}))
    else:
        for name, value in fields.items():
            print(f"{name:<16} {value}")


def _show_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps([{name: _plain(value) for name, value in row.items()} for row in rows]))
        return
    table = Table(*(rows[0] if rows else ["nothing yet"]))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    # As wide as it needs, for an id that was cut is none; a narrower terminal wraps the lines.
    console = Console()
    console.width = max(console.width, console.measure(table, options=console.options.update(max_width=10_000)).maximum)
    console.print(table)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_moment(value)  # as the API does
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def main() -> None:
    """The entry point of the ``logstitch`` command."""
    app(prog_name="logstitch")
