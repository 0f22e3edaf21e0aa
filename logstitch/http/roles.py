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
    VIEWER = "viewer"
    """A viewer token: one tenant's events, as its tier shows them."""


_NONE, _MASTER, _PROJECT, _VIEWER = Kind.NONE, Kind.MASTER, Kind.PROJECT, Kind.VIEWER

ROLES: Final[Mapping[str, frozenset[Kind]]] = MappingProxyType(
    {
        "events.create": frozenset({_MASTER, _PROJECT}),
        "events.list": frozenset({_MASTER, _PROJECT, _VIEWER}),
        "events.get": frozenset({_MASTER, _PROJECT, _VIEWER}),
        "events.export": frozenset({_MASTER, _PROJECT, _VIEWER}),
        "keys.create": frozenset({_MASTER}),
        "keys.list": frozenset({_MASTER, _PROJECT}),
        "keys.revoke": frozenset({_MASTER, _PROJECT}),
        "projects.create": frozenset({_MASTER}),
        "projects.list": frozenset({_MASTER}),
        "streams.create": frozenset({_NONE}),
        "streams.info": frozenset({_NONE}),
        "streams.claim": frozenset({_MASTER}),
        "viewer_tokens.create": frozenset({_PROJECT}),
        "tiers.list": frozenset({_MASTER}),
        "tiers.create": frozenset({_MASTER}),
        "tiers.update": frozenset({_MASTER}),
        "tiers.delete": frozenset({_MASTER}),
        "redaction.list": frozenset({_MASTER, _PROJECT}),
        "redaction.create": frozenset({_MASTER}),
        "redaction.update": frozenset({_MASTER}),
        "redaction.delete": frozenset({_MASTER}),
        "redaction.test": frozenset({_MASTER, _PROJECT}),
        "redaction.measure": frozenset({_MASTER}),
        "alert_rules.list": frozenset({_MASTER, _PROJECT}),
        "alert_rules.create": frozenset({_MASTER}),
        "alert_rules.update": frozenset({_MASTER}),
        "alert_rules.delete": frozenset({_MASTER}),
        "alert_rules.test": frozenset({_MASTER}),
        "alerts.list": frozenset({_MASTER, _PROJECT}),
        "alerts.get": frozenset({_MASTER, _PROJECT}),
        "alerts.update": frozenset({_MASTER, _PROJECT}),
        "webhooks.create": frozenset({_MASTER}),
        "webhooks.list": frozenset({_MASTER}),
        "webhooks.get": frozenset({_MASTER}),
        "webhooks.update": frozenset({_MASTER}),
        "webhooks.delete": frozenset({_MASTER}),
        "webhooks.rotate": frozenset({_MASTER}),
        "webhooks.deliveries": frozenset({_MASTER}),
        "webhooks.test": frozenset({_MASTER}),
        "webhooks.retry": frozenset({_MASTER}),
        "openapi": frozenset({_NONE}),
        "docs": frozenset({_NONE}),
        "pages.viewer_module": frozenset({_NONE}),
        "pages.viewer": frozenset({_NONE}),
        "pages.viewer_script": frozenset({_NONE}),
        "pages.viewer_style": frozenset({_NONE}),
        "pages.claim": frozenset({_NONE}),
        "pages.claim_script": frozenset({_NONE}),
        "pages.claim_style": frozenset({_NONE}),
        "health.live": frozenset({_NONE}),
        "health.ready": frozenset({_NONE}),
        "health.actors": frozenset({_NONE}),
        "health.actor": frozenset({_NONE}),
        "metrics": frozenset({_NONE}),
        "pages.operator": frozenset({_NONE}),
        "pages.operator_script": frozenset({_NONE}),
        "pages.operator_style": frozenset({_NONE}),
    }
)
