-- Changes and cancels waiting notifications. {day} and {number} are as in history.sql.

-- name: changeable
-- A cancellation makes a row ready before it is due; such a row can no longer be changed.
SELECT schedule.id, schedule.notification, schedule.due, schedule.topic, schedule.key, schedule.body
FROM schedule
JOIN notification_{day} AS notification ON notification.id = schedule.notification AND notification.tenant = $1
WHERE schedule.notification = $2 AND schedule.topic = ANY ($3::text[])
    AND schedule.handed = 0 AND schedule.ready = schedule.due;

-- name: change
-- All conditions are on the row itself, so PostgreSQL checks them again after it waited for a cancellation or for a
-- worker that leases the row. So exactly one of the three wins.
WITH moved AS (
    UPDATE schedule SET due = $5::bigint, ready = $5::bigint, topic = $6, body = $7
    WHERE id = $1 AND body = $2 AND handed = 0 AND ready = due
    RETURNING id
), amended AS (
    UPDATE notification_{day} AS notification SET body = $8 FROM moved
    WHERE notification.id = $4 AND notification.tenant = $3
), recorded AS (
    INSERT INTO event_{day} (id, rank, step, attempt, at, reason, provider, reference, detail, address)
    SELECT $4::uuid, $9::integer, $10::integer, $11::integer, $12::bigint, $13::text, '', '', '', '' FROM moved
), marked AS (
    UPDATE day SET dirty = true FROM moved WHERE number = {number} AND NOT dirty
)
SELECT EXISTS (SELECT FROM moved);

-- name: cancel
-- Touches nothing if the notification is another tenant's. Leased rows are on their way already and stay.
WITH mine AS (
    SELECT 1 WHERE NOT EXISTS (SELECT FROM notification_{day} WHERE id = $2 AND tenant <> $1)
), marked AS (
    INSERT INTO cancellation (id, at) SELECT $2, $3::bigint FROM mine ON CONFLICT (id) DO NOTHING
)
UPDATE schedule SET ready = $3::bigint
WHERE notification = $2 AND ready > $3::bigint AND handed = 0 AND NOT leased AND EXISTS (SELECT FROM mine);
