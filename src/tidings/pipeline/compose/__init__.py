"""Compose: from the body of a request to a checked notification. accept, recur and the API's own writes use it."""
