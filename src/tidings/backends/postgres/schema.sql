-- The schema after all migrations (a test compares the two). Instants are bigint milliseconds since the epoch. Text
-- that is sorted has collation "C", so that order and paging do not depend on the server's locale.

-- The history: append-only, partitioned by the day in the UUIDv7. Every statement names the partition of its day, the
-- leaf (`notification_20260131`), so that it does not plan over other leaves, or lock them. The parents are for people
-- who look around with SQL. There is no default partition. When a day is archived, notifications still in flight move
-- to the tables `…_carried`, and the leaves are dropped.

CREATE TABLE notification (
    id uuid NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    user_id text COLLATE "C",
    category text COLLATE "C" NOT NULL,
    -- When the notification was routed. It replaces a row in `event` for the event `pending` that every notification
    -- has.
    pending_at bigint,
    -- The same for its deliveries: their slots, an octet each, and their addresses in that order (MessagePack). Events
    -- that say more have a row in `event`.
    pending_slots bytea,
    pending_addresses bytea,
    body bytea NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX notification_tenant ON notification (tenant, id);
CREATE INDEX notification_user ON notification (tenant, user_id, id) WHERE user_id IS NOT NULL;

-- The primary key is one event. `rank` orders events by attempt, then state (policy/transitions.py); `delivered`
-- outranks all, so `attempt` is stored separately. In the order of the key, a delivery's furthest event is the last
-- one.
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

-- Deliveries that once ended without success: they have an event uncertain, dead or failed. Their events tell whether
-- they still are dead letters. `category` is NULL if the event was recorded before the notification.
CREATE TABLE letter (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    category text COLLATE "C",
    PRIMARY KEY (tenant, id)
) PARTITION BY RANGE (id);

CREATE INDEX letter_category ON letter (tenant, category, id);

-- Notifications that were in flight when their day was archived, until they rest.
CREATE TABLE notification_carried (LIKE notification INCLUDING ALL);
CREATE TABLE event_carried (LIKE event INCLUDING ALL);
CREATE TABLE letter_carried (LIKE letter INCLUDING ALL);

-- The days of the history, as days since the epoch. An `open` day has its leaves; an `archived` day is in the object
-- store and its leaves are dropped. The row -1 stands for the carried notifications. `dirty`: the day was written to
-- since it was rolled up or since archiving began. Writers set it; a reader of the whole day clears it under a lock
-- that waits for the writers, and leaves its id in `reader`. `folded`: accepted counts are kept for the whole day only.
-- `passes` grows each time something of the day goes to the archive, so that readers notice.
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

-- The sums of closed days by tenant. `archived` rows count what is in the archive and only grow; the others count what
-- is in the leaves, and hold while the day is not dirty. `accepted` is the larger of counted and recorded, minute by
-- minute.
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

-- The sums by state and reason: of the deliveries of a channel or, if `channel` is empty, of notifications.
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

-- The objects of archived days. Each holds the notifications from (first_tenant, first_id) to (last_tenant, last_id).
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

-- The largest id that can belong to a notification: its last slot.
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

-- Creates the leaves of `days` days from `first_day` (days since the epoch) on, except for archived days; returns how
-- many tables were missing. Leaves are created days ahead, so this can give up and be called again: if it waited for
-- the lock of a long read, all other reads would wait behind it.
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

-- The clock of all leases, because the clocks of processes may differ.
CREATE FUNCTION lease_clock() RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- The schedule: queue items to enqueue at `due`. `ready` is when a row may be handed out: its due time or, while it is
-- `leased`, the end of the lease by lease_clock(). `handed` counts how often it was handed out.
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

-- Recurrences. `body` is the definition, which only the API writes; the other columns are its progress, which the stage
-- `schedule` writes. `ready`, `handed` and `leased` as in the table schedule. `due` and `ready` are NULL if no
-- occurrence will come.
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

-- Replays and their progress. `ready` is when the next page may be claimed or, while the replay is leased (`token`),
-- the end of the lease by lease_clock().
CREATE TABLE replay (
    id uuid NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    -- The request's LetterFilter, as JSON.
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

-- Users, devices, the suppression list and inboxes.

CREATE TABLE users (
    tenant text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    bucket smallint NOT NULL,
    profile bytea NOT NULL,
    preferences bytea,
    updated_at bigint NOT NULL,
    -- Tells apart the users who had the same id one after the other.
    incarnation bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant, user_id)
);

-- The owner of each device: within a tenant, the user who registered it last. `digest` is the SHA-256 of the token,
-- because a token may be too long for an index. A row changes only under the lock of its owner's row in `users`.
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

-- Ids begin with their instant, so pruning old items reads the index from its start.
CREATE INDEX inbox_item_id ON inbox_item (id);

-- Tenants, keys, categories, templates and idempotency keys.

CREATE TABLE tenant (
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    created_at bigint NOT NULL,
    -- The tenant's limits of the API that differ from the settings, as JSON.
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
    -- The rules other than opting out, as JSON.
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

-- Both instants are of lease_clock(), so that a process with a wrong clock cannot take over a reserved key.
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

-- The accounts: accepted counts, gaps, watched notifications and rounds.

-- Accepted notifications, counted apart from the history by the processes that answered 202
-- (pipeline/accept/accepted.py). A row is one counter's total of a tenant's ids of one minute (minutes since the
-- epoch); the count is the sum over all counters.
CREATE TABLE accepted_count (
    minute bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    counter uuid NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (minute, tenant, counter)
);

CREATE INDEX accepted_count_tenant ON accepted_count (tenant, minute);

-- Minutes with fewer recorded than accepted notifications. `confirmed`: no queued item can close the gap any more.
CREATE TABLE accounting_gap (
    minute bigint NOT NULL,
    tenant text COLLATE "C" NOT NULL,
    missing bigint NOT NULL,
    confirmed boolean NOT NULL,
    PRIMARY KEY (minute, tenant)
);

-- Notifications that were in flight when the audit looked at them, and when it looks again.
CREATE TABLE watched (
    notification uuid NOT NULL,
    look_at bigint NOT NULL,
    PRIMARY KEY (notification)
);

CREATE INDEX watched_look_at ON watched (look_at);

-- Leases and positions of the rounds. One process at a time makes a round, until `until` by lease_clock().
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

-- The counts of caps, a row for each scope (16 octets of BLAKE2b). `passed` holds ids with their instants, 24 octets
-- each; after `until` none of them counts any more. Rows grow and are rewritten in place.
CREATE TABLE cap_count (
    scope bytea NOT NULL,
    passed bytea NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (scope)
) WITH (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);

-- Queues: a table for each topic and group, which PostgresQueue.declare creates in the schema `queue`.

CREATE SCHEMA queue;

CREATE TABLE queue.subscription (
    topic text COLLATE "C" NOT NULL,
    grp text COLLATE "C" NOT NULL,
    relation text COLLATE "C" NOT NULL UNIQUE,
    PRIMARY KEY (topic, grp)
);

-- A leased claim. Its items have left their queue's table and are here in one row, until `done` or the end of the
-- lease. `marks`: whether each item was begun by an earlier claim. `begun`: the positions (from 1) of items that this
-- claim has begun; NULL in rows of an older version.
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

-- Bodies are read once, so compressing them costs more than it saves.
ALTER TABLE queue.claim
    ALTER COLUMN ids SET STORAGE EXTERNAL,
    ALTER COLUMN keys SET STORAGE EXTERNAL,
    ALTER COLUMN headers SET STORAGE EXTERNAL,
    ALTER COLUMN bodies SET STORAGE EXTERNAL,
    ALTER COLUMN marks SET STORAGE EXTERNAL;
