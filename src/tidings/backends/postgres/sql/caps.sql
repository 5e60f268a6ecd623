-- name: lock
-- Inserts the missing rows of the scopes and locks all of them until the end of the transaction. Both halves go through
-- the scopes in the same order, so that callers wait for each other and never deadlock. A row that another caller
-- committed between this statement's snapshot and its insert is in neither half. The caller then ends the transaction
-- and begins again, because locking that row now would be out of order.
WITH wanted AS (
    SELECT scope FROM unnest($1::bytea[]) AS scope ORDER BY scope
), made AS (
    INSERT INTO cap_count (scope, passed, until) SELECT scope, '', 0 FROM wanted
    ON CONFLICT (scope) DO NOTHING
    RETURNING scope, passed
), locked AS (
    SELECT scope, passed FROM cap_count WHERE scope = ANY ($1::bytea[]) ORDER BY scope FOR UPDATE
)
SELECT scope, passed FROM made UNION ALL SELECT scope, passed FROM locked;

-- name: write
UPDATE cap_count SET passed = new.passed, until = greatest(cap_count.until, new.until)
FROM unnest($1::bytea[], $2::bytea[], $3::bigint[]) AS new (scope, passed, until)
WHERE cap_count.scope = new.scope;

-- name: prune
-- A locked row is in use.
WITH over AS (
    DELETE FROM cap_count WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM cap_count WHERE until <= $1 LIMIT 100000 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM over;
