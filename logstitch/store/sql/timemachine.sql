-- Stored events in the order of seq, as facts: what alert rules are tried on.

-- name: settle_plans
-- A page is a range of the primary key in its order; whatever the planner guesses, nothing else is as cheap.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true);

-- name: first_seq
-- Where received_at reaches a time, by halving: the events at `high` and, as far as times are in order, behind it were
-- received then or later, those at `low` and before it earlier. A number that is not there ends it without an answer.
-- Events that were claimed keep times of long before their neighbours', so the time of the claim stands for theirs.
WITH RECURSIVE halving (low, high) AS (
    SELECT 0::bigint, %(newest)s::bigint + 1
    UNION ALL
    SELECT CASE WHEN e.received_at >= %(at)s::timestamptz THEN h.low ELSE e.seq END,
           CASE WHEN e.received_at >= %(at)s::timestamptz THEN e.seq ELSE h.high END
    FROM halving h, LATERAL (
        SELECT seq, coalesce(
            (SELECT CASE WHEN c.last_seq >= one.seq THEN c.claimed_at END FROM claims c
             WHERE c.project_no = one.project_no AND c.first_seq <= one.seq ORDER BY c.first_seq DESC LIMIT 1),
            received_at) AS received_at
        FROM events one WHERE project_no = %(project_no)s AND seq = (h.low + h.high) / 2 OFFSET 0
    ) AS e
    WHERE h.high - h.low > 1
)
SELECT high FROM halving WHERE high - low <= 1;

-- name: list_claims
SELECT first_seq, last_seq FROM claims
WHERE project_no = %(project_no)s AND first_seq <= %(last)s AND last_seq >= %(first)s ORDER BY first_seq;

-- name: count_events
SELECT count(*) FROM events
WHERE project_no = %(project_no)s AND seq BETWEEN %(first)s AND %(last)s
  AND received_at BETWEEN %(start)s::timestamptz AND %(end)s::timestamptz;

-- name: copy_facts
COPY (
    SELECT e.seq, e.id, e.received_at, e.occurred_at, e.action, t.tenant_id, e.actor_id, NULL::text
    FROM events e, LATERAL (
        SELECT tenant_id FROM tenants WHERE project_no = e.project_no AND tenant_no = e.tenant_no OFFSET 0
    ) AS t
    WHERE e.project_no = %(project_no)s AND e.seq BETWEEN %(first)s AND %(last)s
      AND e.received_at BETWEEN %(start)s::timestamptz AND %(end)s::timestamptz
      AND (%(actions)s::text[] IS NULL OR e.action = ANY (%(actions)s::text[]))
    ORDER BY e.seq
) TO STDOUT (FORMAT binary);

-- name: copy_facts_with_addresses
COPY (
    SELECT e.seq, e.id, e.received_at, e.occurred_at, e.action, t.tenant_id, e.actor_id,
           e.body::json #>> '{context,ip_address}'
    FROM events e, LATERAL (
        SELECT tenant_id FROM tenants WHERE project_no = e.project_no AND tenant_no = e.tenant_no OFFSET 0
    ) AS t
    WHERE e.project_no = %(project_no)s AND e.seq BETWEEN %(first)s AND %(last)s
      AND e.received_at BETWEEN %(start)s::timestamptz AND %(end)s::timestamptz
      AND (%(actions)s::text[] IS NULL OR e.action = ANY (%(actions)s::text[]))
    ORDER BY e.seq
) TO STDOUT (FORMAT binary);
