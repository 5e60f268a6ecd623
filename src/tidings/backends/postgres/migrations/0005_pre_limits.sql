-- What has passed under caps, a row for each scope (16 octets of BLAKE2b): ids and instants, 24 octets each, and when
-- none of them means anything any more. Rows grow and are rewritten in place.
CREATE TABLE cap_count (
    scope bytea NOT NULL,
    passed bytea NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (scope)
) WITH (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0
);

-- The limits of the API where they differ from the settings, as JSON.
ALTER TABLE tenant ADD COLUMN limits bytea;
ALTER TABLE api_key ADD COLUMN limits bytea;
