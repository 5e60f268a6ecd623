-- name: take
-- A row comes back when the key is ours: new, or so old ($7) that it counts as new, or abandoned by an earlier try of the
-- same request, whose seed is then kept. The seed is the only element of `ids`.
INSERT INTO idempotency_key AS known (tenant, key, fingerprint, ids, reserved_at)
VALUES ($1, $2, $3, ARRAY[$4::uuid], $5::bigint)
ON CONFLICT (tenant, key) DO UPDATE SET
    reserved_at = excluded.reserved_at,
    fingerprint = excluded.fingerprint,
    answer = NULL,
    ids = CASE WHEN known.reserved_at <= excluded.reserved_at - $7::bigint THEN excluded.ids ELSE known.ids END
    WHERE known.reserved_at <= excluded.reserved_at - $7::bigint
        OR (known.answer IS NULL AND known.fingerprint = excluded.fingerprint
            AND known.reserved_at <= excluded.reserved_at - $6::bigint)
RETURNING ids[1];

-- name: holder
SELECT fingerprint, ids[1], answer FROM idempotency_key WHERE tenant = $1 AND key = $2;

-- name: complete
UPDATE idempotency_key SET answer = $3 WHERE tenant = $1 AND key = $2;

-- name: forget
DELETE FROM idempotency_key WHERE tenant = $1 AND key = $2 AND reserved_at = $3 AND answer IS NULL;

-- name: abandon
UPDATE idempotency_key SET reserved_at = reserved_at - $4::bigint
WHERE tenant = $1 AND key = $2 AND reserved_at = $3::bigint AND answer IS NULL;

-- name: sweep
-- Counted in the database, a hundred thousand at most at a time.
WITH old AS (
    DELETE FROM idempotency_key WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency_key WHERE reserved_at < $1 LIMIT 100000
    ))
    RETURNING 1
)
SELECT count(*) FROM old;
