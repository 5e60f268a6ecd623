-- name: due
-- Leasing a row moves its `ready` to the lease's end, so that one index finds both due rows (by the caller's clock) and
-- rows whose lease has ended (by the database's clock). By ctid for the reason given at the statement `claim` of a
-- queue.
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
-- Leased rows are on their way already.
UPDATE schedule SET due = $3::bigint, ready = $3::bigint
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM schedule WHERE held AND topic = $1 AND ready > $3::bigint AND handed = 0 AND NOT leased
    ORDER BY ready LIMIT $2 FOR UPDATE SKIP LOCKED
));

-- name: waiting
SELECT id, notification, due, topic, key, body FROM schedule WHERE notification = ANY ($1::uuid[]) ORDER BY due, id;

-- name: prune_cancellations
-- By the primary key: ids begin with the instant at which the notification was accepted.
WITH old AS (
    DELETE FROM cancellation WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM cancellation WHERE id < first_id($1) AND at < $1
        ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM old;
