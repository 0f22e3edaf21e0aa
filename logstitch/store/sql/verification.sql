-- Reading everything back, to check it against itself.

-- name: list_heads
SELECT p.project_no, p.project_id, h.seq FROM projects p JOIN project_heads h USING (project_no) ORDER BY p.project_no;

-- name: read_events
-- A row that somebody forged may hold a time that Python has none for.
SELECT seq, id, tenant_no, tenant_seq, content_hash, salts, body,
       extract(epoch FROM occurred_at) * 1000, extract(epoch FROM received_at) * 1000, action, category, actor_id, actor_type, target_id, target_type
FROM events
WHERE project_no = %(project_no)s AND seq > %(after)s AND seq <= %(through)s ORDER BY seq LIMIT %(limit)s;

-- name: read_tenants
SELECT tenant_no, tenant_id, size, edge FROM tenants WHERE project_no = %(project_no)s;

-- name: read_subtrees
SELECT tenant_no, subtree, hash FROM tenant_subtrees WHERE project_no = %(project_no)s;
