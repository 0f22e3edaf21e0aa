"""Alerts put into the database, as if they had fired."""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

from logstitch.detection.alerts import Alert
from logstitch.store.database import Connection


def insert_alert(conn: Connection, project_no: int, *alerts: Alert) -> None:
    """These have fired; their ``seq`` goes on from the project's newest alert."""
    row = conn.execute("SELECT coalesce(max(seq), 0) FROM alerts WHERE project_no = %s", (project_no,)).fetchone()
    assert row is not None
    for seq, alert in enumerate(alerts, start=row[0] + 1):
        values = {
            **asdict(alert),
            "event_ids": [UUID(bytes=event_id) for event_id in alert.event_ids],
            "project_no": project_no,
            "seq": seq,
        }
        for name in ("severity", "status", "group_by"):
            values[name] = values[name].value
        conn.execute(
            """INSERT INTO alerts (project_no, alert_id, rule_id, rule_name, severity, status, group_by, group_key,
                   tenant_id, event_count, event_ids, threshold, window_seconds, seq, triggered_at, acknowledged_at,
                   resolved_at)
               VALUES (%(project_no)s, %(id)s, %(rule_id)s, %(rule_name)s, %(severity)s, %(status)s, %(group_by)s,
                   %(group_key)s, %(tenant_id)s, %(event_count)s, %(event_ids)s, %(threshold)s, %(window_seconds)s,
                   %(seq)s, %(triggered_at)s, %(acknowledged_at)s, %(resolved_at)s)""",
            values,
        )
