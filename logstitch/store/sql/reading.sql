-- Reading events. The planner is left one way for each statement, because the wrong one costs a project's size:
--
-- * walks are ranges of an index in its order, and sorting is switched off. What they have in common is compared by
--   itself and not as a part of the range: before version 18, PostgreSQL finds the end of a range by its first column
--   only, and goes on through the project in search of what is not there;
-- * look-ups stand behind OFFSET 0, which the planner does not push conditions through, so that only the one condition
--   that its index serves is there to choose an index by;
-- * sequential scans are switched off.
--
-- tests/store/test_plans.py holds the planner to it. `%(low)s` is inclusive, `%(high)s` is not.

-- Events that a viewer is not shown are kept from it by these lines, wherever it looks.
-- fragment: shown
(%(shown_categories)s::text[] IS NULL OR category = ANY (%(shown_categories)s))
AND (%(shown_actions)s::text[] IS NULL OR action LIKE ANY (%(shown_actions)s))

-- fragment: columns
(%(tenant_no)s::int IS NULL OR tenant_no = %(tenant_no)s)
AND (%(actor_id)s::text IS NULL OR actor_id = %(actor_id)s)
AND (%(actor_type)s::text IS NULL OR actor_type = %(actor_type)s)
AND (%(actions)s::text[] IS NULL OR action = ANY (%(actions)s))
AND (%(action_like)s::text IS NULL OR action LIKE %(action_like)s)
AND (%(category)s::text IS NULL OR category = %(category)s)
AND (%(target_id)s::text IS NULL OR target_id = %(target_id)s)
AND (%(target_type)s::text IS NULL OR target_type = %(target_type)s)
AND -- include: shown

-- name: settle_plans
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true),
       set_config('enable_incremental_sort', 'off', true), set_config('max_parallel_workers_per_gather', '0', true),
       set_config('jit', 'off', true);

-- name: find_tenant
SELECT tenant_no FROM tenants WHERE project_no = %(project_no)s AND tenant_id = %(tenant_id)s;

-- Those that begin with the pattern's head lie side by side; chr(1114111) sorts after every other character.
-- name: find_actions
SELECT count(*)::int, coalesce(array_agg(action) FILTER (WHERE action LIKE %(pattern)s), '{}') FROM (
    SELECT action FROM project_actions
    WHERE project_no = %(project_no)s AND action >= %(head)s::text AND action <= %(head)s::text || chr(1114111)
    LIMIT %(look)s
) AS looked;

-- name: find_event
SELECT body FROM events WHERE project_no = %(project_no)s AND id = %(id)s;

-- The same for who may not see all of them: no body is read that is not shown.
-- name: find_shown_event
SELECT body FROM events
WHERE project_no = %(project_no)s AND id = %(id)s
  AND tenant_no = (SELECT tenant_no FROM tenants WHERE project_no = %(project_no)s AND tenant_id = %(tenant_id)s)
  AND -- include: shown

-- How long a body is stands beside it: octet_length reads none.
-- One by one: for a list of some hundred, and a table that was filled a moment ago and not analyzed yet, the planner
-- rather reads the whole project.
-- name: find_bodies
SELECT wanted.seq, octet_length(body), CASE WHEN octet_length(body) <= %(short)s::int THEN body END
FROM unnest(%(seqs)s::bigint[]) AS wanted (seq) CROSS JOIN LATERAL (
    SELECT body FROM events WHERE project_no = %(project_no)s AND seq = wanted.seq OFFSET 0
) AS found;

-- name: find_body
SELECT body FROM events WHERE project_no = %(project_no)s AND seq = %(seq)s;

-- Milliseconds are rounded: the spans were computed through floating point.
-- name: find_spans
SELECT segment, (extract(epoch FROM oldest) * 1000)::bigint, (extract(epoch FROM newest) * 1000)::bigint, words_ready
FROM segments
WHERE project_no = %(project_no)s;

-- The events that pass among the next `events` ones, at most `limit`, and the last of those, passing or not; `walked`
-- is how many they are.
-- name: walk_desc
SELECT seq, occurred_at, id, passes, walked FROM (
    SELECT seq, occurred_at, id, row_number() OVER () AS step, count(*) OVER () AS walked, coalesce(
        -- include: columns
    , false) AS passes
    FROM (
        SELECT seq, occurred_at, id, tenant_no, actor_id, actor_type, action, category, target_id, target_type FROM events
        WHERE project_no = %(project_no)s
          AND (occurred_at, id) >= (%(low)s::timestamptz, %(low_id)s::uuid)
          AND (occurred_at, id) < (%(high)s::timestamptz, %(high_id)s::uuid)
        ORDER BY project_no DESC, occurred_at DESC, id DESC
        LIMIT %(events)s
    ) AS next
) AS walk
WHERE passes OR step = walked
ORDER BY step
LIMIT %(limit)s;

