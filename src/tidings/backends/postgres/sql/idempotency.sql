-- name: take
-- Returns a row if the caller now owns the key: the key is new, or older than $6 and so counts as new, or its lease has
-- ended without an answer and the request is the same; then the earlier seed is kept. The seed is the only element of
-- `ids`. `leased_until` is NULL in rows of the previous version.
INSERT INTO idempotency_key AS known (tenant, key, fingerprint, ids, reserved_at, leased_until)
SELECT $1, $2, $3, ARRAY[$4::uuid], now, now + $5::bigint FROM lease_clock() AS now
ON CONFLICT (tenant, key) DO UPDATE SET
    reserved_at = excluded.reserved_at,
    leased_until = excluded.leased_until,
    fingerprint = excluded.fingerprint,
    answer = NULL,
    ids = CASE WHEN known.reserved_at <= excluded.reserved_at - $6::bigint THEN excluded.ids ELSE known.ids END
    WHERE known.reserved_at <= excluded.reserved_at - $6::bigint
        OR (known.answer IS NULL AND known.fingerprint = excluded.fingerprint
            AND coalesce(known.leased_until, known.reserved_at + $5::bigint) <= excluded.reserved_at)
RETURNING ids[1], reserved_at;

-- name: holder
SELECT fingerprint, ids[1], answer FROM idempotency_key WHERE tenant = $1 AND key = $2;

-- name: complete
UPDATE idempotency_key SET answer = $3 WHERE tenant = $1 AND key = $2;

-- name: forget
DELETE FROM idempotency_key WHERE tenant = $1 AND key = $2 AND reserved_at = $3 AND answer IS NULL;

-- name: abandon
UPDATE idempotency_key SET leased_until = reserved_at
WHERE tenant = $1 AND key = $2 AND reserved_at = $3::bigint AND answer IS NULL;

-- name: prune
-- Deletes at most $2 keys that were reserved more than $1 milliseconds ago. A key that is just being reserved again is
-- locked, and is no longer old when the lock ends.
WITH old AS (
    DELETE FROM idempotency_key WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_key WHERE reserved_at < (SELECT lease_clock()) - $1::bigint
        ORDER BY reserved_at LIMIT $2 FOR UPDATE SKIP LOCKED
    )) AND reserved_at < (SELECT lease_clock()) - $1::bigint
    RETURNING 1
)
SELECT count(*) FROM old;
