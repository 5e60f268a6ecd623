-- name: ensure_partitions
SELECT ensure_partitions($1, 1);

-- name: days
-- The days that have leaves, and whether each is one to come, after $1, in which nothing is yet.
SELECT number, number > $1 AND pg_relation_size(
        to_regclass('notification_' || to_char(date '1970-01-01' + number::integer, 'YYYYMMDD'))
    ) = 0
FROM day WHERE state = 'open' ORDER BY number;

-- name: carried
-- Which of these notifications are carried.
SELECT id FROM notification_carried WHERE id = ANY ($1::uuid[]);

-- name: placed
-- What the ledger says about these days.
SELECT number, state FROM day WHERE number = ANY ($1::bigint[]);

-- name: days_without
-- Days whose sums hold, and say that the tenant $1 has nothing in one of the states $3: no deliveries ($2) or no
-- notifications.
SELECT number FROM day
WHERE state = 'open' AND NOT dirty AND rolled_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM day_account
    WHERE tenant = $1 AND day = day.number AND NOT archived AND (channel <> '') = $2 AND day_account.state = ANY ($3::text[])
);
