-- name: ensure_partitions
SELECT ensure_partitions($1, 1);

-- name: days
-- The days that have leaves.
SELECT number FROM day WHERE state = 'open' ORDER BY number;

-- name: carried
-- Which of these notifications are carried.
SELECT id FROM notification_carried WHERE id = ANY ($1::uuid[]);

-- name: placed
-- What the ledger says about these days.
SELECT number, state FROM day WHERE number = ANY ($1::bigint[]);
