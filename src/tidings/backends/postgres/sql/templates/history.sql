-- The history, one leaf at a time. {day} is the leaf's suffix: the date of its ids (20260131) or `carried`. {number} is
-- the day's number in the table day. A statement that writes also marks its day as dirty. It locks the leaf before it
-- looks at the mark, and a reader of the whole day clears the mark under a lock that waits for all writers. So no
-- writer misses that the mark was cleared.

-- part: insert_notifications
INSERT INTO notification_{day} AS notification
        (id, tenant, user_id, category, pending_at, pending_slots, pending_addresses, body)
    SELECT id, coalesce(tenant, ''), user_id, coalesce(category, ''), pending_at, pending_slots, pending_addresses, body
    FROM unnest(
            $1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[], $8::bytea[]
        ) AS accepted (id, tenant, user_id, category, pending_at, pending_slots, pending_addresses, body)

-- part: insert_into_events
INSERT INTO event_{day} (id, rank, step, attempt, at, reason, provider, reference, detail, address)
    SELECT id, coalesce(rank, 0), coalesce(step, 0), coalesce(attempt, 0), coalesce(at, 0), coalesce(reason, ''),
        coalesce(provider, ''), coalesce(reference, ''), coalesce(detail, ''), coalesce(address, '')

-- part: insert_events
{insert_into_events}
    FROM unnest(
            $9::uuid[], $10::integer[], $11::integer[], $12::integer[], $13::bigint[],
            $14::text[], $15::text[], $16::text[], $17::text[], $18::text[]
        ) AS fact (id, rank, step, attempt, at, reason, provider, reference, detail, address)
    ON CONFLICT (id, rank, step, attempt) DO NOTHING

-- part: mark_day
UPDATE day SET dirty = true WHERE number = {number} AND NOT dirty

-- part: furthest_facts
-- The furthest fact of each slot of one notification.
SELECT DISTINCT ON (known.slot) known.slot, known.rank, known.reason
FROM (
    SELECT get_byte(uuid_send(event.id), 15) AS slot, event.rank, event.step, event.reason
    FROM event_{day} AS event WHERE event.id >= notification.id AND event.id <= last_slot(notification.id)
    UNION ALL
    SELECT get_byte(notification.pending_slots, place), {pending_rank}, 0, ''
    FROM generate_series(0, length(notification.pending_slots) - 1) AS place
) AS known
ORDER BY known.slot, known.rank DESC, known.step DESC

-- part: matching
-- A notification's columns, with a body only if it matches. $5: category. $6: the wanted state's place in the
-- precedence of states. $7: the place for each state's code. $8: the number of codes of an attempt. $9: the place of
-- pending.
notification.id, notification.pending_at, notification.pending_slots, notification.pending_addresses, CASE WHEN
        ($5::text IS NULL OR notification.category = $5)
        AND CASE WHEN $6::integer IS NULL THEN true ELSE $6 = (
            SELECT coalesce(min(place) FILTER (WHERE slot > 0), min(place) FILTER (WHERE slot = 0), $9::integer)
            FROM (
                SELECT fact.slot, ($7::integer[])[fact.rank % $8::integer + 1] AS place
                FROM ({furthest_facts}) AS fact
            ) AS furthest
        ) END
    THEN notification.body END AS body

-- name: append
-- One statement is one transaction and one round trip. Rows come sorted by key, so that two writers of the same events
-- wait for each other instead of deadlocking. A notification that had to wait first was recorded without its event
-- `pending`, and gets it here. A column of nothing but zeros or empty texts is sent as an empty array: unnest fills it
-- with NULL, and coalesce restores the values.
WITH notifications AS (
    {insert_notifications}
    ON CONFLICT (id) DO UPDATE SET pending_at = excluded.pending_at, pending_slots = excluded.pending_slots,
        pending_addresses = excluded.pending_addresses
        WHERE notification.pending_at IS NULL AND excluded.pending_at IS NOT NULL
), events AS (
    {insert_events}
), marked AS (
    {mark_day}
)
SELECT 1;

