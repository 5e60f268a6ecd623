-- part: columns
body, local, due, fired_at, skipped, problem

-- name: add
INSERT INTO recurrence (id, tenant, revision, body, local, due, ready, fired_at, skipped, problem)
VALUES ($1, $2, $3, $4, $5, $6::bigint, $6::bigint, $7, $8, $9);

-- name: get
SELECT {columns} FROM recurrence WHERE id = $2 AND tenant = $1;

-- name: list
SELECT {columns} FROM recurrence
WHERE tenant = $1 AND id < $2 ORDER BY id DESC LIMIT $3;

-- name: replace
-- The next occurrence and its lease stay, so that an occurrence under way is not sent twice.
UPDATE recurrence SET revision = $2, body = $3 WHERE id = $1 AND revision = $2 - 1 RETURNING 1;

-- name: replace_moving
-- Moves the next occurrence from ($4, $5) to ($6, $7). If the two are equal, the lease stays too.
UPDATE recurrence SET revision = $2, body = $3, local = $6, due = $7::bigint, problem = $8,
    ready = CASE WHEN local = $6 AND due = $7::bigint THEN ready ELSE $7::bigint END,
    handed = CASE WHEN local = $6 AND due = $7::bigint THEN handed ELSE 0 END,
    leased = CASE WHEN local = $6 AND due = $7::bigint THEN leased ELSE false END
WHERE id = $1 AND revision = $2 - 1 AND local IS NOT DISTINCT FROM $4 AND due IS NOT DISTINCT FROM $5::bigint
RETURNING 1;

-- name: delete
DELETE FROM recurrence WHERE id = $2 AND tenant = $1 RETURNING 1;

-- name: due
-- As `due` of the schedule.
UPDATE recurrence SET ready = lease_clock() + $3::bigint, leased = true, handed = handed + 1
WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM recurrence
    WHERE ready <= greatest($1::bigint, (SELECT lease_clock()))
        AND ready <= CASE WHEN leased THEN (SELECT lease_clock()) ELSE $1::bigint END
    ORDER BY ready LIMIT $2 FOR UPDATE SKIP LOCKED
))
RETURNING due AS first, id, handed > 1 AS repeated, {columns};

-- name: park
-- The recurrence has no next occurrence any more, and `problem` says why.
UPDATE recurrence SET local = NULL, due = NULL, ready = NULL, problem = $2 WHERE id = $1;

-- name: settle
-- Only recurrences whose next occurrence is still the one that was handed out.
UPDATE recurrence SET local = moved.local, due = moved.due, ready = moved.due, handed = 0, leased = false,
    fired_at = moved.fired_at, skipped = moved.skipped, problem = moved.problem
FROM unnest(
        $1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::integer[], $8::text[]
    ) AS moved (id, from_local, from_due, local, due, fired_at, skipped, problem)
WHERE recurrence.id = moved.id AND recurrence.local = moved.from_local AND recurrence.due = moved.from_due;

-- name: next_due
SELECT min(ready) FROM recurrence WHERE ready IS NOT NULL;
