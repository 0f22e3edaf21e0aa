-- Reading everything back, to check it against itself.

-- name: list_projects
-- Whatever names a project counts, for each of the others may have been taken away. Of events one row a project is
-- looked up, not each of them.
WITH RECURSIVE named AS (
    (SELECT project_no FROM events ORDER BY project_no LIMIT 1)
    UNION ALL
    SELECT (SELECT e.project_no FROM events e WHERE e.project_no > n.project_no ORDER BY e.project_no LIMIT 1)
    FROM named n WHERE n.project_no IS NOT NULL
)
SELECT project_no FROM named WHERE project_no IS NOT NULL
UNION SELECT project_no FROM projects
UNION SELECT project_no FROM project_heads
UNION SELECT project_no FROM tenants
ORDER BY project_no;

-- name: read_head
SELECT n.project_no, p.project_id, h.seq FROM (SELECT %(project_no)s::int AS project_no) n
LEFT JOIN projects p USING (project_no) LEFT JOIN project_heads h USING (project_no);

-- name: read_newest
SELECT coalesce(max(seq), 0) FROM events WHERE project_no = %(project_no)s;

-- name: read_strays
-- In two parts, each a stretch of the primary key.
SELECT seq, count(*) OVER () FROM (
    SELECT seq FROM events WHERE project_no = %(project_no)s AND seq < 1
    UNION ALL
    SELECT seq FROM events WHERE project_no = %(project_no)s AND seq > %(through)s
) AS strays
ORDER BY seq LIMIT %(limit)s;

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