-- name: walk_asc
SELECT seq, occurred_at, id, passes, walked FROM (
    SELECT seq, occurred_at, id, row_number() OVER () AS step, count(*) OVER () AS walked, coalesce(
        -- include: columns
    , false) AS passes
    FROM (
        SELECT seq, occurred_at, id, tenant_no, actor_id, actor_type, action, category, target_id, target_type FROM events
        WHERE project_no = %(project_no)s
          AND (occurred_at, id) >= (%(low)s::timestamptz, %(low_id)s::uuid)
          AND (occurred_at, id) < (%(high)s::timestamptz, %(high_id)s::uuid)
        ORDER BY project_no, occurred_at, id
        LIMIT %(events)s
    ) AS next
) AS walk
WHERE passes OR step = walked
ORDER BY step
LIMIT %(limit)s;

-- name: walk_tenant_desc
SELECT seq, occurred_at, id, passes, walked FROM (
    SELECT seq, occurred_at, id, row_number() OVER () AS step, count(*) OVER () AS walked, coalesce(
        -- include: columns
    , false) AS passes
    FROM (
        SELECT seq, occurred_at, id, tenant_no, actor_id, actor_type, action, category, target_id, target_type FROM events
        WHERE project_no = %(project_no)s AND tenant_no = %(tenant_no)s
          AND (occurred_at, id) >= (%(low)s::timestamptz, %(low_id)s::uuid)
          AND (occurred_at, id) < (%(high)s::timestamptz, %(high_id)s::uuid)
        ORDER BY project_no DESC, tenant_no DESC, occurred_at DESC, id DESC
        LIMIT %(events)s
    ) AS next
) AS walk
WHERE passes OR step = walked
ORDER BY step
LIMIT %(limit)s;

-- name: walk_tenant_asc
SELECT seq, occurred_at, id, passes, walked FROM (
    SELECT seq, occurred_at, id, row_number() OVER () AS step, count(*) OVER () AS walked, coalesce(
        -- include: columns
    , false) AS passes
    FROM (
        SELECT seq, occurred_at, id, tenant_no, actor_id, actor_type, action, category, target_id, target_type FROM events
        WHERE project_no = %(project_no)s AND tenant_no = %(tenant_no)s
          AND (occurred_at, id) >= (%(low)s::timestamptz, %(low_id)s::uuid)
          AND (occurred_at, id) < (%(high)s::timestamptz, %(high_id)s::uuid)
        ORDER BY project_no, tenant_no, occurred_at, id
        LIMIT %(events)s
    ) AS next
) AS walk
WHERE passes OR step = walked
ORDER BY step
LIMIT %(limit)s;

-- name: find_having
SELECT seq, occurred_at, id FROM (
    SELECT project_no, seq, occurred_at, id, tenant_no, actor_id, actor_type, action, category, target_id, target_type FROM events
    WHERE facets @@ %(query)s::tsquery
    OFFSET 0
) AS candidates
WHERE project_no = %(project_no)s
  AND (occurred_at, id) >= (%(low)s::timestamptz, %(low_id)s::uuid)
  AND (occurred_at, id) < (%(high)s::timestamptz, %(high_id)s::uuid)
  AND -- include: columns
ORDER BY CASE WHEN %(newest_first)s THEN occurred_at END DESC, CASE WHEN %(newest_first)s THEN id END DESC,
         occurred_at, id
LIMIT %(limit)s;

-- name: find_seqs_having
SELECT seq FROM (
    SELECT project_no, seq FROM events
    WHERE facets @@ %(query)s::tsquery
    OFFSET 0
) AS candidates
WHERE project_no = %(project_no)s;

-- name: find_among
SELECT seq, occurred_at, id FROM (
    SELECT project_no, seq, occurred_at, id, tenant_no, actor_id, actor_type, action, category, target_id, target_type FROM events
    WHERE project_no = %(project_no)s AND seq = ANY (%(seqs)s::bigint[])
    OFFSET 0
) AS candidates
WHERE project_no = %(project_no)s
  AND (occurred_at, id) >= (%(low)s::timestamptz, %(low_id)s::uuid)
  AND (occurred_at, id) < (%(high)s::timestamptz, %(high_id)s::uuid)
  AND -- include: columns
ORDER BY CASE WHEN %(newest_first)s THEN occurred_at END DESC, CASE WHEN %(newest_first)s THEN id END DESC,
         occurred_at, id
LIMIT %(limit)s;

-- What may hold the words: a body of ASCII only in its lower case (the "C" collation folds ASCII and leaves the rest);
-- any other body is for the caller to fold, and so is a long one, one by one and with an eye on the time.
-- name: find_possible
SELECT seq, occurred_at, id FROM (
    SELECT project_no, seq, occurred_at, id, tenant_no, actor_id, actor_type, action, category, target_id, target_type FROM events
    WHERE project_no = %(project_no)s AND seq > %(after_seq)s AND seq <= %(last_seq)s
      AND CASE WHEN octet_length(body) > %(short)s::int THEN true
               ELSE lower(body) LIKE ALL (%(patterns)s::text[]) OR octet_length(body) <> char_length(body) END
    OFFSET 0
) AS candidates
WHERE project_no = %(project_no)s
  AND (occurred_at, id) >= (%(low)s::timestamptz, %(low_id)s::uuid)
  AND (occurred_at, id) < (%(high)s::timestamptz, %(high_id)s::uuid)
  AND -- include: columns
ORDER BY CASE WHEN %(newest_first)s THEN occurred_at END DESC, CASE WHEN %(newest_first)s THEN id END DESC,
         occurred_at, id
LIMIT %(limit)s;
