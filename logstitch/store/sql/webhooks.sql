-- Webhooks: endpoints, the outbox, and the log of deliveries.
--
-- Whoever locks rows of both takes the endpoint first, then its deliveries. Who puts something into the outbox holds
-- the endpoint's key (FOR KEY SHARE), and a key that disables or deletes it takes it whole (FOR UPDATE): so nothing is
-- put there for an endpoint that somebody has disabled. Outcomes do not wait for that lock, nor make anybody wait; what
-- slips in when they disable an endpoint is not sent, and cancelled later.

-- name: insert_webhook
INSERT INTO webhooks (project_no, webhook_id, url, description, min_severity, events, enabled, secret, created_at)
VALUES (%(project_no)s, %(webhook_id)s, %(url)s, %(description)s, %(min_severity)s, %(events)s, %(enabled)s, %(secret)s,
        %(created_at)s);

-- name: count_webhooks
SELECT count(*) FROM webhooks WHERE project_no = %(project_no)s;

-- name: find_webhook
SELECT webhook_id, url, description, min_severity, events, enabled, disabled_reason, failing_since, created_at
FROM webhooks WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s;

-- name: hold_webhook
SELECT webhook_id, url, description, min_severity, events, enabled, disabled_reason, failing_since, created_at
FROM webhooks WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s FOR KEY SHARE;

-- name: lock_webhook
SELECT webhook_id, url, description, min_severity, events, enabled, disabled_reason, failing_since, created_at
FROM webhooks WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s FOR UPDATE;

-- name: lock_standing
SELECT enabled, failing_since, url FROM webhooks
WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s FOR NO KEY UPDATE;

