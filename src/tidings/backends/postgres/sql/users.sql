-- name: upsert
-- Preferences stay if none are given. A row whose stored incarnation is one of $7 is new: its inbox is emptied, because
-- a deleted user of the same id may have got items at the last moment. Devices that are not among $8 are given up; the
-- join locks the user's row before the device's.
WITH stored AS (
    INSERT INTO users (tenant, user_id, bucket, profile, preferences, updated_at, incarnation)
    SELECT $1, row.user_id, row.bucket, row.profile, row.preferences, $2, row.incarnation
    FROM unnest($3::text[], $4::smallint[], $5::bytea[], $6::bytea[], $7::bigint[])
        AS row (user_id, bucket, profile, preferences, incarnation)
    ON CONFLICT (tenant, user_id) DO UPDATE SET
        profile = excluded.profile,
        preferences = coalesce(excluded.preferences, users.preferences),
        updated_at = excluded.updated_at
    RETURNING user_id, incarnation
), given_up AS (
    DELETE FROM device USING stored
    WHERE device.tenant = $1 AND device.user_id = stored.user_id AND device.digest <> ALL ($8::bytea[])
)
DELETE FROM inbox_item USING stored
WHERE inbox_item.tenant = $1 AND inbox_item.user_id = stored.user_id AND stored.incarnation = ANY ($7::bigint[]);

-- name: get
SELECT profile, preferences, updated_at FROM users WHERE tenant = $1 AND user_id = $2;

-- name: set_preferences
UPDATE users SET preferences = $3, updated_at = $4 WHERE tenant = $1 AND user_id = $2 RETURNING 1;

-- name: delete
WITH gone AS (
    DELETE FROM users WHERE tenant = $1 AND user_id = $2 RETURNING user_id
), devices AS (
    DELETE FROM device USING gone WHERE device.tenant = $1 AND device.user_id = gone.user_id
), items AS (
    DELETE FROM inbox_item WHERE tenant = $1 AND user_id = $2
)
SELECT 1 FROM gone;

-- name: people
SELECT users.tenant, users.user_id, users.profile, users.preferences, users.incarnation
FROM unnest($1::text[], $2::text[]) AS wanted (tenant, user_id)
JOIN users USING (tenant, user_id);

-- name: known
SELECT user_id, incarnation FROM users WHERE tenant = $1 AND user_id = ANY ($2::text[]);

-- name: suppress
INSERT INTO suppression (tenant, channel, address, reason, at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
ON CONFLICT (tenant, channel, address) DO NOTHING;

-- name: unsuppress
DELETE FROM suppression WHERE tenant = $1 AND channel = $2 AND address = $3 RETURNING 1;

-- name: suppressions
SELECT channel, address, reason, at FROM suppression
WHERE tenant = $1 AND (channel, address) > ($2, $3)
ORDER BY channel, address LIMIT $4;

-- name: queue_up
-- Transactions that claim the same devices wait for each other here, in one order. Many tokens share few lock numbers,
-- so that a large batch does not fill the server's lock table.
SELECT pg_advisory_xact_lock(hashtext('device ' || $1::text), stripe)
FROM unnest($2::integer[]) WITH ORDINALITY AS wanted (stripe, place)
ORDER BY place;

-- name: owners
SELECT DISTINCT user_id FROM device WHERE tenant = $1 AND digest = ANY ($2::bytea[]);

-- name: lock_users
-- In one order, so that two transactions that exchange devices wait for each other instead of deadlocking.
SELECT users.tenant, users.user_id, users.profile
FROM users
JOIN unnest($1::text[], $2::text[]) AS wanted (tenant, user_id) USING (tenant, user_id)
ORDER BY users.tenant, users.user_id
FOR UPDATE OF users;

-- name: replace_profiles
UPDATE users SET profile = row.profile, updated_at = greatest(users.updated_at, $4)
FROM unnest($1::text[], $2::text[], $3::bytea[]) AS row (tenant, user_id, profile)
WHERE users.tenant = row.tenant AND users.user_id = row.user_id;

-- name: take
INSERT INTO device (tenant, digest, user_id) SELECT $1, * FROM unnest($2::bytea[], $3::text[])
ON CONFLICT (tenant, digest) DO UPDATE SET user_id = excluded.user_id WHERE device.user_id <> excluded.user_id;

-- name: usable_again
DELETE FROM suppression
WHERE tenant = $1 AND channel = 'push' AND address = ANY ($2::text[]) AND reason = ANY ($3::text[]);

-- name: owners_of
SELECT device.tenant, device.user_id
FROM unnest($1::text[], $2::bytea[]) AS gone (tenant, digest)
JOIN device USING (tenant, digest);

-- name: forget
-- Only if the device still belongs to the same user: a user who has registered it since means to use it.
DELETE FROM device USING unnest($1::text[], $2::bytea[], $3::text[]) AS gone (tenant, digest, user_id)
WHERE device.tenant = gone.tenant AND device.digest = gone.digest AND device.user_id = gone.user_id;
