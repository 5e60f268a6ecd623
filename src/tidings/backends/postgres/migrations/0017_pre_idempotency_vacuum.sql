-- Every key is deleted after a day, so at any time the dead rows are as many as the deleted ones since the last vacuum: at
-- the usual fifth of the table that would be millions, all at once.
ALTER TABLE idempotency_key SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_scale_factor = 0.1
);
