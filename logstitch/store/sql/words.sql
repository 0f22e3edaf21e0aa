-- The word index: written once for every closed segment, read by prefix.

-- The segment stays locked until the transaction ends, so that no other process builds it, too. Segments are taken in
-- random order: one that cannot be built must not keep the others waiting.
-- name: claim_segment
SELECT s.project_no, s.segment FROM segments s JOIN project_heads h USING (project_no)
WHERE NOT s.words_ready AND h.seq >= (s.segment + 1)::bigint << %(bits)s::int
ORDER BY random()
LIMIT 1
FOR UPDATE OF s SKIP LOCKED;

-- name: copy_bodies
COPY (
    SELECT body FROM events
    WHERE project_no = %(project_no)s AND seq > %(after_seq)s AND seq <= %(last_seq)s
    ORDER BY seq
) TO STDOUT (FORMAT binary);

-- name: copy_blocks
COPY word_blocks (project_no, segment, first_word, block) FROM STDIN (FORMAT binary);

-- name: mark_words_ready
UPDATE segments SET words_ready = true WHERE project_no = %(project_no)s AND segment = %(segment)s;

-- The words with a prefix begin in the last block that does not begin after it, and go on in those that follow.
-- name: find_blocks
SELECT s.segment, b.block
FROM unnest(%(segments)s::int[]) AS s (segment), LATERAL (
    (SELECT block FROM word_blocks
     WHERE project_no = %(project_no)s AND segment = s.segment AND first_word <= %(prefix)s::bytea
     ORDER BY first_word DESC LIMIT 1)
    UNION ALL
    (SELECT block FROM word_blocks
     WHERE project_no = %(project_no)s AND segment = s.segment
       AND first_word > %(prefix)s::bytea AND first_word < %(after)s::bytea)
) AS b;
