-- Anonymous streams: events that nobody owns yet, under a token that only whoever made it has.
--
-- A stream is here for ever, its events until it is claimed or expires: what is left of it refuses its token. Rows of
-- several streams are locked in the order of their digests, and before anything of a project.

CREATE TABLE streams (
    digest        bytea PRIMARY KEY CHECK (length(digest) = 32),  -- SHA-256 of the token in lower case; the token itself is nowhere
    stream_no     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,     -- stands for the digest in stream_events
    secret        bytea CHECK (length(secret) = 32),              -- keys idempotency digests; NULL once it takes no events
    status        text NOT NULL CHECK (status IN ('active', 'claimed', 'expired')),  -- past expires_at, active means nothing
    created_at    timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    last_event_at timestamptz,
    claimed_at    timestamptz CHECK ((status = 'claimed') = (claimed_at IS NOT NULL)),
    claimed_by    integer CHECK ((status = 'claimed') = (claimed_by IS NOT NULL)),  -- project_no
    event_count   integer NOT NULL DEFAULT 0,                     -- ever stored; the newest n of its events
    day           date NOT NULL DEFAULT '0001-01-01',             -- UTC day that day_events counts
    day_events    integer NOT NULL DEFAULT 0,
    bytes         bigint NOT NULL DEFAULT 0                       -- of its events that are still here
) WITH (fillfactor = 70);
-- What the reaper has to do: streams to end, and ended ones that still have events.
CREATE INDEX streams_to_reap ON streams (expires_at) WHERE status = 'active' OR status = 'expired' AND bytes > 0;

CREATE TABLE stream_events (
    stream_no   bigint NOT NULL,
    n           integer NOT NULL,                 -- gap-free from 1, in commit order
    id          uuid NOT NULL,                    -- as answered; the event keeps it when it is claimed
    received_at timestamptz NOT NULL,
    occurred_at timestamptz NOT NULL,
    body        text COLLATE "C" NOT NULL,        -- canonical JSON as redaction has left it, with its idempotency_key
    redactions  text,                             -- [{"field", "rules"}], where redaction changed something
    key_hash    uuid,                             -- of the idempotency key: 128 bits of its SHA-256
    key_digest  bytea,                            -- HMAC-SHA-256 of the event as it was sent
    size        integer NOT NULL,                 -- what it counts for in bytes
    PRIMARY KEY (stream_no, n)
);
CREATE UNIQUE INDEX stream_events_key ON stream_events (stream_no, key_hash) WHERE key_hash IS NOT NULL;

-- What all streams that are still active, and all events of streams, come to. Written in the transactions that change
-- it, last of all; read without a lock, since a ceiling may be missed by what is under way.
CREATE TABLE stream_totals (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    streams bigint NOT NULL,
    bytes   bigint NOT NULL
) WITH (fillfactor = 50);
INSERT INTO stream_totals (streams, bytes) VALUES (0, 0);

-- Which of a project's events were claimed: detection leaves them out. They were received long before their neighbours,
-- so whoever looks for a time among the numbers takes claimed_at for them. Ranges do not overlap. The idempotency digest
-- of a claimed event is the byte 1, its stream_no in 8 bytes, and the HMAC that it had in the stream.
CREATE TABLE claims (
    project_no integer NOT NULL,
    first_seq  bigint NOT NULL,
    last_seq   bigint NOT NULL CHECK (last_seq >= first_seq),
    claimed_at timestamptz NOT NULL,
    stream_no  bigint UNIQUE,
    secret     bytea CHECK (length(secret) = 32),  -- the stream's: keys the digests of these events
    PRIMARY KEY (project_no, first_seq)
);