-- name: append_new
-- As `append`, for notifications that are probably not recorded yet: it fails as a whole if one of them is. Without ON
-- CONFLICT each row costs one look-up less. Events keep ON CONFLICT: the worker and the vendor's receipt both report an
-- event in normal operation, and each failure would write an error to the server's log and the batch twice.
WITH notifications AS (
    {insert_notifications}
), events AS (
    {insert_events}
), marked AS (
    {mark_day}
)
SELECT 1;

-- name: append_with_effects
-- Only new events have effects: a repeated one must not schedule or suppress anything again. Rows of the schedule for a
-- cancelled notification are ready at once. A row that waits `at_least_ms` begins as leased, because leases run by this
-- clock. A possible second copy counts as handed out once. The notifications were inserted before, in the same
-- transaction. Returns the devices that are newly suppressed.
WITH events AS (
    {insert_into_events}
    FROM unnest(
            $1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::bigint[],
            $6::text[], $7::text[], $8::text[], $9::text[], $10::text[]
        ) AS fact (id, rank, step, attempt, at, reason, provider, reference, detail, address)
    ON CONFLICT (id, rank, step, attempt) DO NOTHING
    RETURNING id, rank, step, attempt, at, reason
), waits AS (
    INSERT INTO schedule (notification, due, ready, topic, key, body, handed, held, leased)
    SELECT wait.notification, coalesce(wait.due, 0),
        CASE WHEN wait.at_least_ms > 0 THEN lease_clock() + wait.at_least_ms
            ELSE least(coalesce(wait.due, 0), cancellation.at) END,
        coalesce(wait.topic, ''), coalesce(wait.key, ''), coalesce(wait.body, ''), coalesce(wait.repeated, 0),
        coalesce(wait.held, false), coalesce(wait.at_least_ms, 0) > 0
    FROM unnest(
            $11::uuid[], $12::integer[], $13::integer[], $14::integer[],
            $15::uuid[], $16::bigint[], $17::text[], $18::bytea[], $19::bytea[], $20::integer[], $21::boolean[],
            $22::integer[]
        ) AS wait (id, rank, step, attempt, notification, due, topic, key, body, repeated, held, at_least_ms)
    JOIN events ON events.id = wait.id AND events.rank = coalesce(wait.rank, 0)
        AND events.step = coalesce(wait.step, 0) AND events.attempt = coalesce(wait.attempt, 0)
    LEFT JOIN cancellation ON cancellation.id = wait.notification
), suppressions AS (
    INSERT INTO suppression (tenant, channel, address, reason, at)
    SELECT gone.tenant, gone.channel, coalesce(gone.address, ''), events.reason, events.at
    FROM unnest(
            $23::uuid[], $24::integer[], $25::integer[], $26::integer[], $27::text[], $28::text[], $29::text[]
        ) AS gone (id, rank, step, attempt, tenant, channel, address)
    JOIN events ON events.id = gone.id AND events.rank = coalesce(gone.rank, 0)
        AND events.step = coalesce(gone.step, 0) AND events.attempt = coalesce(gone.attempt, 0)
    ORDER BY gone.tenant, gone.channel, gone.address, events.at
    ON CONFLICT (tenant, channel, address) DO NOTHING
    RETURNING tenant, channel, address
), marked AS (
    {mark_day}
)
SELECT tenant, address FROM suppressions WHERE channel = 'push';

-- name: note_letters
-- Runs after the events, in the same transaction. The category is NULL if the notification is not recorded yet.
INSERT INTO letter_{day} (tenant, id, category)
SELECT noted.tenant, noted.id, notification.category
FROM unnest($1::text[], $2::uuid[]) AS noted (tenant, id)
LEFT JOIN notification_{day} AS notification ON notification.id = notification_of(noted.id)
ON CONFLICT (tenant, id) DO NOTHING;

-- name: get
-- A notification and its deliveries are one range of ids ($2 to $3), and so one range of one leaf.
SELECT notification.body, notification.pending_at, notification.pending_slots, notification.pending_addresses,
    event.id, event.rank, event.step, event.attempt, event.at,
    event.reason, event.provider, event.reference, event.detail, event.address
FROM notification_{day} AS notification
LEFT JOIN event_{day} AS event ON event.id >= $2 AND event.id <= $3
WHERE notification.id = $2 AND notification.tenant = $1;

