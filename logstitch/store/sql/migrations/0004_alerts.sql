-- Alerts: what is looked for, how far each project's events have been looked at, what was found, and who is told of it.

-- Alert rules, in versions. Each holds for a range of seq, so that events that are looked at late, or again after a
-- crash, are judged by the rules that held when they were stored. A built-in has rows once it was changed.
CREATE TABLE alert_rules (
    project_no       integer NOT NULL,
    rule_id          text COLLATE "C" NOT NULL,        -- a built-in's slug, or a UUID
    valid_from       bigint NOT NULL,                  -- holds for events with a greater seq,
    valid_to         bigint,                           -- up to and with this one; NULL: holds now
    since_seq        bigint NOT NULL,                  -- events up to and with this one do not count for it
    name             text NOT NULL,
    action_pattern   text NOT NULL,
    threshold        integer NOT NULL,
    window_seconds   integer NOT NULL,
    group_by         text NOT NULL CHECK (group_by IN ('actor_id', 'tenant_id')),
    distinct_of      text CHECK (distinct_of IN ('ip_address')),
    severity         text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    cooldown_seconds integer NOT NULL,
    enabled          boolean NOT NULL,
    created_at       timestamptz NOT NULL,             -- grows from rule to rule of a project, whatever the clocks say
    PRIMARY KEY (project_no, rule_id, valid_from)
);
CREATE UNIQUE INDEX alert_rules_current ON alert_rules (project_no, rule_id) WHERE valid_to IS NULL;

-- How far a project's events have been looked at, and by whom: the lease lets one process do it at a time, and the
-- fence, which every new holder raises, keeps one that does not know of its end from writing.
CREATE TABLE evaluators (
    project_no  integer PRIMARY KEY,
    seq         bigint NOT NULL,                       -- of the newest event that was looked at
    fence       bigint NOT NULL DEFAULT 0,
    lease_until timestamptz                            -- NULL: nobody holds it
) WITH (fillfactor = 50);
-- What was stored before there were alerts is not looked at.
INSERT INTO evaluators (project_no, seq) SELECT project_no, seq FROM project_heads;

CREATE TABLE alerts (
    project_no      integer NOT NULL,
    alert_id        uuid NOT NULL,                     -- the 128 bits of the ULID in alr_…
    rule_id         text COLLATE "C" NOT NULL,
    rule_name       text NOT NULL,
    severity        text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    status          text NOT NULL CHECK (status IN ('open', 'acknowledged', 'resolved')),
    group_by        text NOT NULL CHECK (group_by IN ('actor_id', 'tenant_id')),
    group_key       text COLLATE "C" NOT NULL,
    tenant_id       text COLLATE "C" NOT NULL,
    event_count     integer NOT NULL,
    event_ids       uuid[] NOT NULL,
    threshold       integer NOT NULL,
    window_seconds  integer NOT NULL,
    seq             bigint NOT NULL,                   -- of the event that fired it
    triggered_at    timestamptz NOT NULL,
    acknowledged_at timestamptz,
    resolved_at     timestamptz,
    PRIMARY KEY (project_no, alert_id),
    UNIQUE (project_no, rule_id, seq)                  -- whatever else goes wrong, an event fires a rule once
);
CREATE INDEX alerts_newest ON alerts (project_no, triggered_at, alert_id);
CREATE INDEX alerts_fired ON alerts (project_no, rule_id, group_key, triggered_at, alert_id);

CREATE TABLE webhooks (
    project_no       integer NOT NULL,
    webhook_id       uuid NOT NULL,                    -- of the ULID in whk_…
    url              text NOT NULL,
    description      text,
    min_severity     text NOT NULL CHECK (min_severity IN ('low', 'medium', 'high', 'critical')),
    events           text[] NOT NULL,                  -- the types that it is told of
    enabled          boolean NOT NULL,
    disabled_reason  text CHECK (disabled_reason IN ('gone', 'failing')),   -- why the service disabled it
    secret           bytea NOT NULL,                   -- signs, so it cannot be a hash
    former_secret    bytea,                            -- signs as well until former_until
    former_until     timestamptz,
    failing_since    timestamptz,                      -- the first failure since the last success
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (project_no, webhook_id)
);
CREATE INDEX webhooks_newest ON webhooks (project_no, created_at, webhook_id);

-- The outbox, and afterwards the log of deliveries. Written in the transaction of what it tells of.
CREATE TABLE deliveries (
    project_no      integer NOT NULL,
    delivery_id     uuid NOT NULL,                     -- of the ULID in dlv_…; the webhook-id that receivers see
    webhook_id      uuid NOT NULL,
    alert_id        uuid,                              -- NULL: a test
    type            text NOT NULL,
    body            text NOT NULL,                     -- what is sent and signed, byte for byte, at every attempt
    status          text NOT NULL CHECK (status IN ('pending', 'delivered', 'failed', 'cancelled')),
    attempt         integer NOT NULL DEFAULT 0,        -- how many were begun; fences the outcome of an older one
    tries_left      integer NOT NULL,
    due_at          timestamptz,                       -- of the next attempt, or of the end of the lease of this one
    created_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    PRIMARY KEY (project_no, delivery_id)
);
CREATE INDEX deliveries_due ON deliveries (project_no, webhook_id, due_at) WHERE status = 'pending';
CREATE INDEX deliveries_newest ON deliveries (project_no, webhook_id, created_at, delivery_id);

CREATE TABLE delivery_attempts (
    project_no      integer NOT NULL,
    delivery_id     uuid NOT NULL,
    attempt         integer NOT NULL,
    began_at        timestamptz NOT NULL,
    duration_ms     integer,                           -- NULL: its end is not known
    response_status integer,
    error           text,                              -- a category; never what the receiver said
    PRIMARY KEY (project_no, delivery_id, attempt)
);
