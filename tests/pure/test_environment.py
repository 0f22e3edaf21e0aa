"""The environment that ``ops/run`` makes has the command ``logstitch``."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def environment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("environment", CHECKOUT / "ops" / "lib" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An environment whose Python is the one of these tests, as far as the command can see."""
    home = tmp_path / "an environment"
    (home / "bin").mkdir(parents=True)
    python = home / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(CHECKOUT))} exec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return home


def test_the_command_works_in_any_directory_and_through_a_link(
    environment: ModuleType, home: Path, tmp_path: Path
) -> None:
    environment.write_command(home)
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "logstitch").mkdir(parents=True)
    (elsewhere / "logstitch" / "__init__.py").write_text("raise SystemExit('not this one')")
    (elsewhere / "link").symlink_to(home / "bin" / "logstitch")

    done = subprocess.run(
        [elsewhere / "link", "key", "create", "--help"], cwd=elsewhere, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "--project" in done.stdout


def test_it_is_written_once_and_mended_when_it_differs(environment: ModuleType, home: Path) -> None:
    command = home / "bin" / "logstitch"
    environment.write_command(home)
    first = command.stat()
    environment.write_command(home)
    assert command.stat().st_ino == first.st_ino
    command.write_text("#!/bin/sh\nexit 1\n")
    environment.write_command(home)
    assert "-m logstitch" in command.read_text()
    assert sorted(path.name for path in command.parent.iterdir()) == ["logstitch", "python"]
