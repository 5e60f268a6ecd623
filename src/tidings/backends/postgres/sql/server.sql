-- name: server
SELECT current_setting('server_version_num')::integer / 10000,
    (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = current_database()),
    current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean,
    current_setting('synchronous_commit'), current_setting('synchronous_standby_names');

-- name: process
-- The process id of the server's process for this connection.
SELECT pg_backend_pid();

-- name: room
-- How many clients the server accepts, how many are connected, and how many of those are ours. Of other roles' sessions
-- only the existence is visible.
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::integer,
    (SELECT count(*) FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND application_name ^@ 'tidings')::integer;

-- name: pulse
-- True if the server only reads.
SELECT current_setting('transaction_read_only')::boolean;
