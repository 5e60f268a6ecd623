-- name: subscriptions
-- Which groups read which topic, and in which table each finds its items.
SELECT topic, grp, relation FROM queue.subscription;

-- name: subscribe
INSERT INTO queue.subscription (topic, grp, relation) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: leases
-- How many seconds the first lease of each queue still has. The clock is the database's: every claimer has the same.
SELECT relation, extract(epoch FROM min(until) - clock_timestamp())::float8 FROM queue.claim GROUP BY relation;

-- name: begin
-- These positions of a claim are about to be handed over. Only while the lease stands, by the clock that ends it.
UPDATE queue.claim SET begun = begun || $2::integer[] WHERE token = $1 AND until > clock_timestamp() RETURNING 1;

-- name: notify
-- In a transaction of its own that waits for no disk: a wake-up that is lost costs a second, a commit that waits for the
-- lock of all notifiers costs every one of them.
SELECT pg_notify('tidings_queue', relation) FROM unnest($1::text[]) AS relation;

-- name: open
-- The oldest transaction that is open, and the first that has not begun.
SELECT 0, pg_snapshot_xmin(now)::text::bigint, pg_snapshot_xmax(now)::text::bigint FROM pg_current_snapshot() AS now;
