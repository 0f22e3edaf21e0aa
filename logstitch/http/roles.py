"""Who may do what: one row an endpoint, one column a kind of credential. The tests' matrix is this table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Kind(StrEnum):
    """The kinds of credential."""

    NONE = "none"
    """No credential; an endpoint that admits it admits everybody and looks at no header."""
    MASTER = "master"
    PROJECT = "project"


_NONE, _MASTER, _PROJECT = Kind.NONE, Kind.MASTER, Kind.PROJECT

ROLES: Final[Mapping[str, frozenset[Kind]]] = MappingProxyType(
    {
        "events.create": frozenset({_MASTER, _PROJECT}),
        "events.list": frozenset({_MASTER, _PROJECT}),
        "events.get": frozenset({_MASTER, _PROJECT}),
        "keys.create": frozenset({_MASTER}),
        "keys.list": frozenset({_MASTER, _PROJECT}),
        "keys.revoke": frozenset({_MASTER, _PROJECT}),
        "projects.create": frozenset({_MASTER}),
        "projects.list": frozenset({_MASTER}),
        "redaction.list": frozenset({_MASTER, _PROJECT}),
        "redaction.create": frozenset({_MASTER}),
        "redaction.update": frozenset({_MASTER}),
        "redaction.delete": frozenset({_MASTER}),
        "redaction.test": frozenset({_MASTER, _PROJECT}),
        "redaction.measure": frozenset({_MASTER}),
        "openapi": frozenset({_NONE}),
        "docs": frozenset({_NONE}),
        "health.live": frozenset({_NONE}),
        "health.ready": frozenset({_NONE}),
        "health.actors": frozenset({_NONE}),
        "health.actor": frozenset({_NONE}),
        "metrics": frozenset({_NONE}),
    }
)
