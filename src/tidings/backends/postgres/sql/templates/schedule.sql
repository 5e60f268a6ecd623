-- What changes and cancels what waits for a notification: {day} and {number} as in history.sql.

-- name: changeable
-- A row that was hurried by a cancellation is ready before it is due.
SELECT schedule.id, schedule.notification, schedule.due, schedule.topic, schedule.key, schedule.body
FROM schedule JOIN notification_{day} AS notification ON notification.id = schedule.notification AND notification.tenant = $1
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
    UPDATE notification_{day} AS notification SET body = $8 FROM moved WHERE notification.id = $4 AND notification.tenant = $3
), told AS (
    INSERT INTO event_{day} (id, rank, step, attempt, at, reason, provider, reference, detail, address)
    SELECT $4::uuid, $9::integer, $10::integer, $11::integer, $12::bigint, $13::text, '', '', '', '' FROM moved
), marked AS (
    UPDATE day SET dirty = true FROM moved WHERE number = {number} AND NOT dirty
)
SELECT EXISTS (SELECT FROM moved);

-- name: cancel
-- Of another tenant's notification nothing is touched. What is leased is on its way already.
WITH mine AS (
    SELECT 1 WHERE NOT EXISTS (SELECT FROM notification_{day} WHERE id = $2 AND tenant <> $1)
), marked AS (
    INSERT INTO cancellation (id, at) SELECT $2, $3::bigint FROM mine ON CONFLICT (id) DO NOTHING
)
UPDATE schedule SET ready = $3::bigint
WHERE notification = $2 AND ready > $3::bigint AND handed = 0 AND EXISTS (SELECT FROM mine);