-- name: events_of
SELECT event.id, event.rank, event.step, event.attempt, event.at,
    event.reason, event.provider, event.reference, event.detail, event.address
FROM unnest($1::uuid[]) AS wanted (id)
JOIN event_{day} AS event ON event.id >= wanted.id AND event.id <= last_slot(wanted.id);

-- name: find
-- At most $4 notifications of the tenant $1 with ids from $2 (inclusive) to $3 (exclusive); those that match have a
-- body. The limit bounds the work, however rare a match is.
SELECT {matching}
FROM (
    SELECT id, category, pending_at, pending_slots, pending_addresses, body FROM notification_{day}
    WHERE tenant = $1 AND id >= $2 AND id < $3
    ORDER BY id DESC LIMIT $4
) AS notification
ORDER BY notification.id DESC;

-- name: find_of_user
-- As `find`, for the user $10 only, by another index.
SELECT {matching}
FROM (
    SELECT id, category, pending_at, pending_slots, pending_addresses, body FROM notification_{day}
    WHERE tenant = $1 AND user_id = $10 AND id >= $2 AND id < $3
    ORDER BY id DESC LIMIT $4
) AS notification
ORDER BY notification.id DESC;

-- name: attempted
-- An attempt is over if its event has one of the codes $4, or the code $5 with one of the reasons $6.
SELECT DISTINCT asked.id, asked.attempt
FROM unnest($1::uuid[], $2::integer[]) AS asked (id, attempt)
JOIN event_{day} AS event ON event.id = asked.id AND event.attempt = asked.attempt
WHERE event.rank % $3::integer = ANY ($4::integer[])
    OR (event.rank % $3::integer = $5::integer AND event.reason = ANY ($6::text[]));

-- name: waited
-- `goes_on_with` (policy/transitions.py) in SQL. $3: the number of codes of an attempt. $4: the code of `deferred`. $5:
-- the reasons with which `deferred` concerns the next attempt. $6: the code of `pending`. $7: the reason of a copy.
SELECT
    asked.id,
    asked.attempt,
    max(event.step + CASE WHEN event.rank % $3::integer = $4::integer THEN 1 ELSE 0 END) AS step
FROM unnest($1::uuid[], $2::integer[]) AS asked (id, attempt)
JOIN event_{day} AS event ON event.id = asked.id AND event.attempt = asked.attempt
WHERE (event.rank % $3::integer = $4::integer AND event.reason <> ALL ($5::text[]))
    OR (event.rank % $3::integer = $6::integer AND event.reason = $7::text)
GROUP BY asked.id, asked.attempt;

-- name: arrived
-- Deliveries whose furthest event is `delivered`. $2: the number of codes of an attempt. $3: the code of `delivered`.
SELECT event.id
FROM unnest($1::uuid[]) AS asked (id)
JOIN event_{day} AS event ON event.id = asked.id
GROUP BY event.id
HAVING max(event.rank) % $2::integer = $3::integer;

-- name: handed
-- Attempts that the provider $1 got under one of the references $2 or to one of the addresses $3, with ids from $4 to
-- $5: events whose code (of $6) is one of $7. An index would cost every event something; instead the ids bound the
-- work.
SELECT event.id, notification.tenant, event.attempt, event.reference, event.address
FROM event_{day} AS event
JOIN notification_{day} AS notification ON notification.id = notification_of(event.id)
WHERE event.id >= $4::uuid AND event.id < $5::uuid AND event.provider = $1::text
    AND event.rank % $6::integer = ANY ($7::integer[])
    AND (event.reference = ANY ($2::text[]) OR lower(event.address) = ANY ($3::text[]))
LIMIT 10000;