-- name: list_webhooks
SELECT webhook_id, url, description, min_severity, events, enabled, disabled_reason, failing_since, created_at
FROM webhooks
WHERE project_no = %(project_no)s
  AND (created_at, webhook_id) < (coalesce(%(created_at)s::timestamptz, 'infinity'),
                                  coalesce(%(id)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
ORDER BY created_at DESC, webhook_id DESC LIMIT %(limit)s;

-- name: update_webhook
UPDATE webhooks
SET url = %(url)s, description = %(description)s, min_severity = %(min_severity)s, events = %(events)s,
    enabled = %(enabled)s, disabled_reason = %(disabled_reason)s, failing_since = %(failing_since)s
WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s;

-- name: rotate_secret
UPDATE webhooks
SET former_secret = secret, former_until = now() + make_interval(secs => %(overlap)s), secret = %(secret)s
WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s;

-- name: delete_webhook
DELETE FROM webhooks WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s;

-- name: cancel_deliveries
WITH picked AS MATERIALIZED (
    SELECT delivery_id FROM deliveries
    WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s AND status = 'pending'
    ORDER BY due_at LIMIT %(limit)s FOR UPDATE
)
UPDATE deliveries d SET status = 'cancelled', due_at = NULL, ended_at = now()
FROM picked WHERE d.project_no = %(project_no)s AND d.delivery_id = picked.delivery_id;

-- name: hold_listeners
SELECT w.webhook_id, w.min_severity
FROM webhooks w JOIN projects p USING (project_no) JOIN organizations o USING (organization_id)
WHERE w.project_no = %(project_no)s AND w.enabled AND %(type)s = ANY (w.events) AND o.plan = ANY (%(plans)s::text[])
ORDER BY w.webhook_id FOR KEY SHARE OF w;

-- name: insert_deliveries
-- A body is sent to the server once, however many endpoints it is for.
INSERT INTO deliveries (project_no, delivery_id, webhook_id, alert_id, type, body, status, tries_left, due_at,
                        created_at)
SELECT %(project_no)s, d.delivery_id, d.webhook_id, m.alert_id, %(type)s, m.body, 'pending', %(tries)s, now(), %(now)s
FROM unnest(%(delivery_ids)s::uuid[], %(webhook_ids)s::uuid[], %(messages)s::int[])
    AS d (delivery_id, webhook_id, message)
JOIN unnest(%(alert_ids)s::uuid[], %(bodies)s::text[]) WITH ORDINALITY AS m (alert_id, body, number)
  ON m.number = d.message;

-- name: notify
SELECT pg_notify('deliveries', '');

-- name: lock_delivery
SELECT d.delivery_id, d.webhook_id, d.alert_id, d.type, d.status, d.created_at, d.due_at, d.ended_at,
       d.due_at > now() AND EXISTS (
           SELECT FROM delivery_attempts a
           WHERE a.project_no = d.project_no AND a.delivery_id = d.delivery_id AND a.attempt = d.attempt
             AND a.response_status IS NULL AND a.error IS NULL)
FROM deliveries d
WHERE d.project_no = %(project_no)s AND d.webhook_id = %(webhook_id)s AND d.delivery_id = %(delivery_id)s
FOR UPDATE OF d;

-- name: list_deliveries
-- A status that is rare among many is looked for in the newest of them only, and the next page goes on behind those.
SELECT d.delivery_id, d.webhook_id, d.alert_id, d.type, d.status, d.created_at, d.due_at, d.ended_at,
       d.due_at > now() AND EXISTS (
           SELECT FROM delivery_attempts a
           WHERE a.project_no = d.project_no AND a.delivery_id = d.delivery_id AND a.attempt = d.attempt
             AND a.response_status IS NULL AND a.error IS NULL)
FROM (
    SELECT project_no, delivery_id, webhook_id, alert_id, type, status, created_at, due_at, ended_at, attempt
    FROM deliveries
    WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s
      AND (created_at, delivery_id) < (coalesce(%(created_at)s::timestamptz, 'infinity'),
                                       coalesce(%(id)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
    ORDER BY created_at DESC, delivery_id DESC LIMIT %(most)s
) d
WHERE %(status)s::text IS NULL OR d.status = %(status)s
ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT %(limit)s;

-- name: last_looked_at
SELECT created_at, delivery_id FROM deliveries
WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s
  AND (created_at, delivery_id) < (coalesce(%(created_at)s::timestamptz, 'infinity'),
                                   coalesce(%(id)s::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
ORDER BY created_at DESC, delivery_id DESC OFFSET %(most)s - 1 LIMIT 1;

-- name: list_attempts
SELECT a.delivery_id, a.attempt, a.began_at, a.duration_ms, a.response_status, a.error
FROM delivery_attempts a JOIN deliveries d USING (project_no, delivery_id)
WHERE a.project_no = %(project_no)s AND a.delivery_id = ANY (%(delivery_ids)s::uuid[])
  AND a.attempt > d.attempt - %(newest)s
ORDER BY a.attempt;

-- name: retry_delivery
UPDATE deliveries SET status = 'pending', due_at = now(), ended_at = NULL,
    tries_left = CASE WHEN status = 'pending' THEN greatest(tries_left, 1) ELSE 1 END
WHERE project_no = %(project_no)s AND delivery_id = %(delivery_id)s;

-- name: claim_deliveries
-- From one project with something pending to the next, by the index. Of each, endpoint by endpoint, the oldest of what
-- is due, as many as the endpoint may have in flight; of these as many as the project may, those first whose endpoint
-- has the fewest. However much waits for one, no more of it is looked at. Everything is lateral, so that the order of
-- the walk stays, and it ends when there is enough.
WITH RECURSIVE waiting AS (
    (SELECT project_no FROM deliveries
     WHERE status = 'pending' AND project_no > %(after_project)s::int ORDER BY project_no LIMIT 1)
    UNION ALL
    SELECT next.project_no FROM waiting CROSS JOIN LATERAL (
        SELECT d.project_no FROM deliveries d
        WHERE d.status = 'pending' AND d.project_no > waiting.project_no ORDER BY d.project_no LIMIT 1) AS next
), picked AS MATERIALIZED (
    SELECT turns.*
    FROM waiting CROSS JOIN LATERAL (
        SELECT coalesce(sum(b.busy), 0) AS busy
        FROM unnest(%(busy_projects)s::int[], %(busy)s::int[]) AS b (project_no, busy)
        WHERE b.project_no = waiting.project_no
    ) AS project CROSS JOIN LATERAL (
        SELECT d.project_no, d.delivery_id, d.webhook_id, w.url, w.keys
        FROM (
            SELECT w.webhook_id, w.enabled, w.url, coalesce(b.busy, 0) AS busy,
                   CASE WHEN w.former_until > now() THEN ARRAY[w.secret, w.former_secret]
                        ELSE ARRAY[w.secret] END AS keys,
                   CASE WHEN w.failing_since IS NULL THEN %(each)s::int ELSE 1 END - coalesce(b.busy, 0) AS room
            FROM webhooks w
            LEFT JOIN unnest(%(busy_projects)s::int[], %(busy_webhooks)s::uuid[], %(busy)s::int[])
                AS b (project_no, webhook_id, busy) USING (project_no, webhook_id)
            WHERE w.project_no = waiting.project_no
        ) AS w CROSS JOIN LATERAL (
            SELECT held.*, row_number() OVER (ORDER BY held.due_at) AS nth
            FROM (
                SELECT d.project_no, d.delivery_id, d.webhook_id, d.due_at
                FROM deliveries d
                WHERE d.project_no = waiting.project_no AND d.webhook_id = w.webhook_id AND d.status = 'pending'
                  AND d.due_at <= now() AND (w.enabled OR d.alert_id IS NULL)
                ORDER BY d.due_at LIMIT greatest(w.room, 0) FOR UPDATE SKIP LOCKED
            ) AS held
        ) AS d
        ORDER BY w.busy + d.nth, d.due_at, d.webhook_id LIMIT greatest(%(each_project)s::int - project.busy, 0)
    ) AS turns
    LIMIT %(limit)s
), begun AS (
    UPDATE deliveries d
    SET status = CASE WHEN d.tries_left > 0 THEN 'pending' ELSE 'failed' END,
        attempt = d.attempt + CASE WHEN d.tries_left > 0 THEN 1 ELSE 0 END,
        tries_left = greatest(d.tries_left - 1, 0),
        due_at = CASE WHEN d.tries_left > 0 THEN now() + make_interval(secs => %(lease)s) END,
        ended_at = CASE WHEN d.tries_left > 0 THEN NULL ELSE now() END
    FROM picked WHERE d.project_no = picked.project_no AND d.delivery_id = picked.delivery_id
    RETURNING d.project_no, d.delivery_id, d.webhook_id, d.attempt, d.tries_left, d.status, d.body
), recorded AS (
    INSERT INTO delivery_attempts (project_no, delivery_id, attempt, began_at)
    SELECT project_no, delivery_id, attempt, now() FROM begun WHERE status = 'pending'
)
SELECT begun.project_no, begun.webhook_id, begun.delivery_id, begun.attempt, begun.tries_left, begun.body, picked.url,
       picked.keys, begun.status = 'pending'
FROM begun JOIN picked USING (project_no, delivery_id)
ORDER BY begun.project_no, begun.webhook_id;

-- name: lock_fence
SELECT status, attempt, tries_left, now() FROM deliveries
WHERE project_no = %(project_no)s AND delivery_id = %(delivery_id)s FOR UPDATE;

-- name: end_attempt
UPDATE delivery_attempts SET duration_ms = %(duration_ms)s, response_status = %(response_status)s, error = %(error)s
WHERE project_no = %(project_no)s AND delivery_id = %(delivery_id)s AND attempt = %(attempt)s
  AND response_status IS NULL AND error IS NULL;

-- name: end_delivery
UPDATE deliveries SET status = %(status)s, due_at = now() + make_interval(secs => %(wait_seconds)s::float8),
    ended_at = CASE WHEN %(wait_seconds)s::float8 IS NULL THEN now() END
WHERE project_no = %(project_no)s AND delivery_id = %(delivery_id)s;

-- name: set_failing
UPDATE webhooks SET failing_since = %(failing_since)s, enabled = enabled AND %(disabled_reason)s::text IS NULL,
    disabled_reason = CASE WHEN enabled THEN coalesce(%(disabled_reason)s, disabled_reason) ELSE disabled_reason END
WHERE project_no = %(project_no)s AND webhook_id = %(webhook_id)s;

-- name: cancel_leftovers
WITH RECURSIVE waiting AS (
    (SELECT project_no, webhook_id FROM deliveries WHERE status = 'pending' ORDER BY project_no, webhook_id LIMIT 1)
    UNION ALL
    SELECT next.project_no, next.webhook_id FROM waiting CROSS JOIN LATERAL (
        SELECT d.project_no, d.webhook_id FROM deliveries d
        WHERE d.status = 'pending' AND (d.project_no, d.webhook_id) > (waiting.project_no, waiting.webhook_id)
        ORDER BY d.project_no, d.webhook_id LIMIT 1) AS next
), picked AS MATERIALIZED (
    SELECT d.project_no, d.delivery_id
    FROM waiting LEFT JOIN webhooks w USING (project_no, webhook_id) CROSS JOIN LATERAL (
        SELECT d.project_no, d.delivery_id FROM deliveries d
        WHERE d.project_no = waiting.project_no AND d.webhook_id = waiting.webhook_id AND d.status = 'pending'
          AND (w.webhook_id IS NULL OR d.alert_id IS NOT NULL)
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ) AS d
    WHERE w.webhook_id IS NULL OR NOT w.enabled
    LIMIT %(limit)s
)
UPDATE deliveries d SET status = 'cancelled', due_at = NULL, ended_at = now()
FROM picked WHERE d.project_no = picked.project_no AND d.delivery_id = picked.delivery_id;

-- name: hold_old
SELECT project_no, delivery_id FROM deliveries
WHERE ended_at < now() - make_interval(secs => %(kept_for)s)
ORDER BY ended_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED;

-- name: delete_some_attempts
-- By ctid, as below: a join is planned with a scan of the whole table.
DELETE FROM delivery_attempts WHERE ctid = ANY (ARRAY(
    SELECT a.ctid
    FROM unnest(%(project_nos)s::int[], %(delivery_ids)s::uuid[]) AS d (project_no, delivery_id)
    CROSS JOIN LATERAL (
        SELECT a.ctid FROM delivery_attempts a
        WHERE a.project_no = d.project_no AND a.delivery_id = d.delivery_id LIMIT %(limit)s) AS a
    LIMIT %(limit)s));

-- name: delete_deliveries
DELETE FROM deliveries WHERE ctid = ANY (ARRAY(
    SELECT d.ctid
    FROM unnest(%(project_nos)s::int[], %(delivery_ids)s::uuid[]) AS old (project_no, delivery_id)
    CROSS JOIN LATERAL (
        SELECT d.ctid FROM deliveries d
        WHERE d.project_no = old.project_no AND d.delivery_id = old.delivery_id LIMIT 1) AS d));

-- name: count_pending
SELECT count(*) FROM deliveries WHERE status = 'pending';
