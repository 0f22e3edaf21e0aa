-- Alerts that have fired: listed newest first, found, and moved from state to state.
--
-- A list looks at a bounded number of alerts, in the order of an index, and not all of them need be wanted. The planner
-- is left no other way (see reading.sql). Where rule and group are both named, the index is alerts_fired, in which
-- theirs stand beside each other; else it is alerts_newest.

-- name: settle_plans
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
       set_config('enable_incremental_sort', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true);

-- name: walk_newest
SELECT alert_id, rule_id, rule_name, severity, status, group_by, group_key, tenant_id, event_count, event_ids,
       threshold, window_seconds, triggered_at, acknowledged_at, resolved_at
FROM (
    SELECT * FROM alerts
    WHERE project_no = %(project_no)s AND triggered_at >= %(low)s::timestamptz
      AND (triggered_at, alert_id) < (%(high)s::timestamptz, %(high_id)s::uuid)
    ORDER BY project_no DESC, triggered_at DESC, alert_id DESC
    LIMIT %(walk)s
) AS walked
WHERE (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(severity)s::text IS NULL OR severity = %(severity)s)
  AND (%(rule_id)s::text IS NULL OR rule_id = %(rule_id)s)
  AND (%(group_key)s::text IS NULL OR group_key = %(group_key)s)
LIMIT %(limit)s;

-- name: end_of_newest
SELECT triggered_at, alert_id FROM alerts
WHERE project_no = %(project_no)s AND triggered_at >= %(low)s::timestamptz
  AND (triggered_at, alert_id) < (%(high)s::timestamptz, %(high_id)s::uuid)
ORDER BY project_no DESC, triggered_at DESC, alert_id DESC
OFFSET %(walk)s::int - 1 LIMIT 1;

-- name: walk_fired
SELECT alert_id, rule_id, rule_name, severity, status, group_by, group_key, tenant_id, event_count, event_ids,
       threshold, window_seconds, triggered_at, acknowledged_at, resolved_at
FROM (
    SELECT * FROM alerts
    WHERE project_no = %(project_no)s AND rule_id = %(rule_id)s AND group_key = %(group_key)s AND triggered_at >= %(low)s::timestamptz
      AND (triggered_at, alert_id) < (%(high)s::timestamptz, %(high_id)s::uuid)
    ORDER BY project_no DESC, rule_id DESC, group_key DESC, triggered_at DESC, alert_id DESC
    LIMIT %(walk)s
) AS walked
WHERE (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(severity)s::text IS NULL OR severity = %(severity)s)
LIMIT %(limit)s;

-- name: end_of_fired
SELECT triggered_at, alert_id FROM alerts
WHERE project_no = %(project_no)s AND rule_id = %(rule_id)s AND group_key = %(group_key)s AND triggered_at >= %(low)s::timestamptz
  AND (triggered_at, alert_id) < (%(high)s::timestamptz, %(high_id)s::uuid)
ORDER BY project_no DESC, rule_id DESC, group_key DESC, triggered_at DESC, alert_id DESC
OFFSET %(walk)s::int - 1 LIMIT 1;

-- name: find_alert
SELECT alert_id, rule_id, rule_name, severity, status, group_by, group_key, tenant_id, event_count, event_ids,
       threshold, window_seconds, triggered_at, acknowledged_at, resolved_at
FROM alerts WHERE project_no = %(project_no)s AND alert_id = %(alert_id)s;

-- name: set_status
UPDATE alerts
SET status = %(status)s, acknowledged_at = %(acknowledged_at)s, resolved_at = %(resolved_at)s
WHERE project_no = %(project_no)s AND alert_id = %(alert_id)s;
