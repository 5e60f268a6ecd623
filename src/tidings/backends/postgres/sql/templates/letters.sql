-- Dead letters of one leaf. {day} is the leaf's suffix, as in history.sql.

-- part: conditions
-- Whether a delivery is a dead letter that matches: the code of its furthest event is one of $5, its slot between $6
-- and $7.
notification.tenant = $1
        AND fact.rank % 16 = ANY ($5::integer[])
        AND get_byte(uuid_send(noted.id), 15) BETWEEN $6::integer AND $7::integer
        AND ($8::text IS NULL OR fact.provider = $8)
        AND ($9::text IS NULL OR fact.reason = $9)
        AND ($10::text IS NULL OR notification.user_id = $10)

-- part: look_up
-- Lateral and limited, so that the planner makes one look-up by key for each row, whatever sizes it estimates.
LEFT JOIN LATERAL (
    SELECT rank, reason, provider FROM event_{day} AS event WHERE event.id = noted.id
    ORDER BY rank DESC, step DESC LIMIT 1
) AS fact ON true
LEFT JOIN LATERAL (
    SELECT tenant, category, user_id FROM notification_{day} AS notification
    WHERE notification.id = notification_of(noted.id) LIMIT 1
) AS notification ON true
ORDER BY noted.id DESC

-- name: find
-- At most $4 deliveries of the tenant $1 that once ended without success, with ids from $2 (inclusive) to $3
-- (exclusive), and whether each is a dead letter that matches. The limit bounds the work, however rare a match is.
SELECT noted.id, coalesce(
        {conditions},
        false
    ) AS matches
FROM (
    SELECT id FROM letter_{day} WHERE tenant = $1 AND id >= $2 AND id < $3 ORDER BY id DESC LIMIT $4
) AS noted
{look_up}

-- name: find_of_category
-- As `find`, for the category $11 only, by another index. A delivery that was noted before its notification was
-- recorded has no category there, so its notification is asked.
SELECT noted.id, coalesce(
        {conditions}
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
{look_up}
