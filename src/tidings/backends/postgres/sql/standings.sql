-- name: look_up
-- One statement instead of three: at low rates its round trips are most of the cost of a delivery.
SELECT 'person' AS kind, users.tenant, users.user_id AS name, users.profile, users.preferences, users.incarnation,
    NULL::text AS value, NULL::text AS reason, NULL::uuid AS id
FROM unnest($1::text[], $2::text[]) AS wanted (tenant, user_id)
JOIN users USING (tenant, user_id)
UNION ALL
SELECT 'suppressed', suppression.tenant, suppression.channel, NULL, NULL, NULL, suppression.address, suppression.reason, NULL
FROM unnest($3::text[], $4::text[], $5::text[]) AS asked (tenant, channel, address)
JOIN suppression USING (tenant, channel, address)
UNION ALL
SELECT 'cancelled', NULL, NULL, NULL, NULL, NULL, NULL, NULL, id
FROM cancellation WHERE id = ANY ($6::uuid[]);
