"""Viewer tokens and tiers of a deployment in memory: what HTTP tests of them are run against.

Tokens are minted and verified, and tiers decided over, by the functions that the real actor calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.viewers import (
    AuthenticateViewer,
    CreateTier,
    DeleteTier,
    ListTiers,
    MintViewerToken,
    UpdateTier,
    Viewer,
)
from logstitch.actors.viewers import minted, page_of_tiers
from logstitch.detection.globs import compile_glob
from logstitch.errors import InvalidRequest, KeyRevoked, Unauthorized
from logstitch.recording.tiers import Decision, creation, deletion, update
from logstitch.viewing import tokens
from logstitch.viewing.tiers import Tier, View
from logstitch.viewing.tokens import Secret, Secrets

Minter = Callable[[UUID], tuple[Project, bool] | None]
"""The project of the key with this id, and whether it was revoked."""


def shows(view: View, event: Mapping[str, Any]) -> bool:
    """Whether an event is shown at all, hidden fields or not: what the statements of the store decide."""
    return (
        event["tenant_id"] == view.tenant_id
        and (view.categories is None or event["category"] in view.categories)
        and (view.actions is None or any(compile_glob(glob)(event["action"]) for glob in view.actions))
    )


class ViewersWorld:
    """What is known of viewers. ``now`` is the time that tokens are minted and judged at."""

    def __init__(self, later: Callable[[], datetime], now: Callable[[], datetime], minter: Minter) -> None:
        self.tiers: dict[int, list[Tier]] = {}
        self.secrets = Secrets(UUID(int=5), [Secret(UUID(int=6), b"a secret that only the tests know")])
        self._later = later
        self._now = now
        self._minter = minter

    def answer(self, message: object) -> Any:
        """Answer what is asked about viewers; ``NotImplemented`` for anything else."""
        match message:
            case AuthenticateViewer(token):
                return self._authenticate(token)
            case MintViewerToken(project, _, _, None):
                return minted(message, self.secrets, None, self._now())
            case MintViewerToken(project, _, _, str() as name):
                found = [tier.id for tier in self._of(project.no) if tier.name == name]
                if not found:
                    raise InvalidRequest.on("tier", "There is no tier of this name")
                return minted(message, self.secrets, found[0], self._now())
            case ListTiers():
                return page_of_tiers(self._of(message.project_no), message)
            case CreateTier(project_no, _, name, categories, actions, hidden_fields):
                tier = Tier(uuid4(), name, categories, actions, hidden_fields, self._later())
                return self._change(project_no, creation(tier))
            case UpdateTier(project_no, _, tier_id, changed):
                return self._change(project_no, update(tier_id, changed))
            case DeleteTier(project_no, _, tier_id):
                return self._change(project_no, deletion(tier_id))
        return NotImplemented

    def _authenticate(self, token: str) -> Viewer:
        claims = tokens.verify(token, self.secrets, self._now().timestamp())
        found = self._minter(claims.key_id)
        if found is None:
            raise Unauthorized("The viewer token is not valid.")
        project, revoked = found
        if revoked:
            raise KeyRevoked("The API key that made this viewer token was revoked.")
        if claims.tier_id is None:
            return Viewer(claims.key_id, project, View(claims.tenant_id))
        for tier in self._of(project.no):
            if tier.id == claims.tier_id:
                return Viewer(claims.key_id, project, View(claims.tenant_id, tier))
        raise Unauthorized("The tier of this viewer token was deleted.")

    def _change(self, project_no: int, decide: Decision) -> Tier | None:
        tiers = self._of(project_no)
        amendment = decide(tiers)
        rest = [tier for tier in tiers if tier != amendment.before]
        changed = rest if amendment.after is None else [*rest, amendment.after]
        self.tiers[project_no] = sorted(changed, key=lambda tier: (tier.created_at, tier.id), reverse=True)
        return amendment.after

    def _of(self, project_no: int) -> list[Tier]:
        return self.tiers.get(project_no, [])
