"""The runbook and the README stay true: what the service can be set to, count and complain of is written there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from logstitch import app, cli
from logstitch.evidence.commitments import Verdict
from logstitch.http.api import create_ops_app
from logstitch.store.database import DatabaseStatistics
from tests.support.client import Client
from tests.support.world import WellBeing, actor_health

CHECKOUT = Path(__file__).resolve().parents[2]
RUNBOOK = (CHECKOUT / "ops" / "runbook.md").read_text("utf-8")
README = (CHECKOUT / "README.md").read_text("utf-8")
ALARMING = {"warning", "error", "exception", "critical"}


def names(text: str) -> set[str]:
    """Everything in the document that stands in backquotes or code blocks, cut into words."""
    return set(re.findall(r"[A-Za-z0-9_]+", text))


def parameters(command: object) -> Iterator[click.Parameter]:
    """The options of a command and of those below it; hidden commands are nobody's to call."""
    if getattr(command, "hidden", False):
        return
    yield from getattr(command, "params", ())
    for below in getattr(command, "commands", {}).values():
        yield from parameters(below)


def variables(command: object) -> set[str]:
    """The environment variables of a command and of those below it."""
    found: set[str] = set()
    for parameter in parameters(command):
        found |= {parameter.envvar} if isinstance(parameter.envvar, str) else set(parameter.envvar or ())
    return found


def complaints() -> Iterator[tuple[str, str]]:
    """What the service may log at level warning or above: the file, and the event up to its first value."""
    for file in sorted((CHECKOUT / "logstitch").rglob("*.py")):
        if "client" in file.parts:  # not the service, but a library for those who use it
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log" | "logger"), attr=level),
                    args=[ast.Constant(value=str(event)), *_],
                ) if level in ALARMING:
                    yield file.name, re.split("[:%]", event)[0].strip()


def findings() -> Iterator[re.Pattern[str]]:
    """The sentences of ``logstitch verify`` about what differs, with anything for their values."""

    def sentences(node: ast.expr) -> Iterator[re.Pattern[str]]:
        match node:
            case ast.IfExp(body=first, orelse=second):
                yield from sentences(first)
                yield from sentences(second)
            case ast.JoinedStr(values=parts):
                texts = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in parts)
                yield re.compile("".join(texts))
            case ast.Constant(value=str(text)):
                yield re.compile(re.escape(text))
            case _:
                raise AssertionError(f"what does verify say here? {ast.unparse(node)}")

    for node in ast.walk(ast.parse((CHECKOUT / "logstitch" / "verify.py").read_text("utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(attr="_problem"), args=[text]):
                yield from sentences(text)


COMMAND = typer.main.get_command(cli.app)
COMPLAINTS = sorted(set(complaints()))


async def test_every_metric_is_in_the_runbook() -> None:
    health = WellBeing()
    health.all = [actor_health("keyring")]
    health.numbers = dict.fromkeys([*DatabaseStatistics.__dataclass_fields__, "started_at"], 1.0)

    page = (await Client(create_ops_app(health)).get("/metrics")).body.decode()

    exported = {name for name in re.findall(r"^# TYPE (\S+)", page, re.MULTILINE) if not name.endswith("_created")}
    assert {"logstitch_http_requests_total", "logstitch_actor_restarts", "process_open_fds"} <= exported
    # Whatever the database counts is exported under some name.
    assert len([name for name in exported if name.startswith("logstitch_database_")]) == len(health.numbers)
    assert exported - names(RUNBOOK) == set()
    # And none that is gone: what the runbook calls a metric, the service has.
    mentioned = {word for word in re.findall(r"\blogstitch_[a-z_]+\b", RUNBOOK) if word != "logstitch_restored"}
    assert {re.sub("_bucket$", "", word) for word in mentioned} - exported == set()


def test_every_variable_of_the_command_line_is_in_the_readme() -> None:
    found = variables(COMMAND)
    assert {"LOGSTITCH_BIND", "LOGSTITCH_URL"} <= found
    assert found - names(README) == set()


@pytest.mark.parametrize("document", [README, RUNBOOK], ids=["README.md", "runbook.md"])
def test_every_option_of_serve_is_there_with_its_variable_and_default(document: str) -> None:
    serve = getattr(COMMAND, "commands")["serve"]  # noqa: B009  (mypy sees typer's type, which has them at run time)
    for parameter in parameters(serve):
        if parameter.envvar is None:
            continue  # --help
        row = f"| `{parameter.opts[0]}` | `{parameter.envvar}` | "
        assert row in document
        if parameter.default is not None:
            assert f"{row}`{parameter.default}` |" in document


@pytest.mark.parametrize(("file", "event"), COMPLAINTS, ids=[event for _, event in COMPLAINTS])
def test_every_complaint_in_the_log_is_in_the_runbook(file: str, event: str) -> None:
    assert f"| `{event}" in RUNBOOK, f"{file} may log {event!r}: tell the operator what to do about it"


def test_every_mailbox_is_in_the_runbook_with_its_capacity() -> None:
    of_app = {name: size for name, size in vars(app).items() if name.endswith("_MAILBOX")}
    sentence = RUNBOOK.partition("\nCapacities, in messages: ")[2].partition(".\n")[0]
    written = dict(re.findall(r"`(\w+)(?:/N)?` ([\d,]*\d)", sentence))
    assert written == {name.removesuffix("_MAILBOX").lower(): f"{size:,}" for name, size in of_app.items()}


def test_what_verify_finds_is_in_the_runbook_and_nothing_else() -> None:
    section = RUNBOOK.partition("\n## Verify the evidence\n")[2].partition("\n## ")[0]
    written = {line for row in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE) for line in row[1:-1].split("`, `")}
    verdicts = [re.compile(f"event .+: {verdict.value}") for verdict in Verdict if not verdict]
    said = [sentence for sentence in findings() if sentence.pattern != "event\\ .+:\\ .+"] + verdicts
    assert len(said) > 5 + len(verdicts)

    unwritten = [sentence.pattern for sentence in said if not any(map(sentence.fullmatch, written))]
    stale = [line for line in written if not any(sentence.fullmatch(line) for sentence in said)]
    assert (unwritten, stale) == ([], [])


def test_the_unit_sets_nothing_that_its_type_of_service_ignores() -> None:
    unit = (CHECKOUT / "ops" / "logstitch.service").read_text("utf-8")
    assert "\nType=notify" in unit or "TimeoutStartSec" not in unit


def test_documents_link_to_what_is_there() -> None:
    for document, text in ((CHECKOUT / "README.md", README), (CHECKOUT / "ops" / "runbook.md", RUNBOOK)):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
        titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors, document.name
    for path in re.findall(r"`((?:tests|ops)/[\w/.-]+\.\w+)`", README):
        assert (CHECKOUT / path).exists(), f"README.md names {path}"
