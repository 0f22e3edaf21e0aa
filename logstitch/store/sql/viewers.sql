-- What viewer tokens are signed with, and what is looked up for each.

-- name: deployment_id
SELECT deployment_id FROM deployment;

-- name: list_secrets
SELECT secret_id, secret, ends_at FROM viewer_secrets WHERE ends_at IS NULL OR ends_at > %(now)s
ORDER BY ends_at DESC NULLS FIRST;

-- Whoever makes or ends a secret waits here for whoever else does.
-- name: lock_secrets
SELECT deployment_id FROM deployment FOR UPDATE;

-- name: insert_secret
INSERT INTO viewer_secrets (secret_id, secret, created_at) VALUES (%(secret_id)s, %(secret)s, %(now)s);

-- name: retire_secret
UPDATE viewer_secrets SET ends_at = %(ends_at)s WHERE ends_at IS NULL;

-- name: delete_ended_secrets
DELETE FROM viewer_secrets WHERE ends_at <= %(now)s;

-- name: delete_secrets
DELETE FROM viewer_secrets;

-- name: find_minter
SELECT k.revoked_at, p.project_no, p.project_id, p.organization_id, p.name, p.created_at
FROM keys k JOIN projects p ON p.project_id = k.project_id
WHERE k.key_id = %(key_id)s AND k.type = 'project';
