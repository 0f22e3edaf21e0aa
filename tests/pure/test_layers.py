"""Imports go downward only: the layer table of the architecture, held against every import statement there is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "logstitch"

# app and cli, and what the command line's subcommands are made of
TOP = frozenset(f"logstitch.{name}" for name in ("app", "cli", "__main__", "verify", "workers"))
KERNEL = frozenset(
    f"logstitch.actors.{name}"
    for name in (
        *("mailbox", "supervisor", "backoff", "bounds", "health", "directory", "leases", "child", "queueing"),
        "slicing",
    )
)
ENGINES = frozenset(
    f"logstitch.{name}" for name in ("redaction", "detection", "evidence", "search", "viewing", "webhooks")
)
SERVER = frozenset({"quart", "quart_trio", "hypercorn", "werkzeug"})
SQL = frozenset({"psycopg", "psycopg_pool"})
HTTP = frozenset({"httpx", "httpcore"})
IO = frozenset({"trio"}) | HTTP | SERVER | SQL


@dataclass(frozen=True, slots=True)
class Layer:
    """``within`` are the layers it may import from, ``never`` the distributions' packages it may not."""

    within: frozenset[str]
    never: frozenset[str]


LAYERS = {
    "top": Layer(
        frozenset(
            {
                "top",
                "http",
                "domain",
                "messages",
                "kernel",
                "recording",
                "store",
                "egress",
                "engines",
                "loadtest",
                "base",
            }
        ),
        frozenset(),
    ),
    "http": Layer(frozenset({"http", "messages", "engines", "base"}), SQL),
    "domain": Layer(
        frozenset({"kernel", "messages", "recording", "store", "egress", "engines", "base"}), SERVER | SQL | HTTP
    ),
    "messages": Layer(frozenset({"messages", "kernel", "engines", "base"}), IO),
    "kernel": Layer(frozenset({"kernel", "base"}), IO - {"trio"}),
    "recording": Layer(frozenset({"recording", "store", "engines", "base"}), IO),  # one transaction, for several actors
    "store": Layer(frozenset({"store", "base"}), SERVER | HTTP),
    "egress": Layer(frozenset({"egress", "base"}), SERVER | SQL),  # requests to where customers say, through one guard
    "engines": Layer(frozenset({"engines", "base"}), IO),
    "loadtest": Layer(frozenset({"loadtest", "base"}), SERVER | SQL),  # a client: it knows the service by its API alone
    "client": Layer(frozenset({"client"}), SERVER | SQL | {"trio"}),  # for other people's programs: light, and alone
    "base": Layer(frozenset({"base"}), IO),  # model, errors, config and the small modules beside them
}
HANDLERS_MAY_HOLD = frozenset({"logstitch.actors.mailbox", "logstitch.actors.messages", "logstitch.actors.health"})


def layer(module: str) -> str:
    """The name of the layer that ``module`` (dotted) belongs to."""
    parts = module.split(".")
    two, three = ".".join(parts[:2]), ".".join(parts[:3])
    if two in TOP:
        return "top"
    if two in ENGINES:
        return "engines"
    if two in tuple(f"logstitch.{name}" for name in ("http", "recording", "store", "egress", "loadtest", "client")):
        return parts[1]
    if two == "logstitch.actors":
        if three == "logstitch.actors.messages":
            return "messages"
        return "kernel" if three in KERNEL or len(parts) == 2 else "domain"
    return "base"


def imported(source: str, module: str, modules: frozenset[str]) -> Iterator[str]:
    """What ``source``, the text of ``module``, imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import; they are absolute here"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                # `from logstitch.store import keys` imports the module keys, `… import Keys` only a name
                yield name if name in modules else str(node.module)


def complaints(module: str, source: str, modules: frozenset[str]) -> Iterator[str]:
    """Every import in ``source`` that the table forbids to ``module``."""
    own = layer(module)
    rules = LAYERS[own]
    for name in imported(source, module, modules):
        if name.split(".")[0] != "logstitch":
            if name.split(".")[0] in rules.never:
                yield f"{module} ({own}) imports {name}"
            continue
        if name == "logstitch" or (own == "http" and name in HANDLERS_MAY_HOLD):
            continue
        same_actor = own == "domain" and module.split(".")[:3] == name.split(".")[:3]
        if layer(name) not in rules.within and not same_actor:
            yield f"{module} ({own}) imports {name} ({layer(name)})"


def all_modules() -> dict[str, Path]:
    """Dotted name and file of every module of the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_imports_go_downward_only() -> None:
    modules = all_modules()
    names = frozenset(modules)
    assert "logstitch.errors" in names
    found = {line for name, path in modules.items() for line in complaints(name, path.read_text("utf-8"), names)}
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("logstitch.http.events", "from logstitch.store import events"),
        ("logstitch.http.events", "import psycopg"),
        ("logstitch.http.events", "from logstitch.actors.ingest import Ingest"),
        ("logstitch.http.events", "from logstitch.actors.supervisor import open_supervisor"),
        ("logstitch.http.events", "def late():\n    from logstitch.app import open_app"),
        ("logstitch.actors.ingest", "from logstitch.actors.redaction import Redaction"),
        ("logstitch.recording.commit", "from logstitch.actors.messages import Accepted"),
        ("logstitch.actors.keyring", "from quart import request"),
        ("logstitch.actors.keyring", "import psycopg.errors"),
        ("logstitch.actors.mailbox", "from logstitch.store.database import Database"),
        ("logstitch.actors.messages", "from logstitch.store.keys import KeyRow"),
        ("logstitch.store.events", "from logstitch.redaction import engine"),
        ("logstitch.actors.webhooks", "import httpx"),  # past the guard
        ("logstitch.egress.client", "from logstitch.store import events"),
        ("logstitch.egress.line", "from logstitch.actors.messages import Webhook"),
        ("logstitch.http.events", "from logstitch.egress.client import Sender"),
        ("logstitch.evidence.merkle", "import trio"),
        ("logstitch.model", "from logstitch.evidence import merkle"),
        ("logstitch.errors", "if TYPE_CHECKING:\n    import trio"),
    ],
)
def test_what_the_table_forbids_is_found(module: str, source: str) -> None:
    names = frozenset({"logstitch.store.events", "logstitch.redaction.engine", "logstitch.evidence.merkle"})
    assert list(complaints(module, source, names))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("logstitch.http.events", "from logstitch.actors.messages import SubmitEvents"),
        ("logstitch.http.events", "from logstitch.actors.mailbox import Asks"),
        ("logstitch.http.events", "from logstitch.evidence.merkle import root"),
        ("logstitch.actors.ingest", "from logstitch.recording.commit import GroupCommit"),
        ("logstitch.actors.ingest", "from logstitch.store import projects"),
        ("logstitch.recording.commit", "from logstitch.store import events"),
        ("logstitch.actors.webhooks", "from logstitch.egress.client import Sender"),
        ("logstitch.egress.line", "import httpcore, trio"),
        ("logstitch.store.database", "import psycopg, trio"),
        ("logstitch.app", "from logstitch.actors.ingest import Ingest"),
    ],
)
def test_what_the_table_allows_passes(module: str, source: str) -> None:
    assert not list(complaints(module, source, frozenset()))
