-- Redaction rules. Whoever changes them holds the project's head row.

-- name: rules_version
SELECT h.rules_version, p.idempotency_secret FROM project_heads h JOIN projects p USING (project_no)
WHERE h.project_no = %(project_no)s;

-- name: raise_version
UPDATE project_heads SET rules_version = rules_version + 1 WHERE project_no = %(project_no)s RETURNING rules_version;

-- name: list_builtins
SELECT slug, enabled, behavior FROM redaction_builtins WHERE project_no = %(project_no)s;

-- name: list_rules
SELECT rule_id, name, type, pattern, fields, behavior, enabled, created_at FROM redaction_rules
WHERE project_no = %(project_no)s ORDER BY created_at;

-- name: save_builtin
INSERT INTO redaction_builtins (project_no, slug, enabled, behavior)
VALUES (%(project_no)s, %(slug)s, %(enabled)s, %(behavior)s)
ON CONFLICT (project_no, slug) DO UPDATE SET enabled = excluded.enabled, behavior = excluded.behavior;

-- name: forget_builtin
DELETE FROM redaction_builtins WHERE project_no = %(project_no)s AND slug = %(slug)s;

-- name: insert_rule
INSERT INTO redaction_rules (project_no, rule_id, name, type, pattern, fields, behavior, enabled, created_at)
VALUES (%(project_no)s, %(rule_id)s, %(name)s, %(type)s, %(pattern)s, %(fields)s, %(behavior)s, %(enabled)s,
        greatest(date_trunc('milliseconds', %(now)s::timestamptz),
                 (SELECT max(created_at) + interval '1 millisecond' FROM redaction_rules
                  WHERE project_no = %(project_no)s)))
RETURNING created_at;

-- name: update_rule
UPDATE redaction_rules
SET name = %(name)s, pattern = %(pattern)s, fields = %(fields)s, behavior = %(behavior)s, enabled = %(enabled)s
WHERE project_no = %(project_no)s AND rule_id = %(rule_id)s;

-- name: delete_rule
DELETE FROM redaction_rules WHERE project_no = %(project_no)s AND rule_id = %(rule_id)s;
