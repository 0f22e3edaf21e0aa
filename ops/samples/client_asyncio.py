"""Audit events from an asyncio program. LOGSTITCH_URL=http://… PROJECT_KEY=pk_… python client_asyncio.py"""

import asyncio
import os

from logstitch.client import AsyncClient, NewEvent


def login(user: str) -> NewEvent:
    return {"action": "auth.login", "category": "auth", "actor": {"id": user, "type": "user"}, "tenant_id": "globex"}


async def main() -> None:
    async with AsyncClient(os.environ["LOGSTITCH_URL"], os.environ["PROJECT_KEY"]) as audit:
        batch = await audit.log_batch([login(f"usr_{n}") for n in range(120)])  # in two requests
        print("stored", len(batch.ids))

        for n in range(120, 150):
            audit.enqueue(login(f"usr_{n}"))  # no await: a task of the block sends it
        await audit.flush()

        # What a browser of this customer may read, for a quarter of an hour.
        token = await audit.viewer_tokens.create("globex", expires_in=900)
    async with AsyncClient(os.environ["LOGSTITCH_URL"], token.token) as browser:
        print("seen with the token:", len([event async for event in browser.events.list()]))


asyncio.run(main())
