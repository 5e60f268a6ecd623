-- name: take
-- A row comes back when the key is ours: new (no older version of the row, xmax 0), or abandoned by an earlier try of
-- the same request, whose ids are then kept.
INSERT INTO idempotency_key AS known (tenant, key, fingerprint, ids, reserved_at)
VALUES ($1, $2, $3, $4::uuid[], $5::bigint)
ON CONFLICT (tenant, key) DO UPDATE SET reserved_at = excluded.reserved_at
    WHERE known.answer IS NULL AND known.fingerprint = excluded.fingerprint
        AND known.reserved_at <= excluded.reserved_at - $6::bigint
RETURNING ids, xmax <> 0;

-- name: holder
SELECT fingerprint, ids, answer FROM idempotency_key WHERE tenant = $1 AND key = $2;

-- name: complete
UPDATE idempotency_key SET answer = $3 WHERE tenant = $1 AND key = $2;

-- name: forget
DELETE FROM idempotency_key WHERE tenant = $1 AND key = $2;

-- name: sweep
-- Counted in the database, a hundred thousand at most at a time.
WITH old AS (
    DELETE FROM idempotency_key WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_key WHERE reserved_at < $1 LIMIT 100000
    ))
    RETURNING 1
)
SELECT count(*) FROM old;
