-- Anonymous streams and their events. Streams are locked in the order of their digests; the totals come last.

-- name: insert_streams
INSERT INTO streams (digest, secret, status, created_at, expires_at)
SELECT s.digest, s.secret, 'active', s.created_at, s.created_at + make_interval(days => %(days)s)
FROM unnest(%(digests)s::bytea[], %(secrets)s::bytea[], %(created_at)s::timestamptz[])
    AS s (digest, secret, created_at)
ORDER BY s.digest
ON CONFLICT (digest) DO NOTHING
RETURNING stream_no;

-- name: find_streams
SELECT digest, stream_no, secret, status, created_at, expires_at, last_event_at, claimed_at, claimed_by, event_count,
       day, day_events, bytes
FROM streams WHERE digest = ANY (%(digests)s::bytea[]);

-- name: lock_streams
SELECT digest, stream_no, secret, status, created_at, expires_at, last_event_at, claimed_at, claimed_by, event_count,
       day, day_events, bytes
FROM streams WHERE digest = ANY (%(digests)s::bytea[]) ORDER BY digest FOR UPDATE;

-- name: find_keys
SELECT e.stream_no, e.key_hash, e.id, e.key_digest
FROM unnest(%(stream_nos)s::bigint[], %(key_hashes)s::uuid[]) AS k (stream_no, key_hash)
JOIN stream_events e USING (stream_no, key_hash);

-- name: has_event
SELECT EXISTS (SELECT FROM stream_events WHERE stream_no = %(stream_no)s AND n = %(n)s AND id = %(id)s);

-- name: insert_events
INSERT INTO stream_events (stream_no, n, id, received_at, occurred_at, body, redactions, key_hash, key_digest, size)
SELECT e.stream_no, e.n, e.id, to_timestamp(e.received_ms / 1000.0), to_timestamp(e.occurred_ms / 1000.0), e.body,
       e.redactions, e.key_hash, e.key_digest, e.size
FROM unnest(%(stream_nos)s::bigint[], %(numbers)s::int[], %(ids)s::uuid[], %(received_ms)s::bigint[],
            %(occurred_ms)s::bigint[], %(bodies)s::text[], %(redactions)s::text[], %(key_hashes)s::uuid[],
            %(key_digests)s::bytea[], %(sizes)s::int[])
    AS e (stream_no, n, id, received_ms, occurred_ms, body, redactions, key_hash, key_digest, size);

-- name: save_streams
UPDATE streams SET last_event_at = s.last_event_at, event_count = s.event_count, day = s.day, day_events = s.day_events,
                   bytes = s.bytes
FROM unnest(%(stream_nos)s::bigint[], %(last_event_at)s::timestamptz[], %(event_counts)s::int[], %(days)s::date[],
            %(day_events)s::int[], %(bytes)s::bigint[])
    AS s (stream_no, last_event_at, event_count, day, day_events, bytes)
WHERE streams.stream_no = s.stream_no;

-- name: forget_streams
DELETE FROM streams WHERE stream_no = ANY (%(stream_nos)s::bigint[]);

-- name: totals
SELECT streams, bytes FROM stream_totals;

-- name: add_to_totals
UPDATE stream_totals SET streams = streams + %(streams)s, bytes = bytes + %(bytes)s;

-- name: read_events
-- A range of the primary key, so that no plan sorts what is there.
SELECT n, id, (extract(epoch FROM received_at) * 1000)::bigint, (extract(epoch FROM occurred_at) * 1000)::bigint,
       body, redactions, stream_no, key_digest
FROM stream_events WHERE stream_no = %(stream_no)s AND n > %(after)s AND n <= %(through)s ORDER BY n;

-- name: mark_claimed
UPDATE streams SET status = 'claimed', claimed_at = %(now)s, claimed_by = %(project_no)s, secret = NULL, bytes = 0
WHERE stream_no = %(stream_no)s;

-- name: delete_events
DELETE FROM stream_events WHERE stream_no = %(stream_no)s;

-- name: insert_claim
INSERT INTO claims (project_no, first_seq, last_seq, claimed_at, stream_no, secret)
VALUES (%(project_no)s, %(first_seq)s, %(last_seq)s, %(now)s, %(stream_no)s, %(secret)s);

-- name: claim_secrets
SELECT stream_no, secret FROM claims
WHERE stream_no = ANY (%(stream_nos)s::bigint[]) AND project_no = %(project_no)s AND secret IS NOT NULL;

-- name: claim_expired
-- Those that another process has in hand are left to it.
SELECT stream_no, status FROM streams
WHERE expires_at <= %(now)s AND (status = 'active' OR status = 'expired' AND bytes > 0)
ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED;

-- name: mark_expired
UPDATE streams SET status = 'expired', secret = NULL WHERE stream_no = ANY (%(stream_nos)s::bigint[]);

-- name: delete_some_events
DELETE FROM stream_events WHERE (stream_no, n) IN (
    SELECT stream_no, n FROM stream_events WHERE stream_no = ANY (%(stream_nos)s::bigint[])
    ORDER BY stream_no, n LIMIT %(limit)s
) RETURNING stream_no, size;

-- name: take_bytes
UPDATE streams SET bytes = streams.bytes - s.bytes
FROM unnest(%(stream_nos)s::bigint[], %(bytes)s::bigint[]) AS s (stream_no, bytes)
WHERE streams.stream_no = s.stream_no;
