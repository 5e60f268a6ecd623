-- A user who is deleted and created anew is another person: the number tells the two apart. Those who are here already
-- have the number 0, which no user gets afterwards.
ALTER TABLE users ADD COLUMN incarnation bigint NOT NULL DEFAULT 0;

-- Whose a device is: within a tenant, the user's who registered it last. `digest` is the SHA-256 of the token, which may
-- be longer than an index takes. A row changes only under the lock of its owner's row in `users`.
CREATE TABLE device (
    tenant text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, digest)
);

CREATE INDEX device_user ON device (tenant, user_id);
