-- History is addressed by its day: a ledger of the days, their sums, dead letters by tenant, and a place for what is
-- carried over when its day is archived. The default partitions stay until no old code writes into them.

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
INSERT INTO day (number, state)
SELECT (to_date(right(relname, 8), 'YYYYMMDD') - date '1970-01-01')::bigint, 'open'
FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid
WHERE inhparent = 'notification'::regclass AND relname ~ '^notification_[0-9]{8}$';

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

CREATE INDEX accepted_count_tenant ON accepted_count (tenant, minute);

CREATE TABLE letter (
    tenant text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    category text COLLATE "C",
    PRIMARY KEY (tenant, id)
) PARTITION BY RANGE (id);

CREATE INDEX letter_category ON letter (tenant, category, id);

CREATE TABLE notification_carried (LIKE notification INCLUDING ALL);
CREATE TABLE event_carried (LIKE event INCLUDING ALL);
CREATE TABLE letter_carried (LIKE letter INCLUDING ALL);

CREATE OR REPLACE FUNCTION ensure_partitions(first_day bigint, days integer) RETURNS integer
    LANGUAGE plpgsql
    SET lock_timeout = '5s'
    AS $$
DECLARE
    parent text;
    part text;
    low uuid;
    high uuid;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7166200103);
    FOR wanted IN first_day::integer .. first_day::integer + days - 1 LOOP
        CONTINUE WHEN EXISTS (SELECT FROM day WHERE number = wanted AND state <> 'open');
        low := first_id(wanted::bigint * 86400000);
        high := first_id((wanted + 1)::bigint * 86400000);
        FOREACH parent IN ARRAY ARRAY['notification', 'event', 'letter'] LOOP
            part := parent || '_' || to_char(date '1970-01-01' + wanted, 'YYYYMMDD');
            CONTINUE WHEN to_regclass(part) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, parent);
            IF to_regclass(parent || '_default') IS NOT NULL THEN
                -- Locked first: what came in between would forbid the new partition.
                EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
                EXECUTE format(
                    'WITH moved AS (DELETE FROM %I WHERE id >= %L AND id < %L RETURNING *) '
                    'INSERT INTO %I SELECT * FROM moved', parent || '_default', low, high, part
                );
            END IF;
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part, low, high
            );
            made := made + 1;
        END LOOP;
        INSERT INTO day (number, state) VALUES (wanted, 'open') ON CONFLICT (number) DO NOTHING;
    END LOOP;
    RETURN made;
END
$$;

-- Notes the letters among the facts of the days that are there; facts that old code writes meanwhile are noted by the
-- migration that takes the default partitions away.
CREATE FUNCTION note_all_letters() RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    part text;
BEGIN
    FOR part IN
        SELECT to_char(date '1970-01-01' + number::integer, 'YYYYMMDD') FROM day WHERE state = 'open' ORDER BY number
    LOOP
        EXECUTE format(
            'INSERT INTO %I (tenant, id, category) '
            'SELECT DISTINCT notification.tenant, event.id, notification.category FROM %I AS event '
            'JOIN %I AS notification ON notification.id = notification_of(event.id) '
            'WHERE event.rank %% 16 IN (3, 8, 9) ON CONFLICT DO NOTHING',
            'letter_' || part, 'event_' || part, 'notification_' || part
        );
    END LOOP;
END
$$;

SELECT ensure_partitions(number, 1) FROM day WHERE state = 'open' ORDER BY number;
SELECT note_all_letters();
