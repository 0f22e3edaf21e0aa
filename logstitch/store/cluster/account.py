"""Who the server runs as: PostgreSQL refuses to be root, so a service that is root uses an ordinary account."""

from __future__ import annotations

import os
import pwd
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logstitch.errors import ConfigurationError


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


def may_enter(account: Account, directory: Path) -> bool:
    """Whether the account can pass through a directory."""
    # Tried, not computed from mode bits: access lists and mount options have a say too.
    tried = subprocess.run(
        ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(directory)], stderr=subprocess.DEVNULL, **account.spawn_options()
    )
    return tried.returncode == 0
