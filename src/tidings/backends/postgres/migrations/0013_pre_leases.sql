-- Leases end by the database's clock, which all processes share: one whose own is wrong neither keeps nor takes any. When
-- something is due is still what the process says: a moment in people's lives, not a claim on a row.

CREATE FUNCTION lease_clock() RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- Whether `ready` is the end of a lease, by that clock.
ALTER TABLE schedule ADD COLUMN leased boolean NOT NULL DEFAULT false;
ALTER TABLE recurrence ADD COLUMN leased boolean NOT NULL DEFAULT false;

-- NULL: reserved by the version before, and leased from `reserved_at` on.
ALTER TABLE idempotency_key ADD COLUMN leased_until bigint;
