-- Dead letters, a leaf at a time: {day} as in history.sql.

-- name: find
-- A stretch of at most $4 deliveries of the tenant $1 that ended without success at one time, between the ids $2
-- (inclusive) and $3 (exclusive), and whether each is a dead letter that matches: its furthest fact's code one of $5, its
-- slot between $6 and $7. The stretch bounds the work, however rare a match is.
SELECT noted.id, coalesce(
        notification.tenant = $1
        AND fact.rank % 16 = ANY ($5::integer[])
        AND get_byte(uuid_send(noted.id), 15) BETWEEN $6::integer AND $7::integer
        AND ($8::text IS NULL OR fact.provider = $8)
        AND ($9::text IS NULL OR fact.reason = $9)
        AND ($10::text IS NULL OR notification.user_id = $10),
        false
    ) AS matches
FROM (
    SELECT id FROM letter_{day} WHERE tenant = $1 AND id >= $2 AND id < $3 ORDER BY id DESC LIMIT $4
) AS noted
-- Lateral and limited: one look-up by key for each, whatever the planner thinks of the sizes.
LEFT JOIN LATERAL (
    SELECT rank, reason, provider FROM event_{day} AS event WHERE event.id = noted.id
    ORDER BY rank DESC, step DESC LIMIT 1
) AS fact ON true
LEFT JOIN LATERAL (
    SELECT tenant, category, user_id FROM notification_{day} AS notification
    WHERE notification.id = notification_of(noted.id) LIMIT 1
) AS notification ON true
ORDER BY noted.id DESC;

-- name: find_of_category
-- As `find`, of the category $11 alone, by another index. A letter whose category was not known when it was noted counts
-- for each until its notification tells.
SELECT noted.id, coalesce(
        notification.tenant = $1
        AND fact.rank % 16 = ANY ($5::integer[])
        AND get_byte(uuid_send(noted.id), 15) BETWEEN $6::integer AND $7::integer
        AND ($8::text IS NULL OR fact.provider = $8)
        AND ($9::text IS NULL OR fact.reason = $9)
        AND ($10::text IS NULL OR notification.user_id = $10)
        AND notification.category = $11,
        false
    ) AS matches
FROM (
    SELECT id FROM (
        (
            SELECT id FROM letter_{day} WHERE tenant = $1 AND category = $11 AND id >= $2 AND id < $3
            ORDER BY id DESC LIMIT $4
        )
        UNION ALL
        (
            SELECT id FROM letter_{day} WHERE tenant = $1 AND category IS NULL AND id >= $2 AND id < $3
            ORDER BY id DESC LIMIT $4
        )
    ) AS both_kinds ORDER BY id DESC LIMIT $4
) AS noted
-- Lateral and limited: one look-up by key for each, whatever the planner thinks of the sizes.
LEFT JOIN LATERAL (
    SELECT rank, reason, provider FROM event_{day} AS event WHERE event.id = noted.id
    ORDER BY rank DESC, step DESC LIMIT 1
) AS fact ON true
LEFT JOIN LATERAL (
    SELECT tenant, category, user_id FROM notification_{day} AS notification
    WHERE notification.id = notification_of(noted.id) LIMIT 1
) AS notification ON true
ORDER BY noted.id DESC;
