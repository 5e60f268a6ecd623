-- Recurring sends. `body` is the definition, which the API alone writes; the other columns say how far it is, and the
-- schedule moves them. `ready` and `handed` as in the table schedule; due and ready are NULL when none will come.
CREATE TABLE recurrence (
    id uuid NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    revision integer NOT NULL,
    body bytea NOT NULL,
    local text,
    due bigint,
    ready bigint,
    handed integer NOT NULL DEFAULT 0,
    fired_at bigint,
    skipped integer NOT NULL DEFAULT 0,
    problem text NOT NULL DEFAULT '',
    PRIMARY KEY (id)
);

CREATE INDEX recurrence_tenant ON recurrence (tenant, id);
CREATE INDEX recurrence_ready ON recurrence (ready) WHERE ready IS NOT NULL;
