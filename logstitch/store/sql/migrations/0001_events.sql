-- Organizations, projects, keys; events and what is kept beside them so that writing and reading stay cheap.
--
-- Two rules hold for every project-scoped table: its primary key begins with the project, so that the schema can be
-- distributed by project without a rewrite; and text that is compared is compared byte for byte (COLLATE "C").

CREATE TABLE organizations (
    organization_id uuid PRIMARY KEY,
    name            text NOT NULL,
    plan            text NOT NULL CHECK (plan IN ('free', 'pro', 'enterprise')),
    created_at      timestamptz NOT NULL
);

CREATE TABLE projects (
    project_id         uuid PRIMARY KEY,
    project_no         integer GENERATED ALWAYS AS IDENTITY UNIQUE,  -- stands for the uuid in every other table: 4 bytes, not 16
    organization_id    uuid NOT NULL REFERENCES organizations,
    name               text NOT NULL,
    created_at         timestamptz NOT NULL,
    idempotency_secret bytea NOT NULL CHECK (length(idempotency_secret) = 32)
);
CREATE INDEX projects_newest ON projects (organization_id, created_at, project_id);

CREATE TABLE keys (
    key_id          uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations,
    project_id      uuid REFERENCES projects,                         -- NULL: a master key
    type            text NOT NULL CHECK ((type = 'master') = (project_id IS NULL) AND type IN ('master', 'project')),
    name            text NOT NULL,
    prefix          text NOT NULL,                                    -- what a person may see of the key
    digest          bytea NOT NULL UNIQUE CHECK (length(digest) = 32), -- SHA-256 of the key; the key itself is nowhere
    created_at      timestamptz NOT NULL,
    last_used_at    timestamptz,
    revoked_at      timestamptz
);
CREATE INDEX keys_newest ON keys (organization_id, created_at, key_id);

-- Secrets of the deployment that every process must share: the cursor key now, viewer token keys later.
CREATE TABLE service_secrets (
    name       text PRIMARY KEY,
    secret     bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row a project, locked by whoever writes its events: what makes seq, tenant_seq and idempotency exact when
-- several processes ingest for one project.
CREATE TABLE project_heads (
    project_no integer PRIMARY KEY,
    seq        bigint NOT NULL DEFAULT 0,             -- of the newest event; gap-free from 1, in commit order
    day        date NOT NULL DEFAULT '0001-01-01',    -- UTC day that day_events counts
    day_events integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE tenants (
    project_no integer NOT NULL,
    tenant_no  integer NOT NULL,                      -- stands for tenant_id in events and its index
    tenant_id  text COLLATE "C" NOT NULL,
    size       bigint NOT NULL,                       -- leaves in the tenant's RFC 6962 log = its newest tenant_seq + 1
    edge       bytea NOT NULL,                        -- hashes of the complete subtrees on the right edge, left to right
    PRIMARY KEY (project_no, tenant_no),
    UNIQUE (project_no, tenant_id)
) WITH (fillfactor = 50);                             -- rewritten with every group: room for it on the same page

-- Hashes of the full subtrees of 256 leaves, so that any proof reads a bounded number of rows.
CREATE TABLE tenant_subtrees (
    project_no integer NOT NULL,
    tenant_no  integer NOT NULL,
    subtree    bigint NOT NULL,                       -- covers leaves 256 * subtree .. 256 * subtree + 255
    hash       bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (project_no, tenant_no, subtree)
);

CREATE TABLE events (
    project_no    integer NOT NULL,
    seq           bigint NOT NULL,
    id            uuid NOT NULL,                      -- the 128 bits of the ULID in evt_…
    tenant_no     integer NOT NULL,
    tenant_seq    bigint NOT NULL,                    -- leaf index in the tenant's log, gap-free from 0
    occurred_at   timestamptz NOT NULL,
    received_at   timestamptz NOT NULL,
    action        text COLLATE "C" NOT NULL,
    category      text COLLATE "C" NOT NULL,
    actor_id      text COLLATE "C" NOT NULL,
    actor_type    text COLLATE "C" NOT NULL,
    target_id     text COLLATE "C",
    target_type   text COLLATE "C",
    key_hash      uuid,                               -- of the idempotency key: 128 bits of its SHA-256
    key_digest    bytea,                              -- HMAC-SHA-256 of the event as it was sent
    content_hash  bytea NOT NULL,
    salts         bytea NOT NULL,                     -- 16 bytes for each section that is present
    facets        tsvector NOT NULL,                  -- tagged values of the filterable fields, prefixed by project and segment
    body          text COLLATE "C" NOT NULL,          -- canonical JSON, as it is answered
    PRIMARY KEY (project_no, seq)
);
ALTER TABLE events ALTER COLUMN body SET COMPRESSION pglz;
CREATE UNIQUE INDEX events_id ON events (project_no, id);
CREATE UNIQUE INDEX events_key ON events (project_no, key_hash) WHERE key_hash IS NOT NULL;
CREATE INDEX events_time ON events (project_no, occurred_at, id);
CREATE INDEX events_tenant_time ON events (project_no, tenant_no, occurred_at, id);
-- One inverted index serves the six rare-or-frequent filters. Its lexemes carry the segment (16,384 consecutive
-- events), so a look-up costs what one segment holds and not what the project holds. The pending list is kept short:
-- readers scan it, and whoever fills it pays for the merge.
CREATE INDEX events_facets ON events USING gin (facets) WITH (fastupdate = on, gin_pending_list_limit = 256);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are immutable' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER events_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What each segment spans in time: lets a reader take segments newest first and stop when its page is full.
CREATE TABLE segments (
    project_no integer NOT NULL,
    segment    integer NOT NULL,                      -- (seq - 1) / 16384
    oldest     timestamptz NOT NULL,
    newest     timestamptz NOT NULL,
    words_ready boolean NOT NULL DEFAULT false,       -- word_blocks holds the whole segment
    PRIMARY KEY (project_no, segment)
);
CREATE INDEX segments_without_words ON segments (project_no, segment) WHERE NOT words_ready;

-- The project's distinct actions, so that a glob becomes a list of exact ones.
CREATE TABLE project_actions (
    project_no integer NOT NULL,
    action     text COLLATE "C" NOT NULL,
    PRIMARY KEY (project_no, action)
);

-- The search index: per segment its words in order, cut into blocks; each block holds words and, for each, the events
-- of the segment that contain it. Written in bulk, off the commit path, when the segment is full; until then for parts
-- of 2,048 events, which stand under negative numbers and go when the segment is whole.
CREATE TABLE word_blocks (
    project_no integer NOT NULL,
    segment    integer NOT NULL,
    first_word bytea NOT NULL,
    block      bytea NOT NULL,
    PRIMARY KEY (project_no, segment, first_word)
);
-- In the row itself, never in a TOAST table: a look-up is one page, not three.
ALTER TABLE word_blocks ALTER COLUMN first_word SET STORAGE PLAIN, ALTER COLUMN block SET STORAGE PLAIN;
