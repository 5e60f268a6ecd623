"""Compose: make a checked notification from the body of a request, for accept, recur and the API's own writes."""
