-- part: minutes_of_day
minute >= $1 * 1440 AND minute < ($1 + 1) * 1440

-- name: clean
UPDATE day SET dirty = false, reader = $2, rolled_at = NULL WHERE number = $1;

-- name: still_clean
-- True if nobody has marked the day, and no other reader has cleared the mark, since the reader $2 cleared it. Locks
-- the row, so that no writer marks the day before this transaction has written its results.
SELECT NOT dirty AND reader = $2, folded FROM day WHERE number = $1 FOR UPDATE;

-- name: changed
-- The closed days that were never rolled up or have changed since, with the instant at which they were rolled up.
SELECT number, rolled_at FROM day WHERE state = 'open' AND number < $1 AND (dirty OR rolled_at IS NULL) ORDER BY number;

-- name: to_fold
SELECT number FROM day WHERE state = 'open' AND number < $1 AND NOT dirty AND NOT folded AND rolled_at IS NOT NULL
ORDER BY number;

-- name: counted
-- Accepted notifications by tenant and minute.
SELECT tenant, minute, sum(count)::bigint FROM accepted_count WHERE minute >= $1 AND minute < $2 GROUP BY tenant, minute;

-- name: take_counted
-- Takes the counts that came in after the day was folded.
DELETE FROM accepted_count WHERE minute >= $1 AND minute < $2 RETURNING tenant, count;

-- name: totals_before
SELECT tenant, counted, accepted FROM day_total WHERE day = $1 AND NOT archived;

-- name: replace_sums
WITH accounts AS (DELETE FROM day_account WHERE day = $1 AND NOT archived)
DELETE FROM day_total WHERE day = $1 AND NOT archived;

-- name: write_totals
INSERT INTO day_total (day, archived, tenant, counted, accepted, recorded, missing)
SELECT $1, $2, * FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
ON CONFLICT (tenant, day, archived) DO UPDATE SET counted = day_total.counted + excluded.counted,
    accepted = day_total.accepted + excluded.accepted, recorded = day_total.recorded + excluded.recorded,
    missing = day_total.missing + excluded.missing;

-- name: write_accounts
INSERT INTO day_account (day, archived, tenant, channel, state, reason, count)
SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
ON CONFLICT (tenant, day, archived, channel, state, reason) DO UPDATE SET count = day_account.count + excluded.count;

-- name: rolled
UPDATE day SET rolled_at = $2 WHERE number = $1;

-- name: fold
-- If the day's sums hold, they include its counts, so the counts of its minutes can go. A gap that may still close
-- needs those counts.
WITH folded AS (
    UPDATE day SET folded = true
    WHERE number = $1 AND NOT dirty AND rolled_at IS NOT NULL AND NOT EXISTS (
        SELECT FROM accounting_gap WHERE {minutes_of_day} AND NOT confirmed
    )
    RETURNING number
)
DELETE FROM accepted_count USING folded WHERE minute >= folded.number * 1440 AND minute < (folded.number + 1) * 1440;

-- name: open_gaps
SELECT count(*) FROM accounting_gap WHERE {minutes_of_day} AND NOT confirmed;

-- name: missing
SELECT tenant, sum(missing)::bigint FROM accounting_gap WHERE {minutes_of_day}
GROUP BY tenant;

-- name: states
SELECT number, state = 'archived', folded, NOT dirty AND rolled_at IS NOT NULL, passes FROM day
WHERE number BETWEEN $1 AND $2 AND state <> 'carried' ORDER BY number;

-- name: totals
SELECT day, archived, counted, accepted, recorded, missing FROM day_total
WHERE tenant = $1 AND day BETWEEN $2 AND $3;

-- name: accounts
SELECT day, archived, channel, state, reason, count FROM day_account
WHERE tenant = $1 AND day BETWEEN $2 AND $3 ORDER BY day, channel, state, reason;

-- name: drop_carried
-- Between two ids: the copies that an unfinished attempt to archive the day made.
WITH notifications AS (
    DELETE FROM notification_carried WHERE id >= $1 AND id < $2
), letters AS (
    DELETE FROM letter_carried WHERE id >= $1 AND id < $2
)
DELETE FROM event_carried WHERE id >= $1 AND id < $2;

-- name: drop_rested
WITH gone AS (
    DELETE FROM notification_carried WHERE id = ANY ($1::uuid[]) RETURNING id, tenant
), letters AS (
    DELETE FROM letter_carried USING gone
    WHERE letter_carried.tenant = gone.tenant AND letter_carried.id >= gone.id
        AND letter_carried.id <= last_slot(gone.id)
)
DELETE FROM event_carried USING gone WHERE event_carried.id >= gone.id AND event_carried.id <= last_slot(gone.id);

-- name: archive
UPDATE day SET state = 'archived', archived_at = $2, folded = true, passes = passes + 1 WHERE number = $1;

-- name: passed
UPDATE day SET passes = passes + 1 WHERE number = ANY ($1::bigint[]);

-- name: settle_accounts
-- The archived sums now include the day's sums and its missing notifications, so these rows can go.
WITH totals AS (
    DELETE FROM day_total WHERE day = $1 AND NOT archived
), accounts AS (
    DELETE FROM day_account WHERE day = $1 AND NOT archived
), gaps AS (
    DELETE FROM accounting_gap WHERE {minutes_of_day}
)
DELETE FROM accepted_count WHERE {minutes_of_day};

-- name: add_parts
INSERT INTO archive_part (day, name, kind, rows, bytes, sha256, first_tenant, first_id, last_tenant, last_id)
SELECT * FROM unnest(
    $1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::uuid[], $9::text[],
    $10::uuid[]
);

-- name: archived
SELECT number, archived_at FROM day WHERE state = 'archived' AND number BETWEEN $1 AND $2 ORDER BY number;

-- name: parts
SELECT day, name, kind, rows, bytes, sha256, first_tenant, first_id, last_tenant, last_id FROM archive_part
WHERE day BETWEEN $1 AND $2 ORDER BY day, name;

-- name: tenants
SELECT tenant FROM day_total WHERE day = $1 AND archived ORDER BY tenant;

-- name: left_over
-- The remaining tables of sealed days; for each whether it is a partition, and whether detaching it was interrupted.
SELECT relname, inhrelid IS NOT NULL, coalesce(inhdetachpending, false)
FROM pg_class LEFT JOIN pg_inherits ON inhrelid = pg_class.oid
WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    AND relname ~ '^(notification|event|letter)_[0-9]{8}_archived$'
ORDER BY relname;

-- name: lines
SELECT tenant, channel, state, reason, count FROM day_account WHERE day = $1 AND NOT archived;

-- name: totals_of
SELECT tenant, counted, accepted, recorded FROM day_total WHERE day = $1 AND NOT archived;

-- name: has_default
-- The default partition is there until the `post` migrations have run; while it exists, no partition can be detached.
SELECT to_regclass('notification_default') IS NOT NULL;
