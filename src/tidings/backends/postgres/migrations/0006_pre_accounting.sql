-- What was accepted, counted apart from the history by those who answered 202 (pipeline/accepted.py). A row is what one
-- counter has counted of a tenant's ids of one minute (minutes since the epoch); the sum over the counters is the count.
CREATE TABLE accepted_count (
    minute bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    counter uuid NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (minute, tenant, counter)
);

-- Minutes of which less is recorded than was accepted. `confirmed`: nothing that is queued can close the gap any more.
CREATE TABLE accounting_gap (
    minute bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    missing bigint NOT NULL,
    confirmed boolean NOT NULL,
    PRIMARY KEY (minute, tenant)
);

-- Notifications that were in flight when they were looked at, and when to look again.
CREATE TABLE watched (
    notification uuid NOT NULL,
    look_at bigint NOT NULL,
    PRIMARY KEY (notification)
);

CREATE INDEX watched_look_at ON watched (look_at);

-- Rounds that one process at a time makes, with how far they have come.
CREATE TABLE round (
    name text COLLATE "C" NOT NULL,
    holder uuid NOT NULL,
    until bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (name)
);

-- The minute (since the epoch) that a UUIDv7 begins with.
CREATE FUNCTION minute_of(id uuid) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT ('x' || replace(left(id::text, 13), '-', ''))::bit(48)::bigint / 60000 $$;
