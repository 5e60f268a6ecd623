-- The schema that the migrations add up to (a test compares them). Instants are bigint milliseconds since the epoch; text
-- that is sorted has collation "C", so that order and paging do not depend on the server's locale.

-- History: append-only, partitioned by the day that a UUIDv7 begins with. Every statement names the partition of its
-- day, its leaf (`notification_20260131`), so that nothing plans over, or locks, the others; the parents are there for
-- people who look around with SQL. There is no default partition. When a day is archived, what is still in flight
-- moves to the tables `…_carried`, and the leaves are dropped.

CREATE TABLE notification (
    id uuid NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    user_id text COLLATE "C",
    category text COLLATE "C" NOT NULL,
    -- When it was routed: the fact `pending` about the notification itself, which every one has and none needs a row for.
    pending_at bigint,
    -- The same of its deliveries: the slot of each, an octet each, and (MessagePack) the addresses in that order. A fact
    -- that says more than that has a row in `event`.
    pending_slots bytea,
    pending_addresses bytea,
    body bytea NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX notification_tenant ON notification (tenant, id);
CREATE INDEX notification_user ON notification (tenant, user_id, id) WHERE user_id IS NOT NULL;

-- The key is the fact: rank stands for attempt and state (policy/transitions.py), except that `delivered` outranks every
-- attempt, therefore the attempt beside it. Its order makes the furthest fact of a delivery the last one of the index.
CREATE TABLE event (
    id uuid NOT NULL,
    rank integer NOT NULL,
    step integer NOT NULL,
    attempt integer NOT NULL,
    at bigint NOT NULL,
    reason text NOT NULL,
    provider text NOT NULL,
    reference text NOT NULL,
    detail text NOT NULL,
    address text NOT NULL,
    PRIMARY KEY (id, rank, step, attempt)
) PARTITION BY RANGE (id);

-- Deliveries that ended without success at one time: their facts uncertain, dead or failed. Whether one still is a dead
-- letter its events tell. `category` is NULL when the fact came before the notification.
CREATE TABLE letter (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    category text COLLATE "C",
    PRIMARY KEY (tenant, id)
) PARTITION BY RANGE (id);

CREATE INDEX letter_category ON letter (tenant, category, id);

-- What was in flight when its day was archived, until it rests.
CREATE TABLE notification_carried (LIKE notification INCLUDING ALL);
CREATE TABLE event_carried (LIKE event INCLUDING ALL);
CREATE TABLE letter_carried (LIKE letter INCLUDING ALL);

-- The days (since the epoch) of the history: `open` has its leaves, `archived` has been written to the object store and
-- dropped. The row -1 stands for what is carried. `dirty`: something was written since the day was rolled up or
-- began to be archived; writers mark it, whoever reads the whole day clears it, in the name of `reader`, under a lock
-- that they respect.
-- `folded`: its minutes are not counted apart any more. `passes` counts what went to the archive, so that a reader notices.
CREATE TABLE day (
    number bigint NOT NULL,
    state text COLLATE "C" NOT NULL,
    dirty boolean NOT NULL DEFAULT true,
    reader uuid,
    rolled_at bigint,
    folded boolean NOT NULL DEFAULT false,
    passes bigint NOT NULL DEFAULT 0,
    archived_at bigint,
    PRIMARY KEY (number)
);

INSERT INTO day (number, state) VALUES (-1, 'carried');

-- The sums of closed days, a tenant's own. Rows that are `archived` count what is in the archive and never change but by
-- additions; the others count what is in the leaves, and hold while the day is not dirty. `accepted` is the larger of
-- counted and recorded, minute by minute.
CREATE TABLE day_total (
    tenant text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    archived boolean NOT NULL,
    counted bigint NOT NULL,
    accepted bigint NOT NULL,
    recorded bigint NOT NULL,
    missing bigint NOT NULL,
    PRIMARY KEY (tenant, day, archived)
);

CREATE INDEX day_total_day ON day_total (day);

-- The same by state and reason: of the deliveries of a channel or, without one, of notifications.
CREATE TABLE day_account (
    tenant text COLLATE "C" NOT NULL,
    day bigint NOT NULL,
    archived boolean NOT NULL,
    channel text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    reason text COLLATE "C" NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (tenant, day, archived, channel, state, reason)
);

CREATE INDEX day_account_day ON day_account (day);

-- The objects of archived days, each from one (tenant, id) to another.
CREATE TABLE archive_part (
    day bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    sha256 text NOT NULL,
    first_tenant text COLLATE "C" NOT NULL,
    first_id uuid NOT NULL,
    last_tenant text COLLATE "C" NOT NULL,
    last_id uuid NOT NULL,
    PRIMARY KEY (day, name)
);

-- The largest id that belongs to a notification: its last slot.
CREATE FUNCTION last_slot(id uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT encode(set_byte(uuid_send(id), 15, 255), 'hex')::uuid $$;

-- The notification that a delivery belongs to.
CREATE FUNCTION notification_of(id uuid) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT encode(set_byte(uuid_send(id), 15, 0), 'hex')::uuid $$;

-- The smallest UUIDv7 of an instant.
CREATE FUNCTION first_id(at bigint) RETURNS uuid
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS $$ SELECT (lpad(to_hex(at), 12, '0') || '00000000000000000000')::uuid $$;

-- Makes the leaves of `days` days from `first_day` (days since the epoch) on, but of none that is archived; returns how
-- many were missing. Made days ahead, so it can give up and come again: waiting for a long read's lock would make every
-- other read wait behind it.
CREATE FUNCTION ensure_partitions(first_day bigint, days integer) RETURNS integer
    LANGUAGE plpgsql
    SET lock_timeout = '5s'
    AS $$
DECLARE
    parent text;
    part text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7166200103);
    FOR wanted IN first_day::integer .. first_day::integer + days - 1 LOOP
        CONTINUE WHEN EXISTS (SELECT FROM day WHERE number = wanted AND state <> 'open');
        FOREACH parent IN ARRAY ARRAY['notification', 'event', 'letter'] LOOP
            part := parent || '_' || to_char(date '1970-01-01' + wanted, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(part) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent, part, first_id(wanted::bigint * 86400000), first_id((wanted + 1)::bigint * 86400000)
            );
            made := made + 1;
        END LOOP;
        INSERT INTO day (number, state) VALUES (wanted, 'open') ON CONFLICT (number) DO NOTHING;
    END LOOP;
    RETURN made;
END
$$;

-- The clock of all leases: the processes' own may differ.
CREATE FUNCTION lease_clock() RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- All waiting. `ready` is when a row may be handed out: its due time or, while it is `leased`, the end of the lease by
-- lease_clock(). `handed` counts how often it was.
CREATE TABLE schedule (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    notification uuid NOT NULL,
    due bigint NOT NULL,
    ready bigint NOT NULL,
    handed integer NOT NULL DEFAULT 0,
    topic text NOT NULL,
    key bytea NOT NULL,
    body bytea NOT NULL,
    leased boolean NOT NULL DEFAULT false,
    held boolean NOT NULL DEFAULT false,
    PRIMARY KEY (id)
);

CREATE INDEX schedule_ready ON schedule (ready);
CREATE INDEX schedule_notification ON schedule (notification);
CREATE INDEX schedule_held ON schedule (topic, ready) WHERE held;

-- Recurring sends. `body` is the definition, which the API alone writes; the other columns say how far it is, and the
-- schedule moves them. `ready`, `handed` and `leased` as in the table schedule; due and ready are NULL when none will come.
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
    leased boolean NOT NULL DEFAULT false,
    PRIMARY KEY (id)
);

