"""Adapters in memory, for tests and simulation; the cache and the token buckets also serve one machine."""
