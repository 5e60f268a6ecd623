-- name: due
-- Leasing a row moves its `ready` to the lease's end, so that one index finds what is due and what was abandoned. By
-- ctid for the reason given at the queue's claim.
UPDATE schedule SET ready = $1::bigint + $3::bigint, handed = handed + 1
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM schedule WHERE ready <= $1::bigint ORDER BY ready LIMIT $2 FOR UPDATE SKIP LOCKED
))
RETURNING id, due, topic, key, body, handed > 1;

-- name: waiting
SELECT notification, due, topic, key, body FROM schedule WHERE notification = ANY ($1::uuid[]);

-- name: settle
DELETE FROM schedule WHERE id = ANY ($1::uuid[]);

-- name: next_due
SELECT min(ready) FROM schedule;

-- name: cancel
-- Of another tenant's notification nothing is touched. What is leased is on its way already.
WITH mine AS (
    SELECT 1 WHERE NOT EXISTS (SELECT FROM notification WHERE id = $2 AND tenant <> $1)
), marked AS (
    INSERT INTO cancellation (id, at) SELECT $2, $3::bigint FROM mine ON CONFLICT (id) DO NOTHING
)
UPDATE schedule SET ready = $3::bigint
WHERE notification = $2 AND ready > $3::bigint AND handed = 0 AND EXISTS (SELECT FROM mine);

-- name: cancelled
SELECT id FROM cancellation WHERE id = ANY ($1::uuid[]);