-- name: tally
-- Counts deliveries by their furthest event and notifications by the first of their deliveries' states in the
-- precedence, or by their own state if they have no delivery. Notifications come as slot 0, with the place in the
-- precedence instead of the code. $3: the place for each state's code.
WITH furthest AS MATERIALIZED (
    SELECT notification.id AS notification, fact.slot, fact.rank % $4::integer AS code, fact.reason
    FROM notification_{day} AS notification
    LEFT JOIN LATERAL ({furthest_facts}) AS fact ON true
    WHERE notification.tenant = $1 AND notification.id >= $2 AND notification.id < $6
), whole AS (
    SELECT
        coalesce(
            min(($3::integer[])[code + 1]) FILTER (WHERE slot > 0),
            min(($3::integer[])[code + 1]) FILTER (WHERE slot = 0),
            $5::integer
        ) AS place,
        CASE WHEN count(*) FILTER (WHERE slot > 0) = 0 THEN coalesce(min(reason) FILTER (WHERE slot = 0), '') ELSE ''
        END AS reason
    FROM furthest GROUP BY notification
)
SELECT slot, code, reason, count(*) FROM furthest WHERE slot > 0 GROUP BY slot, code, reason
UNION ALL
SELECT 0, place, reason, count(*) FROM whole GROUP BY place, reason;

-- name: states
-- The notifications of all tenants with ids from $1 to $2, counted by minute and state. It needs all of them, so it
-- uses two range scans and a hash join instead of a look-up for each. $3: the place for each state's code. $4: the
-- number of codes of an attempt. $5: the place of pending. $6: the number of places in flight. $7: return the ids in
-- flight too.
WITH furthest AS (
    SELECT substr(uuid_send(id), 1, 15) AS stem, get_byte(uuid_send(id), 15) AS slot,
        ($3::integer[])[max(rank) % $4::integer + 1] AS place
    FROM event_{day} WHERE id >= $1 AND id < $2 GROUP BY id
), known AS (
    SELECT stem, min(place) FILTER (WHERE slot > 0) AS deliveries, min(place) FILTER (WHERE slot = 0) AS own,
        string_agg(set_byte('\x00', 0, slot), '') FILTER (WHERE slot > 0) AS slots
    FROM furthest GROUP BY stem
), whole AS (
    SELECT notification.id, notification.tenant,
        least(known.deliveries, CASE
            WHEN notification.pending_slots IS NULL THEN NULL
            WHEN known.slots IS NULL THEN $5::integer
            WHEN length(notification.pending_slots) = 1 THEN
                CASE WHEN position(notification.pending_slots IN known.slots) = 0 THEN $5::integer END
            WHEN EXISTS (
                SELECT FROM generate_series(1, length(notification.pending_slots)) AS place
                WHERE position(substr(notification.pending_slots, place, 1) IN known.slots) = 0
            ) THEN $5::integer END) AS deliveries,
        coalesce(known.own, $5::integer) AS own
    FROM notification_{day} AS notification LEFT JOIN known ON known.stem = substr(uuid_send(notification.id), 1, 15)
    WHERE notification.id >= $1 AND notification.id < $2
)
SELECT tenant, minute_of(id) AS minute, coalesce(deliveries, own) AS place, count(*),
    coalesce(array_agg(id) FILTER (WHERE $7::boolean AND coalesce(deliveries, own) < $6::integer), '{}'::uuid[])
FROM whole GROUP BY tenant, minute, place ORDER BY minute, tenant, place;

-- name: states_of_tenant
-- As `states`, for the tenant $8 only: finds its notifications by their index, with a look-up for each.
SELECT notification.tenant, minute_of(notification.id) AS minute, state.place, count(*), coalesce(
        array_agg(notification.id) FILTER (WHERE $7::boolean AND state.place < $6::integer), '{}'::uuid[]
    )
FROM notification_{day} AS notification
CROSS JOIN LATERAL (
    SELECT coalesce(min(place) FILTER (WHERE slot > 0), min(place) FILTER (WHERE slot = 0), $5::integer) AS place
    FROM (
        SELECT fact.slot, ($3::integer[])[fact.rank % $4::integer + 1] AS place
        FROM ({furthest_facts}) AS fact
    ) AS furthest
) AS state
WHERE notification.tenant = $8 AND notification.id >= $1 AND notification.id < $2
GROUP BY notification.tenant, minute, state.place ORDER BY minute, state.place;

-- name: heads
SELECT id, pending_at, pending_slots, pending_addresses, body FROM notification_{day} WHERE id = ANY ($1::uuid[]);

