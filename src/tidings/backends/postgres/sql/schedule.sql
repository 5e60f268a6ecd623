-- name: due
-- Leasing a row moves its `ready` to the lease's end, so that one index finds what is due and what was abandoned: the one
-- by the caller's clock, the other by the database's. By ctid for the reason given at the queue's claim.
UPDATE schedule SET ready = lease_clock() + $3::bigint, leased = true, handed = handed + 1
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM schedule
    WHERE ready <= greatest($1::bigint, (SELECT lease_clock()))
        AND ready <= CASE WHEN leased THEN (SELECT lease_clock()) ELSE $1::bigint END
    ORDER BY ready LIMIT $2 FOR UPDATE SKIP LOCKED
))
RETURNING id, due, topic, key, body, handed > 1;

-- name: settle
DELETE FROM schedule WHERE id = ANY ($1::uuid[]);

-- name: next_due
SELECT min(ready) FROM schedule;

-- name: held
SELECT topic, count(*) FROM (SELECT topic FROM schedule WHERE held LIMIT $1) AS waiting GROUP BY topic;

-- name: bring_forward
-- What is leased is on its way already.
UPDATE schedule SET due = $3::bigint, ready = $3::bigint
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM schedule WHERE held AND topic = $1 AND ready > $3::bigint AND handed = 0
    ORDER BY ready LIMIT $2 FOR UPDATE SKIP LOCKED
));

-- name: waiting
SELECT id, notification, due, topic, key, body FROM schedule WHERE notification = ANY ($1::uuid[]) ORDER BY due, id;

-- name: changeable
-- A row that was hurried by a cancellation is ready before it is due.
SELECT schedule.id, schedule.notification, schedule.due, schedule.topic, schedule.key, schedule.body
FROM schedule JOIN notification ON notification.id = schedule.notification AND notification.tenant = $1
WHERE schedule.notification = $2 AND schedule.topic = ANY ($3::text[])
    AND schedule.handed = 0 AND schedule.ready = schedule.due;

-- name: change
-- All conditions are the row's own: when this waits for a cancellation or for whoever takes the row, they are checked
-- again on what that left. So exactly one of the three wins.
WITH moved AS (
    UPDATE schedule SET due = $5::bigint, ready = $5::bigint, topic = $6, body = $7
    WHERE id = $1 AND body = $2 AND handed = 0 AND ready = due
    RETURNING id
), noted AS (
    UPDATE notification SET body = $8 FROM moved WHERE notification.id = $4 AND notification.tenant = $3
), told AS (
    INSERT INTO event (id, rank, step, attempt, at, reason, provider, reference, detail, address)
    SELECT $4::uuid, $9::integer, $10::integer, $11::integer, $12::bigint, $13::text, '', '', '', '' FROM moved
)
SELECT EXISTS (SELECT FROM moved);

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

-- name: sweep_cancellations
-- By the key: ids begin with the instant at which the notification was accepted.
WITH old AS (
    DELETE FROM cancellation WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM cancellation WHERE id < first_id($1) AND at < $1
        ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM old;
