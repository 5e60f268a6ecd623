-- Statements on a whole day. {day} and {number} are as in history.sql.

-- part: wanted
-- Of a leaf all notifications that are not carried ($5 is NULL); of the carried ones exactly those with the ids $5.
id = ANY ($5::uuid[])
        OR $5::uuid[] IS NULL AND NOT EXISTS (SELECT FROM notification_carried AS kept WHERE kept.id = found.id)

-- part: event_columns
event.id::text AS id, event.rank::text AS rank, event.step::text AS step,
    event.attempt::text AS attempt, event.at::text AS at, event.reason, event.provider, event.reference, event.detail,
    event.address

-- name: hold
-- Waits for the writers of the leaf and of counts. Later writers wait until this transaction ends, and then see that
-- the mark is cleared.
LOCK TABLE notification_{day}, event_{day}, letter_{day}, accepted_count IN SHARE MODE;

-- name: close
LOCK TABLE notification_{day}, event_{day}, letter_{day} IN ACCESS EXCLUSIVE MODE;

-- name: roll
-- The notifications from the id $1 to $2 and their deliveries, counted by tenant. A delivery (slot > 0) counts by its
-- furthest event, a notification by minute and by the first of its deliveries' states in the precedence. $3: the place
-- in the precedence for each state's code. $4: the number of codes of an attempt. $5: the place of pending.
WITH fact AS (
    SELECT DISTINCT ON (id) id, rank, reason
    FROM (
        SELECT id, rank, step, reason FROM event_{day} WHERE id >= $1 AND id < $2
        UNION ALL
        SELECT encode(set_byte(uuid_send(id), 15, get_byte(pending_slots, place)), 'hex')::uuid, {pending_rank}, 0, ''
        FROM notification_{day}, generate_series(0, length(pending_slots) - 1) AS place
        WHERE id >= $1 AND id < $2 AND pending_slots IS NOT NULL
    ) AS known
    ORDER BY id, rank DESC, step DESC
), slot AS MATERIALIZED (
    SELECT notification_of(id) AS notification, get_byte(uuid_send(id), 15) AS slot, rank % $4::integer AS code, reason
    FROM fact
), own AS MATERIALIZED (
    SELECT id, tenant FROM notification_{day} WHERE id >= $1 AND id < $2
), whole AS (
    SELECT own.id, min(own.tenant) AS tenant,
        coalesce(
            min(($3::integer[])[code + 1]) FILTER (WHERE slot > 0),
            min(($3::integer[])[code + 1]) FILTER (WHERE slot = 0),
            $5::integer
        ) AS place,
        CASE WHEN count(*) FILTER (WHERE slot > 0) = 0 THEN coalesce(min(reason) FILTER (WHERE slot = 0), '') ELSE ''
        END AS reason
    FROM own LEFT JOIN slot ON slot.notification = own.id GROUP BY own.id
)
SELECT own.tenant, NULL::bigint AS minute, slot.slot, slot.code, slot.reason, count(*)
FROM slot JOIN own ON own.id = slot.notification WHERE slot.slot > 0
GROUP BY own.tenant, slot.slot, slot.code, slot.reason
UNION ALL
SELECT tenant, minute_of(id), 0, place, reason, count(*) FROM whole GROUP BY tenant, minute_of(id), place, reason;

-- name: carry
WITH wanted AS (
    SELECT id, tenant FROM notification_{day} WHERE id = ANY ($1::uuid[])
), notifications AS (
    INSERT INTO notification_carried SELECT * FROM notification_{day} WHERE id = ANY ($1::uuid[])
), events AS (
    INSERT INTO event_carried
    SELECT event.* FROM wanted JOIN event_{day} AS event ON event.id >= wanted.id AND event.id <= last_slot(wanted.id)
)
INSERT INTO letter_carried
SELECT letter.* FROM wanted JOIN letter_{day} AS letter
    ON letter.tenant = wanted.tenant AND letter.id >= wanted.id AND letter.id <= last_slot(wanted.id);

-- name: slice
-- The first and the last notification of the slice after ($1, $2): at most $3 notifications, and bodies of at most $4
-- octets in total, but at least one notification.
SELECT first_value(tenant) OVER w, first_value(id) OVER w, tenant, id
FROM (
    SELECT tenant, id, row_number() OVER v AS place, sum(size) OVER v AS size
    FROM (
        SELECT tenant, id, octet_length(body) AS size FROM notification_{day} AS found
        WHERE (tenant, id) > ($1::text COLLATE "C", $2::uuid) AND (
            {wanted}
        )
        ORDER BY tenant, id LIMIT $3
    ) AS page WINDOW v AS (ORDER BY tenant, id)
) AS run
WHERE place = 1 OR size <= $4
WINDOW w AS (ORDER BY tenant, id)
ORDER BY tenant DESC, id DESC LIMIT 1;

-- name: notifications
SELECT tenant, id::text AS id, user_id, category, pending_at::text AS pending_at,
    encode(pending_slots, 'hex') AS pending_slots, encode(pending_addresses, 'hex') AS pending_addresses,
    encode(body, 'hex') AS body
FROM notification_{day} AS found
WHERE (tenant, id) >= ($1::text COLLATE "C", $2::uuid) AND (tenant, id) <= ($3::text COLLATE "C", $4::uuid) AND (
    {wanted}
)
ORDER BY tenant, found.id;

-- name: events
SELECT found.tenant, {event_columns}
FROM (
    SELECT tenant, id FROM notification_{day} AS found
    WHERE (tenant, id) >= ($1::text COLLATE "C", $2::uuid) AND (tenant, id) <= ($3::text COLLATE "C", $4::uuid) AND (
        {wanted}
    )
    ORDER BY tenant, id OFFSET 0
) AS found
JOIN event_{day} AS event ON event.id >= found.id AND event.id <= last_slot(found.id)
ORDER BY found.tenant, event.id, event.rank, event.step, event.attempt;

-- name: orphans
-- Events whose notification was never recorded, so that their tenant is unknown.
SELECT ''::text AS tenant, {event_columns}
FROM event_{day} AS event
WHERE NOT EXISTS (SELECT FROM notification_{day} AS known WHERE known.id = notification_of(event.id))
ORDER BY event.id, event.rank, event.step, event.attempt;

-- name: quiet
-- Carried notifications that are not in flight (not in $1) and have had no event since $2.
SELECT id FROM notification_{day} AS kept
WHERE id <> ALL ($1::uuid[]) AND NOT EXISTS (
    SELECT FROM event_{day} AS event
    WHERE event.id >= kept.id AND event.id <= last_slot(kept.id) AND event.at >= $2::bigint
)
ORDER BY id LIMIT $3;
