"""Which database errors are the weather, and which are ours."""

from __future__ import annotations

import psycopg
import psycopg.errors
import psycopg_pool
import pytest

from logstitch.errors import DatabaseUnavailable
from logstitch.store.sqlstates import Retry, judge


def server_error(code: str) -> psycopg.Error:
    """What psycopg raises for a code: a class of its own, or a general one that carries it."""
    try:
        return psycopg.errors.lookup(code)("as the server said it")
    except KeyError:
        error = psycopg.OperationalError("as the server said it")
        error.sqlstate = code
        return error


@pytest.mark.parametrize(
    ("code", "retry"),
    [
        ("08006", Retry.HELD),
        ("08P01", Retry.HELD),
        ("25006", Retry.HELD),
        ("25P03", Retry.HELD),
        ("40001", Retry.CONFLICT),
        ("40P01", Retry.CONFLICT),
        ("53100", Retry.HELD),
        ("53200", Retry.HELD),
        ("53300", Retry.HELD),
        ("55P03", Retry.NEVER),
        ("57014", Retry.NEVER),
        ("57P01", Retry.HELD),
        ("57P02", Retry.HELD),
        ("57P03", Retry.HELD),
        ("57P04", Retry.NEVER),
        ("57P05", Retry.HELD),
        ("58030", Retry.HELD),
        ("53999", Retry.HELD),  # a code that PostgreSQL may yet invent is judged by its class
    ],
)
def test_transient_errors_become_unavailable(code: str, retry: Retry) -> None:
    verdict = judge(server_error(code))

    assert verdict is not None
    assert verdict.retry is retry
    error = verdict.error()
    assert isinstance(error, DatabaseUnavailable)
    assert error.retry_after >= 1
    assert "as the server said it" not in error.message


@pytest.mark.parametrize("code", ["23505", "42601", "22P02", "42501", "25P02", "XX000", "0A000", "55000"])
def test_defects_are_not_hidden_as_weather(code: str) -> None:
    assert judge(server_error(code)) is None


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("server closed the connection unexpectedly"),
        psycopg.errors.ConnectionTimeout("connection timeout expired"),
        psycopg_pool.PoolTimeout("no connection"),
        psycopg_pool.PoolClosed("closed"),
    ],
)
def test_errors_without_a_code_come_from_the_link(error: psycopg.Error) -> None:
    verdict = judge(error)

    assert verdict is not None
    assert verdict.retry is Retry.HELD


@pytest.mark.parametrize("error", [psycopg.DataError("NUL"), psycopg.ProgrammingError("placeholders")])
def test_client_side_mistakes_are_ours(error: psycopg.Error) -> None:
    assert judge(error) is None


def test_every_verdict_is_a_new_error() -> None:
    """An exception carries its traceback; a shared one would mix those of unrelated requests."""
    verdict = judge(server_error("53100"))

    assert verdict is not None
    assert verdict.error() is not verdict.error()
