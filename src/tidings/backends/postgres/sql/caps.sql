-- name: lock
-- Every scope's row, locked until the end of the transaction: those that are missing are made. Both halves go through
-- the scopes in their order, so takers wait for each other and never in a circle. A row that another taker committed
-- between this statement's snapshot and its insert is in neither half: the caller ends the transaction and begins again,
-- for to lock it now would be out of order.
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

-- name: sweep
-- A row that a taker holds is in use.
WITH over AS (
    DELETE FROM cap_count WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM cap_count WHERE until <= $1 LIMIT 100000 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM over;
