-- Dead letters are found by an index that holds nothing else: the codes of uncertain, dead and failed.
CREATE INDEX event_letter ON event (id, rank, step) WHERE rank % 16 IN (3, 8, 9);

-- The notification that a delivery belongs to.
CREATE FUNCTION notification_of(id uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT encode(set_byte(uuid_send(id), 15, 0), 'hex')::uuid $$;

-- What a person asked to have sent again, and how far it is. `ready` is when the next page may be taken or, while it is
-- leased (`token`), the end of the lease.
CREATE TABLE replay (
    id uuid NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    -- What was asked for, as JSON.
    filter bytea NOT NULL,
    per_second integer NOT NULL,
    key_id text NOT NULL,
    key_prefix text NOT NULL,
    created_at bigint NOT NULL,
    expected bigint,
    state text COLLATE "C" NOT NULL,
    found bigint NOT NULL,
    replayed bigint NOT NULL,
    -- Reasons with their counts, as JSON.
    skipped bytea NOT NULL,
    started_at bigint,
    finished_at bigint,
    position uuid,
    next_due bigint NOT NULL,
    token uuid,
    ready bigint NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE INDEX replay_ready ON replay (ready) WHERE state IN ('waiting', 'running');
