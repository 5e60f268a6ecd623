"""The HTTP API, one file a resource: the only room that knows status codes."""
