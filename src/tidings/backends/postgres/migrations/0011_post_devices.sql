-- Of the profiles that have the same device, the one that was written last keeps it; the others lose it.
INSERT INTO device (tenant, digest, user_id)
    SELECT DISTINCT ON (users.tenant, token) users.tenant, sha256(convert_to(token, 'UTF8')), users.user_id
    FROM users, json_array_elements_text(convert_from(users.profile, 'UTF8')::json -> 'devices') AS token
    ORDER BY users.tenant, token, users.updated_at DESC, users.user_id
    ON CONFLICT (tenant, digest) DO UPDATE SET user_id = excluded.user_id;

UPDATE users SET profile = convert_to(
        jsonb_set(
            convert_from(users.profile, 'UTF8')::jsonb,
            '{devices}',
            (
                SELECT coalesce(jsonb_agg(token ORDER BY place), '[]')
                FROM json_array_elements_text(convert_from(users.profile, 'UTF8')::json -> 'devices')
                    WITH ORDINALITY AS listed (token, place)
                JOIN device ON device.tenant = users.tenant AND device.digest = sha256(convert_to(token, 'UTF8'))
                WHERE device.user_id = users.user_id
            )
        )::text,
        'UTF8'
    )
    WHERE EXISTS (
        SELECT FROM json_array_elements_text(convert_from(users.profile, 'UTF8')::json -> 'devices') AS token
        JOIN device ON device.tenant = users.tenant AND device.digest = sha256(convert_to(token, 'UTF8'))
        WHERE device.user_id <> users.user_id
    );
