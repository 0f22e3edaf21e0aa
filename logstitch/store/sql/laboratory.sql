-- The events before a place in a project's order, newest first, with their bodies: one range of the time index, in the
-- index's order, which the planner is left no other way for (after reading's settle_plans).
--
-- Of at most `events` of them, as many as it takes to reach `bytes`: one body more, at most, than fits. How long a body
-- is stands beside it, so what is left out is not read. `walked` is how many of the `events` there are.

-- name: next_bodies
SELECT id, occurred_at, convert_to(body, 'UTF8'), walked FROM (
    SELECT id, occurred_at, body, count(*) OVER () AS walked,
           coalesce(sum(octet_length(body)) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
    FROM (
        SELECT id, occurred_at, body FROM events
        WHERE project_no = %(project_no)s AND occurred_at >= %(low)s::timestamptz
          AND (occurred_at, id) < (%(high)s::timestamptz, %(high_id)s::uuid)
        ORDER BY project_no DESC, occurred_at DESC, id DESC
        LIMIT %(events)s
    ) AS next
) AS walk
WHERE before < %(bytes)s::bigint;
