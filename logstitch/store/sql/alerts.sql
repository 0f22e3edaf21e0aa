-- How far a project's events were looked at and by whom, what is looked at, and the alerts that come of it.
--
-- The clock of leases is the database's, so it is one. Ranges of events are ranges of the whole primary key: no other
-- index serves those, whatever the planner knows of the table. An actor's id that redaction has made longer than any that
-- is sent goes by its digest, as in recording/preparation: alerts are found by it, and an index takes no such length.

-- name: take_lease
-- Nobody holds it, or whoever did has let it run out.
INSERT INTO evaluators AS e (project_no, seq, fence, lease_until)
VALUES (%(project_no)s, 0, 1, clock_timestamp() + make_interval(secs => %(seconds)s))
ON CONFLICT (project_no) DO UPDATE
SET fence = e.fence + 1, lease_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE e.lease_until IS NULL OR e.lease_until < clock_timestamp()
RETURNING seq, fence;

-- name: advance
-- Also how far it was before, of the row as it is when the lock is had.
WITH before AS (
    SELECT seq FROM evaluators WHERE project_no = %(project_no)s AND fence = %(fence)s FOR UPDATE
)
UPDATE evaluators e SET seq = greatest(e.seq, %(seq)s),
       lease_until = clock_timestamp() + make_interval(secs => %(seconds)s)
FROM before
WHERE e.project_no = %(project_no)s AND e.fence = %(fence)s
RETURNING before.seq, (SELECT h.seq FROM project_heads h WHERE h.project_no = %(project_no)s);

-- name: release
UPDATE evaluators SET seq = greatest(seq, %(seq)s), lease_until = NULL
WHERE project_no = %(project_no)s AND fence = %(fence)s;

-- name: commit_later
SELECT set_config('synchronous_commit', 'off', true);

-- name: find_waiting
SELECT h.project_no FROM project_heads h LEFT JOIN evaluators e USING (project_no)
WHERE h.seq > coalesce(e.seq, 0) AND (e.lease_until IS NULL OR e.lease_until < clock_timestamp())
ORDER BY random() LIMIT %(limit)s;

-- name: find_head
SELECT seq FROM project_heads WHERE project_no = %(project_no)s;

-- name: find_project_id
SELECT project_id FROM projects WHERE project_no = %(project_no)s;

-- name: find_actions
SELECT action FROM project_actions WHERE project_no = %(project_no)s LIMIT %(limit)s;

-- name: received_at
-- Of events that were claimed, when that was: they keep times of long before their neighbours'.
SELECT coalesce(
    (SELECT CASE WHEN c.last_seq >= e.seq THEN c.claimed_at END FROM claims c
     WHERE c.project_no = e.project_no AND c.first_seq <= e.seq ORDER BY c.first_seq DESC LIMIT 1),
    e.received_at)
FROM events e WHERE e.project_no = %(project_no)s AND e.seq = %(seq)s;

-- name: next_claim
-- Ranges do not overlap, so the first that reaches beyond `after` is the last that begins up to there, or the next one.
SELECT first_seq, last_seq FROM (
    (SELECT first_seq, last_seq FROM claims WHERE project_no = %(project_no)s AND first_seq <= %(after)s
     ORDER BY first_seq DESC LIMIT 1)
    UNION ALL
    (SELECT first_seq, last_seq FROM claims
     WHERE project_no = %(project_no)s AND first_seq > %(after)s AND first_seq <= %(through)s
     ORDER BY first_seq LIMIT 1)
) AS near
WHERE last_seq > %(after)s
ORDER BY first_seq LIMIT 1;

-- fragment: facts_behind
SELECT e.seq, uuid_send(e.id), (extract(epoch FROM e.received_at) * 1000)::bigint,
       (extract(epoch FROM e.occurred_at) * 1000)::bigint, e.action, t.tenant_id,
       CASE WHEN length(e.actor_id) <= 256 THEN e.actor_id
            ELSE 'sha256:' || encode(sha256(convert_to(e.actor_id, 'UTF8')), 'hex') END,
       CASE WHEN %(addresses)s::boolean THEN e.body::json #>> '{context,ip_address}' END
