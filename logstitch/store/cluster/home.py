"""A data directory, and what the server in it is started with.

    DIR/postgres/        the cluster (PGDATA); appears by one rename, so a first start that was killed leaves nothing
    DIR/run/             the socket's directory, mode 0700: whoever may enter it is trusted, and there is no TCP
    DIR/postgres.log     what the server says, at most two files of ``LOG_BYTES``; never a statement or a value
    DIR/postgres.lock    held by the one service that supervises the server
    DIR/postgresql-*/    a copy of the server's programs, only where its account cannot reach the installed ones

DIR is what ``--data`` names. PostgreSQL's own account owns the cluster and the socket, nobody else needs to enter.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from logstitch.errors import CannotStartNow, ConfigurationError
from logstitch.store.cluster.account import Account, choose_account, may_enter
from logstitch.store.cluster.installation import Installation, reachable

ROLE = "logstitch"
"""The role and the database the service uses. Not a superuser: a hole in the service is no hole in the machine."""

SUPERUSER = "postgres"
PORT = 5432
"""Only names the socket's file; no port is opened."""

SOCKET_PATH_BYTES = 103
"""The longest path of a Unix socket: 107 bytes on Linux, 103 on macOS and the BSDs."""

OURS = frozenset({"postgres", "postgres.new", "postgres.log", "postgres.log.1", "postgres.lock", "run"})
"""What a data directory holds besides copies of the programs."""

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


def default_data_dir() -> Path:
    """Where the service keeps its data by default: ``/var/lib/logstitch`` for root, else the XDG data directory."""
    if os.geteuid() == 0:
        return Path("/var/lib/logstitch")
    configured = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(configured):  # the XDG specification has relative paths ignored
        return Path(configured, "logstitch")
    return Path(os.path.expanduser("~"), ".local", "share", "logstitch")


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
        kind = CannotStartNow if error.errno in (errno.ENOSPC, errno.EDQUOT) else ConfigurationError
        raise kind(f"The data directory {data} cannot be made: {error.strerror}. {elsewhere}") from error
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
    if not may_enter(account, data):
        raise ConfigurationError(
            f"PostgreSQL does not run as root, and the account {account.name} that it would run as cannot enter the "
            f"data directory {data}. {elsewhere}"
        )
    return Home(data, account, reachable(installation, account, data), _socket_directory(data, account))


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
