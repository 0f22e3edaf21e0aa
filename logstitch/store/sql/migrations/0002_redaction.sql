-- Redaction rules of projects: what differs from the defaults of the built-ins, and the customers' own.
--
-- A change of rules takes the project's head row and raises rules_version. Whoever stores events takes the same row,
-- and so sees whether they were redacted by rules that are still the project's: no clock and no notification is needed
-- for a change to apply everywhere at once.

ALTER TABLE project_heads ADD COLUMN rules_version integer NOT NULL DEFAULT 0;

CREATE TABLE redaction_builtins (
    project_no integer NOT NULL,
    slug       text COLLATE "C" NOT NULL,
    enabled    boolean NOT NULL,
    behavior   text NOT NULL CHECK (behavior IN ('replace', 'hash', 'mask')),
    PRIMARY KEY (project_no, slug)
);

CREATE TABLE redaction_rules (
    project_no integer NOT NULL,
    rule_id    uuid NOT NULL,
    name       text NOT NULL,
    type       text NOT NULL CHECK (type IN ('pattern', 'field_redact')),
    pattern    text CHECK ((type = 'pattern') = (pattern IS NOT NULL)),
    fields     text[] NOT NULL CHECK ((type = 'field_redact') = (cardinality(fields) > 0)),
    behavior   text NOT NULL CHECK (behavior IN ('replace', 'hash', 'mask')),
    enabled    boolean NOT NULL,
    created_at timestamptz NOT NULL,   -- grows from rule to rule of a project, whatever the clocks say: rules apply in its order
    PRIMARY KEY (project_no, rule_id),
    UNIQUE (project_no, created_at)
);
