-- The word index: written once for every closed segment, for the parts of the open one, and for every volume of closed
-- ones; read by prefix.
--
-- A part is stored with a negative number for its segment: -1 for the first part of the project's first segment, -2 for
-- the next, and so on. A volume is stored with 2^30 and its own number.

-- Segments are taken in random order: one that cannot be built must not keep the others waiting.
-- name: find_unindexed_segment
SELECT s.project_no, s.segment, NULL::int FROM segments s JOIN project_heads h USING (project_no)
WHERE NOT s.words_ready AND h.seq >= (s.segment + 1)::bigint << %(bits)s::int
  AND NOT EXISTS (
      SELECT FROM unnest(%(skip_projects)s::int[], %(skip_segments)s::int[]) AS k (project_no, segment)
      WHERE k.project_no = s.project_no AND k.segment = s.segment
  )
ORDER BY random()
LIMIT 1;

-- Only parts whose events have been there for a while: where a segment fills up faster than that, its parts would be
-- indexed twice within seconds, at the expense of ingest.
-- name: find_unindexed_part
SELECT s.project_no, s.segment, p.part
FROM segments s JOIN project_heads h USING (project_no), LATERAL (
    SELECT n AS part
    FROM generate_series(0, ((h.seq - (s.segment::bigint << %(bits)s::int)) >> %(part_bits)s::int)::int - 1) AS n
    WHERE NOT EXISTS (
        SELECT FROM word_blocks b
        WHERE b.project_no = s.project_no
          AND b.segment = -1 - ((s.segment::bigint << (%(bits)s::int - %(part_bits)s::int)) + n)::int
    ) AND EXISTS (
        SELECT FROM events e
        WHERE e.project_no = s.project_no
          AND e.seq = (s.segment::bigint << %(bits)s::int) + ((n + 1)::bigint << %(part_bits)s::int)
          AND e.received_at <= now() - make_interval(secs => %(settle_seconds)s)
    )
    ORDER BY n
    LIMIT 1
) AS p
WHERE NOT s.words_ready AND h.seq < (s.segment + 1)::bigint << %(bits)s::int
  AND NOT EXISTS (
      SELECT FROM unnest(%(skip_projects)s::int[], %(skip_segments)s::int[]) AS k (project_no, segment)
      WHERE k.project_no = s.project_no AND k.segment = s.segment
  )
ORDER BY random()
LIMIT 1;

-- Volumes of which all segments have their words.
-- name: find_unindexed_volume
SELECT v.project_no, (%(first_key)s::int + v.volume)::int, NULL::int
FROM volumes v JOIN project_heads h USING (project_no)
WHERE NOT v.words_ready AND h.seq >= (v.volume + 1)::bigint << (%(bits)s::int + %(volume_bits)s::int)
  AND NOT EXISTS (
      SELECT FROM segments s
      WHERE s.project_no = v.project_no AND NOT s.words_ready
        AND s.segment >= v.volume << %(volume_bits)s::int AND s.segment < (v.volume + 1) << %(volume_bits)s::int
  ) AND NOT EXISTS (
      SELECT FROM unnest(%(skip_projects)s::int[], %(skip_segments)s::int[]) AS k (project_no, segment)
      WHERE k.project_no = v.project_no AND k.segment = %(first_key)s::int + v.volume
  )
ORDER BY random()
LIMIT 1;

-- Not a row lock: ingest writes the row of the open segment with every commit and must never wait.
-- name: lock_segment
SELECT pg_try_advisory_xact_lock(
    hashtextextended(format('word_blocks %%s %%s', %(project_no)s::int, %(segment)s::int), 0)
);

-- name: are_words_ready
SELECT words_ready FROM segments WHERE project_no = %(project_no)s AND segment = %(segment)s;

-- name: is_volume_ready
SELECT words_ready FROM volumes WHERE project_no = %(project_no)s AND volume = %(volume)s;

