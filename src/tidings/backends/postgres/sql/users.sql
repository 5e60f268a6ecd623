-- name: upsert
-- Preferences that are not given stay as they are.
INSERT INTO users (tenant, user_id, bucket, profile, preferences, updated_at)
SELECT $1, row.user_id, row.bucket, row.profile, row.preferences, $2
FROM unnest($3::text[], $4::smallint[], $5::bytea[], $6::bytea[]) AS row (user_id, bucket, profile, preferences)
ON CONFLICT (tenant, user_id) DO UPDATE SET
    profile = excluded.profile,
    preferences = coalesce(excluded.preferences, users.preferences),
    updated_at = excluded.updated_at;

-- name: get
SELECT profile, preferences, updated_at FROM users WHERE tenant = $1 AND user_id = $2;

-- name: set_preferences
UPDATE users SET preferences = $3, updated_at = $4 WHERE tenant = $1 AND user_id = $2 RETURNING 1;

-- name: delete
WITH items AS (DELETE FROM inbox_item WHERE tenant = $1 AND user_id = $2)
DELETE FROM users WHERE tenant = $1 AND user_id = $2 RETURNING 1;

-- name: people
SELECT users.tenant, users.user_id, users.profile, users.preferences
FROM unnest($1::text[], $2::text[]) AS wanted (tenant, user_id)
JOIN users USING (tenant, user_id);

-- name: suppressed
SELECT suppression.tenant, suppression.channel, suppression.address, suppression.reason
FROM unnest($1::text[], $2::text[], $3::text[]) AS asked (tenant, channel, address)
JOIN suppression USING (tenant, channel, address);

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
