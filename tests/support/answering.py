"""Puts actors that answer nothing through the shared lifecycle check, which asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from logstitch.actors.mailbox import Ask, Envelope, Mailbox
from logstitch.actors.supervisor import Actor


@dataclass(frozen=True, slots=True)
class Ping(Ask[None]):
    """Answered as soon as the actor has taken it."""


class Answering:
    """An actor, and somebody who looks over its shoulder at what it takes from its mailbox and answers."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    async def run(self, mailbox: Mailbox) -> None:
        await self._actor.run(_Shoulder(mailbox))  # type: ignore[arg-type]


class _Shoulder:
    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mailbox, name)

    def __aiter__(self) -> _Shoulder:
        return self

    async def __anext__(self) -> Envelope[Any]:
        envelope = await self._mailbox.__anext__()
        self._answer(envelope)
        return envelope

    async def take(self, limit: int) -> list[Envelope[Any]]:
        taken = await self._mailbox.take(limit)
        for envelope in taken:
            self._answer(envelope)
        return taken

    def _answer(self, envelope: Envelope[Any]) -> None:
        if isinstance(envelope.message, Ping):
            envelope.reply(None)
