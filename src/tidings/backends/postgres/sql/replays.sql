-- part: columns
id, tenant, filter, per_second, key_id, key_prefix, created_at, expected,
state, found, replayed, skipped, started_at, finished_at, position, next_due, token

-- name: add
INSERT INTO replay ({columns}, ready)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $7)
ON CONFLICT (tenant, id) DO NOTHING;

-- name: get
SELECT {columns}
FROM replay WHERE tenant = $1 AND id = $2;

-- name: list
SELECT {columns}
FROM replay WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3;

-- name: cancel
UPDATE replay SET state = 'cancelled', finished_at = $3
WHERE tenant = $1 AND id = $2 AND state IN ('waiting', 'running')
RETURNING id;

-- name: claim
-- As in the table schedule, a lease moves `ready` to its end, by the database's clock. By ctid for the reason given at
-- the statement `claim` of a queue.
UPDATE replay SET state = 'running', started_at = coalesce(started_at, $1), token = $3,
    ready = lease_clock() + $2::bigint
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM replay
    WHERE state IN ('waiting', 'running') AND ready <= greatest($1::bigint, (SELECT lease_clock()))
        AND ready <= CASE WHEN token IS NULL THEN $1::bigint ELSE (SELECT lease_clock()) END
    ORDER BY ready LIMIT 1 FOR UPDATE SKIP LOCKED
))
RETURNING {columns};

-- name: progress
UPDATE replay SET found = $4, replayed = $5, skipped = $6, position = $7, next_due = $8, ready = $9, token = NULL,
    state = CASE WHEN state = 'running' THEN $10 ELSE state END,
    finished_at = CASE WHEN state = 'running' THEN $11::bigint ELSE finished_at END
WHERE tenant = $1 AND id = $2 AND token = $3
RETURNING id;

-- name: prune
-- Without an index: people make replays by hand, so there are few.
WITH old AS (
    DELETE FROM replay WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM replay WHERE finished_at < $1 AND state NOT IN ('waiting', 'running')
        LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM old;
