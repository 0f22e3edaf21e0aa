-- Writing events. Every statement runs inside the transaction that holds the project's head row.

-- name: lock_head
SELECT seq, day, day_events, rules_version FROM project_heads WHERE project_no = %(project_no)s FOR UPDATE;

-- name: has_event
SELECT EXISTS (SELECT FROM events WHERE project_no = %(project_no)s AND id = %(id)s);

-- name: find_keys
SELECT key_hash, id, key_digest FROM events
WHERE project_no = %(project_no)s AND key_hash = ANY (%(key_hashes)s::uuid[]);

-- name: find_tenants
SELECT tenant_id, tenant_no, size, edge FROM tenants
WHERE project_no = %(project_no)s AND tenant_id = ANY (%(tenant_ids)s::text[]);

-- name: count_tenants
SELECT coalesce(max(tenant_no), 0) FROM tenants WHERE project_no = %(project_no)s;

-- name: save_heads
-- One statement and one round trip for all that moves forward with every group.
WITH tenants_saved AS (
    INSERT INTO tenants (project_no, tenant_no, tenant_id, size, edge)
    SELECT %(project_no)s, t.tenant_no, t.tenant_id, t.size, t.edge
    FROM unnest(%(tenant_nos)s::int[], %(tenant_ids)s::text[], %(sizes)s::bigint[], %(edges)s::bytea[])
        AS t (tenant_no, tenant_id, size, edge)
    ON CONFLICT (project_no, tenant_no) DO UPDATE SET size = excluded.size, edge = excluded.edge
), segments_saved AS (
    INSERT INTO segments (project_no, segment, oldest, newest)
    SELECT %(project_no)s, s.segment, to_timestamp(s.oldest / 1000.0), to_timestamp(s.newest / 1000.0)
    FROM unnest(%(segments)s::int[], %(oldest)s::bigint[], %(newest)s::bigint[]) AS s (segment, oldest, newest)
    ON CONFLICT (project_no, segment) DO UPDATE
    SET oldest = least(segments.oldest, excluded.oldest), newest = greatest(segments.newest, excluded.newest)
), subtrees_saved AS (
    INSERT INTO tenant_subtrees (project_no, tenant_no, subtree, hash)
    SELECT %(project_no)s, s.tenant_no, s.subtree, s.hash
    FROM unnest(%(subtree_nos)s::int[], %(subtrees)s::bigint[], %(hashes)s::bytea[]) AS s (tenant_no, subtree, hash)
), actions_saved AS (
    INSERT INTO project_actions (project_no, action)
    SELECT %(project_no)s, unnest(%(actions)s::text[])
    ON CONFLICT DO NOTHING
)
UPDATE project_heads SET seq = %(seq)s, day = %(day)s, day_events = %(day_events)s WHERE project_no = %(project_no)s;

-- name: copy_events
COPY events (project_no, seq, tenant_no, tenant_seq, facets, id, occurred_at, received_at, action, category, actor_id,
             actor_type, target_id, target_type, key_hash, key_digest, content_hash, salts, body)
FROM STDIN (FORMAT binary);
