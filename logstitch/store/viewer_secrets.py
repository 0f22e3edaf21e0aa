"""What viewer tokens are signed with: the secret that signs now, and the one before it while its tokens may live.

They are made and ended under one lock, so every process signs with the same one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.projects import ProjectRow
from logstitch.store.queries import load

_sql = load("viewers")


@dataclass(frozen=True, slots=True)
class SecretRow:
    """One secret, 32 bytes. ``ends_at`` is None for the one that signs."""

    id: UUID
    secret: bytes = field(repr=False)
    ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class SecretRows:
    """The secrets that hold, the one that signs first, and whose they are."""

    deployment_id: UUID
    secrets: Sequence[SecretRow]


@dataclass(frozen=True, slots=True)
class Minter:
    """The project key that minted a token."""

    revoked_at: datetime | None
    project: ProjectRow


def list_secrets(conn: Connection, now: datetime) -> SecretRows:
    """The secrets that hold at this time; none before ``ensure_secret``."""
    rows = conn.execute(_sql.list_secrets, {"now": now})
    return SecretRows(_deployment_id(conn), [SecretRow(id_, bytes(secret), ends_at) for id_, secret, ends_at in rows])


def ensure_secret(conn: Connection, now: datetime) -> SecretRows:
    """The same, with the first secret made if there is none; the first process to ask decides."""
    found = list_secrets(conn, now)
    if found.secrets:
        return found
    conn.execute(_sql.lock_secrets)
    found = list_secrets(conn, now)
    if not found.secrets:
        _insert(conn, now)
        found = list_secrets(conn, now)
    return found


def rotate_secret(conn: Connection, now: datetime, *, overlap: timedelta, revoke_former: bool) -> datetime | None:
    """Sign with a new secret from here on.

    The one that signed holds for ``overlap`` more; with ``revoke_former`` it ends at once, and so does the one before
    it. Returns None, or, when nothing was done, until when the one before it still holds.
    """
    conn.execute(_sql.lock_secrets)
    if revoke_former:
        conn.execute(_sql.delete_secrets)
    else:
        former = [row.ends_at for row in list_secrets(conn, now).secrets if row.ends_at is not None]
        if former:
            return former[0]
        conn.execute(_sql.delete_ended_secrets, {"now": now})
        conn.execute(_sql.retire_secret, {"ends_at": now + overlap})
    _insert(conn, now)
    return None


def find_minter(conn: Connection, key_id: UUID) -> Minter | None:
    """The project key with this id, revoked or not, and its project."""
    row = conn.execute(_sql.find_minter, {"key_id": key_id}).fetchone()
    return None if row is None else Minter(row[0], ProjectRow(*row[1:]))


def _insert(conn: Connection, now: datetime) -> None:
    conn.execute(_sql.insert_secret, {"secret_id": uuid.uuid4(), "secret": os.urandom(32), "now": now})


def _deployment_id(conn: Connection) -> UUID:
    row = conn.execute(_sql.deployment_id).fetchone()
    if row is None:
        raise LookupError("the deployment has no id")  # its migration made one
    deployment_id: UUID = row[0]
    return deployment_id
