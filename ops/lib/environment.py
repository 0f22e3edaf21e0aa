"""Make the virtual environment for one purpose from its lock file, once, and print the path of its Python.

The environment also gets the command ``bin/logstitch``.

``environment.py PURPOSE LOCK`` runs on a bare Python with the standard library only. The environment is made again
only when the lock file, the Python or the place of the checkout changed; that is written down in a stamp inside it,
last, so a run that was killed half way leaves no stamp and is repeated. A file lock makes the second of two runs at
once wait for the first. Every file comes with a hash from the lock file, and as a wheel: building a source archive
would run code and fetch build tools that no lock file names.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
STAMP = "logstitch-stamp"


def say(line: str) -> None:
    """Progress goes to standard error: standard output carries the answer."""
    print(line, file=sys.stderr, flush=True)


def owned_directory(path: Path) -> bool:
    """Make ``path`` for this user alone; False when that is not possible or somebody else was there first."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    found = path.lstat()
    return found.st_uid == os.geteuid() and not path.is_symlink() and os.access(path, os.W_OK)


def place() -> Path:
    """The checkout, or, where it is not writable, a cache directory of this user's for this checkout."""
    if os.access(CHECKOUT, os.W_OK):
        return CHECKOUT
    name = "logstitch-" + hashlib.sha256(os.fsencode(CHECKOUT)).hexdigest()[:12]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for candidate in (Path(cache) / name, Path(tempfile.gettempdir()) / f"{name}-{os.geteuid()}"):
        if candidate.is_absolute() and owned_directory(candidate):
            return candidate
    sys.exit(f"Neither {CHECKOUT} nor {cache} nor {tempfile.gettempdir()} is writable: no place for an environment.")


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file ``path``."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Waiting for another run that makes the same environment ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(home: Path, lock: Path) -> None:
    """A fresh environment at ``home`` with exactly what ``lock`` names, and the checkout importable from it."""
    if home.exists():  # renamed first: nobody finds a half-deleted environment under its name
        old = Path(tempfile.mkdtemp(prefix=f"{home.name}.old-", dir=home.parent))
        home.rename(old / "environment")
        shutil.rmtree(old, ignore_errors=True)
    venv.EnvBuilder(with_pip=True, symlinks=True).create(home)
    python = home / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
    # --no-deps: the lock file is complete, there is nothing left to resolve.
    pip += ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(lock)]
    # What the caller's shell is set to must not leak into the environment (a user site, another PYTHONPATH).
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k != "PIP_USER"}
    subprocess.run(pip, check=True, env=clean, stdout=sys.stderr)
    (site,) = home.glob("lib/python3*/site-packages")
    (site / "logstitch-checkout.pth").write_text(f"{CHECKOUT}\n", encoding="utf-8")


def write_command(home: Path) -> None:
    """``bin/logstitch``: the command line from this environment, whatever directory it is called in or linked from."""
    command = home / "bin" / "logstitch"
    # -P: a directory called logstitch where somebody stands is not the package.
    text = f'#!/bin/sh\nexec {shlex.quote(str(home / "bin" / "python"))} -P -m logstitch "$@"\n'
    with contextlib.suppress(OSError):
        if command.read_text(encoding="utf-8") == text:
            return
    new = command.with_name(f"logstitch.{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o755)
    new.replace(command)


def main(purpose: str, lock_name: str) -> None:
    """Print the path of the environment's Python, after making the environment if that is needed."""
    lock = CHECKOUT / lock_name
    version = "{}.{}".format(*sys.version_info)
    home = place() / f".venv-{purpose}-{version}"
    stamp = home / STAMP
    made_of = "\n".join(
        (
            hashlib.sha256(lock.read_bytes()).hexdigest(),
            sys.version,
            os.path.realpath(sys.executable),
            str(CHECKOUT),
            "",
        )
    )

    def current() -> bool:
        try:
            return stamp.read_text(encoding="utf-8") == made_of and os.access(home / "bin" / "python", os.X_OK)
        except OSError:
            return False

    if not current():
        with alone(home.with_name(home.name + ".lock")):
            if not current():
                say(f"Making {home} from {lock_name} (Python {version}) ...")
                try:
                    build(home, lock)
                except subprocess.CalledProcessError as error:
                    sys.exit(f"The packages of {lock_name} could not be installed (pip ended with {error.returncode}).")
                stamp.write_text(made_of, encoding="utf-8")
    write_command(home)  # also into one that an earlier version of this file made
    print(home / "bin" / "python")


if __name__ == "__main__":
    main(*sys.argv[1:])
