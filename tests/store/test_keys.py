"""API keys in the database: what several processes write of the same ones at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg
import pytest

from logstitch.model import Plan
from logstitch.store import keys, projects
from tests.support.locks import block_for_a_lock

NOW = datetime(2026, 11, 23, tzinfo=UTC)
Connection = psycopg.Connection[Any]


@pytest.fixture
def conn(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url) as conn:
        yield conn


def make_keys(conn: Connection, number: int) -> list[UUID]:
    """Some keys, in the order of their ids."""
    organization = projects.create_organization(conn, name="test", plan=Plan.FREE, now=NOW)
    made = [
        keys.create_key(
            conn,
            organization_id=organization.id,
            project_id=None,
            name="k",
            prefix="k",
            digest=sha256(b"%d" % n).digest(),
            now=NOW,
        )
        for n in range(number)
    ]
    conn.commit()
    return sorted(row.id for row in made)


def used_at(conn: Connection) -> dict[UUID, datetime]:
    return dict(conn.execute("SELECT key_id, last_used_at FROM keys").fetchall())


def test_keys_are_marked_in_one_order_so_that_two_processes_cannot_wait_for_each_other(
    database_url: str, conn: Connection
) -> None:
    made = make_keys(conn, 5)
    last = made[-1]
    with psycopg.connect(database_url) as other, psycopg.connect(database_url) as looker:
        # Given another process that has marked the last key,
        other.execute("SELECT FROM keys WHERE key_id = %s FOR UPDATE", [last])

        # when they are all to be marked, the last one first,
        thread = threading.Thread(target=keys.mark_used, args=(conn, dict.fromkeys(reversed(made), NOW)))
        thread.start()
        try:
            block_for_a_lock(database_url)

            # then it waits for the last with all others in hand: nobody who is behind it can be before it.
            free = looker.execute("SELECT key_id FROM keys FOR UPDATE SKIP LOCKED").fetchall()
            looker.rollback()
        finally:
            other.rollback()
            thread.join()
    assert free == []
    assert used_at(conn) == dict.fromkeys(made, NOW)


def test_a_mark_moves_forward_only_and_leaves_other_keys_alone(conn: Connection) -> None:
    first, second, third = make_keys(conn, 3)
    keys.mark_used(conn, {second: NOW, first: NOW})
    keys.mark_used(conn, {first: NOW + timedelta(seconds=1), second: NOW - timedelta(seconds=1)})

    assert used_at(conn) == {first: NOW + timedelta(seconds=1), second: NOW, third: None}


def test_a_mark_does_not_go_back_behind_one_that_it_waited_for(database_url: str, conn: Connection) -> None:
    (key,) = make_keys(conn, 1)
    with psycopg.connect(database_url) as other:
        keys.mark_used(other, {key: NOW + timedelta(seconds=9)})
        thread = threading.Thread(target=keys.mark_used, args=(conn, {key: NOW}))
        thread.start()
        try:
            block_for_a_lock(database_url)
        finally:
            other.commit()
            thread.join()

    assert used_at(conn) == {key: NOW + timedelta(seconds=9)}
