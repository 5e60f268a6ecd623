-- name: subscriptions
-- The groups that read each topic, and the table of each pair.
SELECT topic, grp, relation FROM queue.subscription;

-- name: subscribe
INSERT INTO queue.subscription (topic, grp, relation) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: leases
-- The seconds until the first lease of each queue ends. By the database's clock, which is the same for every claimer.
SELECT relation, extract(epoch FROM min(until) - clock_timestamp())::float8 FROM queue.claim GROUP BY relation;

-- name: begin
-- Marks these positions of a claim as begun, if its lease has not ended by the database's clock.
UPDATE queue.claim SET begun = begun || $2::integer[] WHERE token = $1 AND until > clock_timestamp() RETURNING 1;

-- name: notify
-- In a transaction of its own that does not wait for the disk. All notifying commits share one lock, so one that waited
-- would delay all others; a lost wake-up costs only two seconds.
SELECT pg_notify('tidings_queue', relation) FROM unnest($1::text[]) AS relation;

-- name: open
-- The oldest open transaction and the first that has not begun.
SELECT 0, pg_snapshot_xmin(now)::text::bigint, pg_snapshot_xmax(now)::text::bigint FROM pg_current_snapshot() AS now;
