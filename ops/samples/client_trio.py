"""An anonymous stream, then claimed, on Trio. LOGSTITCH_URL=… MASTER_KEY=mk_… PROJECT_ID=… python client_trio.py"""

import os

import trio

from logstitch.client import AsyncClient, new_stream_token


async def main() -> None:
    url, token = os.environ["LOGSTITCH_URL"], new_stream_token()
    async with AsyncClient(url) as anonymous:  # no key yet: the stream's token is all there is
        await anonymous.streams.log(
            token,
            {
                "action": "app.installed",
                "category": "system",
                "actor": {"id": "setup", "type": "service"},
                "tenant_id": "initech",
            },
        )
        print((await anonymous.streams.info(token)).status, anonymous.streams.claim_url(token))

    async with AsyncClient(url, os.environ["MASTER_KEY"], project_id=os.environ["PROJECT_ID"]) as audit:
        claimed = await audit.streams.claim(token)
        print("claimed", claimed.events_migrated)
        audit.enqueue(
            {
                "action": "app.claimed",
                "category": "admin",
                "actor": {"id": "usr_42", "type": "user"},
                "tenant_id": "initech",
            }
        )
        await audit.flush()
        async for event in audit.events.list(tenant_id="initech", order="asc"):
            print(event["action"], event["id"])


trio.run(main)
