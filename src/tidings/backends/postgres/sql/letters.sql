-- name: find
-- A stretch of at most $4 facts that can make a dead letter, between the delivery ids $2 (inclusive) and $3 (exclusive),
-- and whether each is one that matches: of the tenant $1, its state's code one of $5, its slot between $6 and $7. The
-- stretch bounds the work, however rare a match is. The condition on the rank is that of the index `event_letter`, word for
-- word. The furthest fact of a delivery comes first, so a stretch that ends within a delivery has seen it.
SELECT fact.id, coalesce(
        notification.tenant = $1
        AND fact.rank % 16 = ANY ($5::integer[])
        AND get_byte(uuid_send(fact.id), 15) BETWEEN $6::integer AND $7::integer
        AND ($8::text IS NULL OR notification.category = $8)
        AND ($9::text IS NULL OR fact.provider = $9)
        AND ($10::text IS NULL OR fact.reason = $10)
        AND ($11::text IS NULL OR notification.user_id = $11)
        AND NOT EXISTS (
            SELECT FROM event AS later
            WHERE later.id = fact.id AND (later.rank, later.step) > (fact.rank, fact.step)
        ),
        false
    ) AS matches
FROM (
    SELECT id, rank, step, reason, provider FROM event
    WHERE rank % 16 IN (3, 8, 9) AND id >= $2 AND id < $3
    ORDER BY id DESC, rank DESC, step DESC LIMIT $4
) AS fact
-- Lateral and limited: one look-up by key for each, whatever the planner thinks of the sizes.
LEFT JOIN LATERAL (
    SELECT tenant, category, user_id FROM notification WHERE notification.id = notification_of(fact.id) LIMIT 1
) AS notification ON true
ORDER BY fact.id DESC, fact.rank DESC, fact.step DESC;

-- name: heads
SELECT id, pending_at, pending_slots, pending_addresses, body FROM notification WHERE id = ANY ($1::uuid[]);
