"""Redaction: one actor a project that owns its rule set and takes out of events what the rules say.

Every event passes through here on its way to ingest, one rule-set version a message. The engine is pure; until a
project has rules the rule set is empty and every event comes back as it was sent.
"""

from __future__ import annotations

from logstitch.actors.mailbox import Mailbox
from logstitch.actors.messages import Redacted, RedactEvents
from logstitch.redaction.engine import RuleSet, redact


class Redaction:
    """Owns one project's rule set."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        async for envelope in mailbox:
            request: RedactEvents = envelope.message
            results = [redact(event.raw, self._rules) for event in request.events]
            envelope.reply(
                Redacted([result.event for result in results], [result.changes for result in results]),
            )
