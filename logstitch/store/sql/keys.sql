-- API keys: only their SHA-256 is here.

-- name: insert_key
INSERT INTO keys (key_id, organization_id, project_id, type, name, prefix, digest, created_at)
VALUES (%(key_id)s, %(organization_id)s, %(project_id)s, %(type)s, %(name)s, %(prefix)s, %(digest)s, %(created_at)s);

-- name: authenticate
SELECT k.key_id, k.type, k.organization_id, o.plan, k.revoked_at,
       p.project_no, p.project_id, p.organization_id, p.name, p.created_at
FROM keys k JOIN organizations o USING (organization_id) LEFT JOIN projects p ON p.project_id = k.project_id
WHERE k.digest = %(digest)s;

-- name: list_keys
SELECT key_id, type, name, prefix, project_id, created_at, last_used_at, revoked_at FROM keys
WHERE organization_id = %(organization_id)s
  AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
ORDER BY created_at DESC, key_id DESC LIMIT %(limit)s;

-- name: list_keys_after
SELECT key_id, type, name, prefix, project_id, created_at, last_used_at, revoked_at FROM keys
WHERE organization_id = %(organization_id)s
  AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
  AND (created_at, key_id) < (%(created_at)s, %(id)s)
ORDER BY created_at DESC, key_id DESC LIMIT %(limit)s;

-- name: revoke_key
UPDATE keys SET revoked_at = coalesce(revoked_at, %(now)s)
WHERE organization_id = %(organization_id)s AND key_id = %(key_id)s AND type = ANY (%(types)s::text[])
  AND (%(project_id)s::uuid IS NULL OR project_id = %(project_id)s)
RETURNING key_id, type, name, prefix, project_id, created_at, last_used_at, revoked_at;

-- name: mark_used
-- Every process writes the same keys at the same time, so all take them in one order, whatever order a join would take.
WITH taken AS MATERIALIZED (
    SELECT key_id FROM keys WHERE key_id = ANY (%(key_ids)s::uuid[]) ORDER BY key_id FOR NO KEY UPDATE
)
UPDATE keys SET last_used_at = greatest(keys.last_used_at, used.at)
FROM unnest(%(key_ids)s::uuid[], %(at)s::timestamptz[]) AS used (key_id, at) JOIN taken USING (key_id)
WHERE keys.key_id = used.key_id;
