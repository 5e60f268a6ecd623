"""PostgreSQL: the queue, the store, and the supervisor of a bundled server."""