-- In pieces, because every row costs its receiver more than the server pays for putting them together.
-- name: copy_bodies
COPY (
    SELECT count(*), string_agg(body, E'\n' ORDER BY seq) FROM (
        SELECT seq, body, sum(octet_length(body)) OVER (ORDER BY seq) / %(piece_bytes)s::int AS piece FROM events
        WHERE project_no = %(project_no)s AND seq > %(after_seq)s AND seq <= %(last_seq)s
    ) AS bodies
    GROUP BY piece ORDER BY piece
) TO STDOUT (FORMAT binary);

-- name: copy_blocks
COPY word_blocks (project_no, segment, first_word, block) FROM STDIN (FORMAT binary);

-- name: delete_blocks
DELETE FROM word_blocks WHERE project_no = %(project_no)s AND segment = ANY (%(keys)s::int[]);

-- name: mark_words_ready
UPDATE segments SET words_ready = true WHERE project_no = %(project_no)s AND segment = %(segment)s;

-- name: add_volume
INSERT INTO volumes (project_no, volume) VALUES (%(project_no)s, %(volume)s) ON CONFLICT DO NOTHING;

-- name: mark_volume_ready
UPDATE volumes SET words_ready = true WHERE project_no = %(project_no)s AND volume = %(volume)s;

-- name: find_volumes
SELECT volume FROM volumes WHERE project_no = %(project_no)s AND words_ready;

-- name: read_blocks
SELECT first_word, block FROM word_blocks
WHERE project_no = %(project_no)s AND segment = %(segment)s AND first_word > %(after)s::bytea
ORDER BY first_word
LIMIT %(limit)s;

-- name: find_indexed
SELECT k.key FROM unnest(%(keys)s::int[]) AS k (key), LATERAL (
    SELECT FROM word_blocks WHERE project_no = %(project_no)s AND segment = k.key LIMIT 1
) AS b;

-- The words with a prefix begin in the last block that does not begin after it, and go on in those that follow: in the
-- first `most` of these, where it is not null.
-- name: find_blocks
SELECT k.key, b.block
FROM unnest(%(keys)s::int[]) AS k (key), LATERAL (
    (SELECT block FROM word_blocks
     WHERE project_no = %(project_no)s AND segment = k.key AND first_word <= %(prefix)s::bytea
     ORDER BY first_word DESC LIMIT 1)
    UNION ALL
    (SELECT block FROM word_blocks
     WHERE project_no = %(project_no)s AND segment = k.key
       AND first_word > %(prefix)s::bytea AND first_word < %(after)s::bytea
     LIMIT %(most)s::bigint)
) AS b
LIMIT %(limit)s::bigint;

-- One word whole, and no longer one, can only be in the last block that does not begin after it.
-- name: find_exact_blocks
SELECT k.key, w.number::int, b.block
FROM unnest(%(keys)s::int[]) AS k (key)
CROSS JOIN unnest(%(words)s::bytea[]) WITH ORDINALITY AS w (word, number)
CROSS JOIN LATERAL (
    SELECT block FROM word_blocks
    WHERE project_no = %(project_no)s AND segment = k.key AND first_word <= w.word
    ORDER BY first_word DESC LIMIT 1
) AS b;

-- The events of full parts that have no blocks, neither of their own nor their segment's. A look-up for each part of
-- the segments that are not ready; LIMIT keeps it from becoming a join with the whole table.
-- name: count_backlog
SELECT count(*) << %(part_bits)s::int
FROM segments s JOIN project_heads h USING (project_no)
CROSS JOIN LATERAL generate_series(0, least(
    (h.seq - (s.segment::bigint << %(bits)s::int)) >> %(part_bits)s::int, 1 << (%(bits)s::int - %(part_bits)s::int)
)::int - 1) AS p (part)
LEFT JOIN LATERAL (
    SELECT true AS there FROM word_blocks b
    WHERE b.project_no = s.project_no
      AND b.segment = -1 - ((s.segment::bigint << (%(bits)s::int - %(part_bits)s::int)) + p.part)::int
    LIMIT 1
) AS blocks ON true
WHERE NOT s.words_ready AND blocks.there IS NULL;
