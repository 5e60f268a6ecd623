-- name: ensure_partitions
SELECT ensure_partitions($1, 1);

-- name: days
-- The days that have leaves; for each whether it comes after $1 and is still empty.
SELECT number, number > $1 AND pg_relation_size(
        to_regclass('notification_' || to_char(date '1970-01-01' + number::integer, 'YYYYMMDD'))
    ) = 0
FROM day WHERE state = 'open' ORDER BY number;

-- name: carried
-- Those of these notifications that are carried.
SELECT id FROM notification_carried WHERE id = ANY ($1::uuid[]);

-- name: placed
-- The states of these days.
SELECT number, state FROM day WHERE number = ANY ($1::bigint[]);

-- name: days_without
-- Days whose sums hold and show that the tenant $1 has no deliveries ($2 true) or no notifications ($2 false) in any of
-- the states $3.
SELECT number FROM day
WHERE state = 'open' AND NOT dirty AND rolled_at IS NOT NULL AND NOT EXISTS (
    SELECT FROM day_account
    WHERE tenant = $1 AND day = day.number AND NOT archived AND (channel <> '') = $2
        AND day_account.state = ANY ($3::text[])
);
