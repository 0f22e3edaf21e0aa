-- Viewer tokens: what they are signed with, and the tiers that they are read through. Tokens themselves are not kept.

-- The deployment, as tokens name it: another one's are refused, whatever they are signed with.
CREATE TABLE deployment (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    deployment_id uuid NOT NULL
);
INSERT INTO deployment (deployment_id) VALUES (gen_random_uuid());

-- Two at most: the one that signs, and the one before it, until the last token that it signed has expired.
CREATE TABLE viewer_secrets (
    secret_id  uuid PRIMARY KEY,
    secret     bytea NOT NULL CHECK (length(secret) = 32),  -- signs, so it cannot be a hash
    created_at timestamptz NOT NULL,
    ends_at    timestamptz                                  -- NULL: it signs
);
CREATE UNIQUE INDEX viewer_secrets_current ON viewer_secrets ((ends_at IS NULL)) WHERE ends_at IS NULL;

CREATE TABLE tiers (
    project_no    integer NOT NULL,
    tier_id       uuid NOT NULL,
    name          text COLLATE "C" NOT NULL,
    categories    text[],                                   -- NULL: all
    actions       text[],                                   -- globs; NULL: all
    hidden_fields text[] NOT NULL,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (project_no, tier_id),
    UNIQUE (project_no, name)
);
