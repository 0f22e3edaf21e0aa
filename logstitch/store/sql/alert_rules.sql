-- Alert rules. Whoever changes them holds the project's head row.

-- name: rules_at
SELECT rule_id, since_seq, name, action_pattern, threshold, window_seconds, group_by, distinct_of, severity,
       cooldown_seconds, enabled, created_at
FROM alert_rules
WHERE project_no = %(project_no)s AND valid_from <= %(seq)s AND (valid_to IS NULL OR valid_to > %(seq)s)
ORDER BY created_at, rule_id;

-- name: current_rules
SELECT rule_id, since_seq, name, action_pattern, threshold, window_seconds, group_by, distinct_of, severity,
       cooldown_seconds, enabled, created_at
FROM alert_rules
WHERE project_no = %(project_no)s AND valid_to IS NULL
ORDER BY created_at, rule_id;

-- name: end_version
UPDATE alert_rules SET valid_to = %(seq)s
WHERE project_no = %(project_no)s AND rule_id = %(rule_id)s AND valid_to IS NULL;

-- name: begin_version
-- A rule that is new stands behind all others, whatever the clocks say.
INSERT INTO alert_rules (project_no, rule_id, valid_from, since_seq, name, action_pattern, threshold, window_seconds,
                         group_by, distinct_of, severity, cooldown_seconds, enabled, created_at)
VALUES (%(project_no)s, %(rule_id)s, %(seq)s, %(since_seq)s, %(name)s, %(action_pattern)s, %(threshold)s,
        %(window_seconds)s, %(group_by)s, %(distinct_of)s, %(severity)s, %(cooldown_seconds)s, %(enabled)s,
        CASE WHEN %(is_new)s::boolean
             THEN greatest(date_trunc('milliseconds', %(created_at)s::timestamptz),
                           (SELECT max(created_at) + interval '1 millisecond' FROM alert_rules
                            WHERE project_no = %(project_no)s))
             ELSE %(created_at)s::timestamptz END)
RETURNING created_at;
