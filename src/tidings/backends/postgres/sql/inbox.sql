-- part: columns
id, title, body, link, category, created_at, seen_at, read_at, archived_at

-- name: add
INSERT INTO inbox_item (tenant, user_id, {columns})
SELECT $1, * FROM unnest(
    $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[]
)
ON CONFLICT (tenant, user_id, id) DO NOTHING;

-- name: list
SELECT {columns}
FROM inbox_item
WHERE tenant = $1 AND user_id = $2 AND id < $3
    AND ($5::boolean OR archived_at IS NULL) AND NOT ($6::boolean AND read_at IS NOT NULL)
ORDER BY id DESC LIMIT $4;

-- name: list_unread
-- A statement of its own, so that the planner uses the index of unread items: in `list` an argument decides.
SELECT {columns}
FROM inbox_item
WHERE tenant = $1 AND user_id = $2 AND id < $3 AND read_at IS NULL AND archived_at IS NULL
ORDER BY id DESC LIMIT $4;

-- name: unread
SELECT count(*) FROM inbox_item WHERE tenant = $1 AND user_id = $2 AND read_at IS NULL AND archived_at IS NULL;

-- name: remove
DELETE FROM inbox_item WHERE tenant = $1 AND user_id = $2 AND created_at < $3 RETURNING 1;

-- name: mark
-- A field that is set keeps its first instant. $3 NULL means all items of the user.
UPDATE inbox_item SET
    seen_at = CASE WHEN $4::text = 'seen_at' THEN $5 ELSE seen_at END,
    read_at = CASE WHEN $4::text = 'read_at' THEN $5 ELSE read_at END,
    archived_at = CASE WHEN $4::text = 'archived_at' THEN $5 ELSE archived_at END
WHERE tenant = $1 AND user_id = $2 AND ($3::uuid[] IS NULL OR id = ANY ($3::uuid[]))
    AND (CASE $4::text WHEN 'seen_at' THEN seen_at WHEN 'read_at' THEN read_at ELSE archived_at END IS NULL)
        <> ($5::bigint IS NULL)
RETURNING 1;

-- name: prune
-- By the index on ids, which begin with their instant. An item that was accepted long ago but shown lately stays.
WITH old AS (
    DELETE FROM inbox_item WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM inbox_item WHERE id < first_id($1) AND created_at < $1
        ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM old;

-- name: trim
-- For each user with an item from $1 to $2: deletes the items after the $3 newest, at most $4 in all.
WITH users AS (
    SELECT DISTINCT tenant, user_id FROM inbox_item WHERE id >= first_id($1) AND id < first_id($2)
), beyond AS (
    SELECT users.tenant, users.user_id, newest.id
    FROM users CROSS JOIN LATERAL (
        SELECT id FROM inbox_item WHERE tenant = users.tenant AND user_id = users.user_id
        ORDER BY id DESC OFFSET $3 LIMIT 1
    ) AS newest
), gone AS (
    DELETE FROM inbox_item WHERE ctid = ANY (ARRAY(
        SELECT item.ctid FROM beyond JOIN inbox_item AS item
            ON item.tenant = beyond.tenant AND item.user_id = beyond.user_id AND item.id <= beyond.id
        LIMIT $4 FOR UPDATE OF item SKIP LOCKED
    ))
    RETURNING 1
)
SELECT count(*) FROM gone;
