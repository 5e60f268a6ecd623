-- name: add
INSERT INTO tenant (id, name, created_at, limits) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING RETURNING 1;

-- name: list
SELECT id, name, created_at, limits FROM tenant ORDER BY id;

-- name: limit
UPDATE tenant SET limits = $2 WHERE id = $1 RETURNING 1;

-- name: add_key
INSERT INTO api_key (id, tenant, prefix, digest, scopes, name, created_at, revoked_at, limits)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: known
SELECT api_key.id, tenant, prefix, digest, scopes, api_key.name, api_key.created_at, revoked_at, api_key.limits,
    tenant.limits
FROM api_key JOIN tenant ON tenant.id = api_key.tenant WHERE digest = ANY ($1::bytea[]);

-- name: keys
SELECT id, tenant, prefix, digest, scopes, name, created_at, revoked_at, limits FROM api_key
WHERE tenant = $1 ORDER BY created_at DESC, id DESC;

-- name: revoke
-- A revoked key keeps its first instant.
UPDATE api_key SET revoked_at = coalesce(revoked_at, $3) WHERE tenant = $1 AND id = $2 RETURNING 1;

-- name: put_category
INSERT INTO category (tenant, name, critical, allow_doubles, description, rules) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant, name) DO UPDATE SET critical = excluded.critical, allow_doubles = excluded.allow_doubles,
    description = excluded.description, rules = excluded.rules;

-- name: delete_category
DELETE FROM category WHERE tenant = $1 AND name = $2 RETURNING 1;

-- name: categories
SELECT name, critical, allow_doubles, description, rules FROM category WHERE tenant = $1 ORDER BY name;