FROM (
    SELECT seq, id, received_at, occurred_at, action, tenant_no, actor_id, body FROM events
    WHERE (project_no, seq) > (%(project_no)s::int, %(after)s::bigint)
      AND (project_no, seq) <= (%(project_no)s::int, %(through)s::bigint)

-- fragment: in_order
    ORDER BY project_no, seq
    LIMIT %(limit)s
) AS e JOIN tenants t ON t.project_no = %(project_no)s AND t.tenant_no = e.tenant_no

-- name: read_events
-- include: facts_behind
-- include: in_order

-- name: read_events_of
-- The same of these actions. A statement of its own, since a list that the plan knows is hashed.
-- include: facts_behind
      AND action = ANY (%(actions)s::text[])
-- include: in_order

-- name: read_events_about
-- The same of these actors and tenants.
-- include: facts_behind
      AND (actor_id = ANY (%(actor_ids)s::text[]) OR tenant_no = ANY (%(tenant_nos)s::int[])
           OR length(actor_id) > 256
              AND 'sha256:' || encode(sha256(convert_to(actor_id, 'UTF8')), 'hex') = ANY (%(actor_ids)s::text[]))
      AND (%(actions)s::text[] IS NULL OR action = ANY (%(actions)s::text[]))
-- include: in_order

-- name: find_tenant_nos
SELECT coalesce(array_agg(tenant_no), '{}') FROM tenants
WHERE project_no = %(project_no)s AND tenant_id = ANY (%(tenant_ids)s::text[]);

-- name: list_fired
SELECT (extract(epoch FROM triggered_at) * 1000)::bigint, alert_id, rule_id, group_key FROM alerts
WHERE (project_no, triggered_at, alert_id) > (%(project_no)s::int, to_timestamp(%(after_ms)s / 1000.0), %(after_id)s::uuid)
  AND project_no <= %(project_no)s::int
ORDER BY project_no, triggered_at, alert_id
LIMIT %(limit)s;

-- name: find_fired
SELECT w.rule_id, w.group_key, (extract(epoch FROM f.triggered_at) * 1000)::bigint
FROM unnest(%(rule_ids)s::text[], %(group_keys)s::text[]) AS w (rule_id, group_key) CROSS JOIN LATERAL (
    SELECT a.triggered_at FROM alerts a
    WHERE a.project_no = %(project_no)s AND a.rule_id = w.rule_id AND a.group_key = w.group_key
    ORDER BY a.triggered_at DESC LIMIT 1
) AS f;

-- name: insert_alerts
-- What an earlier look had found already is left alone.
INSERT INTO alerts (project_no, alert_id, rule_id, rule_name, severity, status, group_by, group_key, tenant_id,
                    event_count, event_ids, threshold, window_seconds, seq, triggered_at)
SELECT %(project_no)s, a.alert_id, a.rule_id, a.rule_name, a.severity, 'open', a.group_by, a.group_key, a.tenant_id,
       a.event_count, a.event_ids::uuid[], a.threshold, a.window_seconds, a.seq, to_timestamp(a.triggered_ms / 1000.0)
FROM unnest(%(alert_ids)s::uuid[], %(rule_ids)s::text[], %(rule_names)s::text[], %(severities)s::text[],
            %(group_bys)s::text[], %(group_keys)s::text[], %(tenant_ids)s::text[], %(event_counts)s::int[],
            %(event_ids)s::text[], %(thresholds)s::int[], %(windows)s::int[], %(seqs)s::bigint[],
            %(triggered_ms)s::bigint[])
    AS a (alert_id, rule_id, rule_name, severity, group_by, group_key, tenant_id, event_count, event_ids, threshold,
          window_seconds, seq, triggered_ms)
ON CONFLICT (project_no, rule_id, seq) DO NOTHING
RETURNING alert_id;

-- name: forget_versions
DELETE FROM alert_rules WHERE project_no = %(project_no)s AND valid_to <= %(seq)s;
