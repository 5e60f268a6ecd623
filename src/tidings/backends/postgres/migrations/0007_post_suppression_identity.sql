-- The list goes by an address's identity (policy/addresses.py), in which an email address has no capitals: rows that were
-- stored as somebody spelled them would not be found any more. The first reason stays.
INSERT INTO suppression (tenant, channel, address, reason, at)
    SELECT DISTINCT ON (tenant, channel, lower(address)) tenant, channel, lower(address), reason, at
    FROM suppression WHERE channel = 'email' AND address <> lower(address)
    ORDER BY tenant, channel, lower(address), at
    ON CONFLICT (tenant, channel, address) DO NOTHING;
DELETE FROM suppression WHERE channel = 'email' AND address <> lower(address);
