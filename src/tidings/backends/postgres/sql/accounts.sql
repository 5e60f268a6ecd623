-- name: count
-- A row is the total so far of one counter, so writing it again, or an older one later, changes nothing. Also marks the
-- days, whose sums no longer hold (templates/history.sql says why no reader misses the mark).
WITH marked AS (
    UPDATE day SET dirty = true WHERE number = ANY ($5::bigint[]) AND NOT dirty
)
INSERT INTO accepted_count (minute, tenant, counter, count)
SELECT minute, tenant, $1, count FROM unnest($2::bigint[], $3::text[], $4::bigint[]) AS counted (minute, tenant, count)
ON CONFLICT (minute, tenant, counter) DO UPDATE SET count = greatest(accepted_count.count, excluded.count);

-- name: accepted
SELECT tenant, minute, sum(count)::bigint FROM accepted_count
WHERE minute >= $1 AND minute < $2 GROUP BY minute, tenant ORDER BY minute, tenant;

-- name: accepted_of_tenant
SELECT tenant, minute, sum(count)::bigint FROM accepted_count
WHERE tenant = $3 AND minute >= $1 AND minute < $2 GROUP BY tenant, minute ORDER BY minute;

-- name: prune_counts
WITH old AS (
    DELETE FROM accepted_count WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM accepted_count WHERE minute < $1
        ORDER BY minute LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM old;

-- name: mark_gaps
WITH given AS (
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::boolean[])
        AS gap (minute, tenant, missing, confirmed)
), closed AS (
    DELETE FROM accounting_gap USING given
    WHERE accounting_gap.minute = given.minute AND accounting_gap.tenant = given.tenant AND given.missing <= 0
)
INSERT INTO accounting_gap (minute, tenant, missing, confirmed) SELECT * FROM given WHERE missing > 0
ON CONFLICT (minute, tenant) DO UPDATE SET missing = excluded.missing, confirmed = excluded.confirmed;

-- name: prune_gaps
WITH old AS (
    DELETE FROM accounting_gap WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM accounting_gap WHERE minute < $1 AND confirmed
        ORDER BY minute LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM old;

-- name: gaps
SELECT tenant, minute, missing, confirmed FROM accounting_gap
WHERE $1::text IS NULL OR tenant = $1 ORDER BY minute, tenant;

-- name: watch
INSERT INTO watched (notification, look_at) SELECT * FROM unnest($1::uuid[], $2::bigint[])
ON CONFLICT (notification) DO UPDATE SET look_at = excluded.look_at;

-- name: watched_due
SELECT notification FROM watched WHERE look_at <= $1 ORDER BY look_at LIMIT $2;

-- name: unwatch
DELETE FROM watched WHERE notification = ANY ($1::uuid[]);

-- name: begin
-- The holder renews its lease at any time; another holder gets it only after the lease has ended by the database's
-- clock.
INSERT INTO round (name, holder, until, position) VALUES ($1, $2, lease_clock() + $3::bigint, 0)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE round.holder = excluded.holder OR round.until <= lease_clock()
RETURNING position;

-- name: advance
UPDATE round SET position = $3 WHERE name = $1 AND holder = $2 RETURNING 1;

-- name: release
UPDATE round SET until = 0 WHERE name = $1 AND holder = $2;
