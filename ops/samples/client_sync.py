"""Audit events from a blocking program. LOGSTITCH_URL=http://… PROJECT_KEY=pk_… python client_sync.py"""

import os

from logstitch.client import Client, Dropped


def not_sent(dropped: Dropped) -> None:
    # "full": more than the queue holds; "refused": the error says why; "left": the time at the end was over.
    print(len(dropped.events), "events not sent:", dropped.reason, dropped.error)


with Client(os.environ["LOGSTITCH_URL"], os.environ["PROJECT_KEY"], on_drop=not_sent) as audit:
    # Direct: stored for good when the call returns.
    stored = audit.log(
        {
            "action": "user.role.updated",
            "category": "admin",
            "actor": {"id": "usr_42", "type": "user", "name": "Ada Lovelace"},
            "target": {"id": "usr_7", "type": "user"},
            "tenant_id": "acme",
            "changes": [{"field": "role", "before": "member", "after": "admin"}],
        }
    )
    print("stored", stored.id)

    # Queued: never blocks; a thread sends a hundred at a time, or what there is after a second.
    for n in range(250):
        audit.enqueue(
            {
                "action": "document.viewed",
                "category": "access",
                "actor": {"id": "usr_42", "type": "user"},
                "target": {"id": f"doc_{n}", "type": "document"},
                "tenant_id": "acme",
            }
        )
    audit.flush()

    # Reading: page after page, as far as you go.
    viewed = sum(1 for _ in audit.events.list(tenant_id="acme", action="document.*"))
    print("documents viewed:", viewed)
    for event in audit.events.list(tenant_id="acme", search="lovelace"):
        print(event["occurred_at"], event["action"], event["id"])
# Here the queue is empty, or UnsentEvents was raised and not_sent was told.