CREATE INDEX recurrence_tenant ON recurrence (tenant, id);
CREATE INDEX recurrence_ready ON recurrence (ready) WHERE ready IS NOT NULL;

CREATE TABLE cancellation (
    id uuid NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (id)
);

-- What a person asked to have sent again, and how far it is. `ready` is when the next page may be taken or, while it is
-- leased (`token`), the end of the lease by lease_clock().
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

-- The people, and the addresses that must not be used.

CREATE TABLE users (
    tenant text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    bucket smallint NOT NULL,
    profile bytea NOT NULL,
    preferences bytea,
    updated_at bigint NOT NULL,
    -- Tells apart the users who have had the same id one after the other.
    incarnation bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, user_id)
);

-- Whose a device is: within a tenant, the user's who registered it last. `digest` is the SHA-256 of the token, which may
-- be longer than an index takes. A row changes only under the lock of its owner's row in `users`.
CREATE TABLE device (
    tenant text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE INDEX device_user ON device (tenant, user_id);

CREATE TABLE suppression (
    tenant text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    at bigint NOT NULL,
    PRIMARY KEY (tenant, channel, address)
);

CREATE TABLE inbox_item (
    tenant text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    title text NOT NULL,
    body text NOT NULL,
    link text,
    category text NOT NULL,
    created_at bigint NOT NULL,
    seen_at bigint,
    read_at bigint,
    archived_at bigint,
    PRIMARY KEY (tenant, user_id, id)
);

CREATE INDEX inbox_item_unread_id ON inbox_item (tenant, user_id, id) WHERE read_at IS NULL AND archived_at IS NULL;

-- Ids begin with their instant: what is old is swept from its beginning.
CREATE INDEX inbox_item_id ON inbox_item (id);

-- What tenants set up.

CREATE TABLE tenant (
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    created_at bigint NOT NULL,
    -- Its limits of the API where they differ from the settings, as JSON.
    limits bytea,
    PRIMARY KEY (id)
);

CREATE TABLE api_key (
    id text COLLATE "C" NOT NULL,
    tenant text COLLATE "C" NOT NULL REFERENCES tenant (id),
    prefix text NOT NULL,
    digest bytea NOT NULL UNIQUE,
    scopes text[] NOT NULL,
    name text NOT NULL,
    created_at bigint NOT NULL,
    revoked_at bigint,
    limits bytea,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE category (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    critical boolean NOT NULL,
    allow_doubles boolean NOT NULL,
    description text NOT NULL,
    -- What it says beyond opting out, as JSON.
    rules bytea NOT NULL DEFAULT '{}',
    PRIMARY KEY (tenant, name)
);

CREATE TABLE template (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    latest integer NOT NULL,
    published integer,
    PRIMARY KEY (tenant, name)
);

CREATE TABLE template_version (
    tenant text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    description text NOT NULL,
    body bytea NOT NULL,
    created_at bigint,
    PRIMARY KEY (tenant, name, version)
);

-- Both instants are of lease_clock(): a process whose clock is wrong takes nobody's key.
CREATE TABLE idempotency_key (
    tenant text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    ids uuid[] NOT NULL,
    reserved_at bigint NOT NULL,
    answer bytea,
    leased_until bigint,
    PRIMARY KEY (tenant, key)
) WITH (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_scale_factor = 0.1
);

CREATE INDEX idempotency_key_reserved ON idempotency_key (reserved_at);

-- The accounts: what was accepted, what is missing, what is watched.

-- What was accepted, counted apart from the history by those who answered 202 (pipeline/accept/accepted.py). A row is what one
-- counter has counted of a tenant's ids of one minute (minutes since the epoch); the sum over the counters is the count.
CREATE TABLE accepted_count (
    minute bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    counter uuid NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (minute, tenant, counter)
);

CREATE INDEX accepted_count_tenant ON accepted_count (tenant, minute);

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

-- Rounds that one process at a time makes, until then by lease_clock(), with how far they have come.
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

-- What has passed under caps, a row for each scope (16 octets of BLAKE2b): ids and instants, 24 octets each, and when
-- none of them means anything any more. Rows grow and are rewritten in place.
CREATE TABLE cap_count (
    scope bytea NOT NULL,
    passed bytea NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (scope)
) WITH (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);

-- Queues: a table per topic and group, made by PostgresQueue.declare in the schema `queue`.

CREATE SCHEMA queue;

CREATE TABLE queue.subscription (
    topic text COLLATE "C" NOT NULL,
    grp text COLLATE "C" NOT NULL,
    relation text COLLATE "C" NOT NULL UNIQUE,
    PRIMARY KEY (topic, grp)
);

-- A leased claim: its items left their queue and are here, all in one row, until `done` or until another takes over.
-- `marks` came with them; `begun` are the positions (from 1) of those that were begun since, NULL where nobody says.
CREATE TABLE queue.claim (
    token uuid NOT NULL,
    relation text COLLATE "C" NOT NULL,
    until timestamptz NOT NULL,
    ids bigint[] NOT NULL,
    keys bytea[] NOT NULL,
    headers bytea[] NOT NULL,
    bodies bytea[] NOT NULL,
    marks boolean[] NOT NULL,
    begun integer[],
    PRIMARY KEY (token)
) WITH (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000
);

CREATE INDEX claim_until ON queue.claim (until);

-- Bodies are read once: compressing them costs more than it saves.
ALTER TABLE queue.claim
    ALTER COLUMN ids SET STORAGE EXTERNAL,
    ALTER COLUMN keys SET STORAGE EXTERNAL,
    ALTER COLUMN headers SET STORAGE EXTERNAL,
    ALTER COLUMN bodies SET STORAGE EXTERNAL,
    ALTER COLUMN marks SET STORAGE EXTERNAL;
