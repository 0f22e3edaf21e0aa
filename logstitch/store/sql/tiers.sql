-- Tiers. Whoever changes them holds the project's head row.

-- name: list_tiers
SELECT tier_id, name, categories, actions, hidden_fields, created_at FROM tiers
WHERE project_no = %(project_no)s
ORDER BY created_at DESC, tier_id DESC;

-- name: find_tier
SELECT tier_id, name, categories, actions, hidden_fields, created_at FROM tiers
WHERE project_no = %(project_no)s AND tier_id = %(tier_id)s;

-- name: find_tier_by_name
SELECT tier_id, name, categories, actions, hidden_fields, created_at FROM tiers
WHERE project_no = %(project_no)s AND name = %(name)s;

-- name: insert_tier
INSERT INTO tiers (project_no, tier_id, name, categories, actions, hidden_fields, created_at)
VALUES (%(project_no)s, %(tier_id)s, %(name)s, %(categories)s, %(actions)s, %(hidden_fields)s, %(created_at)s);

-- name: update_tier
UPDATE tiers SET name = %(name)s, categories = %(categories)s, actions = %(actions)s, hidden_fields = %(hidden_fields)s
WHERE project_no = %(project_no)s AND tier_id = %(tier_id)s;

-- name: delete_tier
DELETE FROM tiers WHERE project_no = %(project_no)s AND tier_id = %(tier_id)s;
